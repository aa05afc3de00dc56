// Included once per SIMD level.
#include "project_gradients.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Four independent accumulators a sum hide the latency of the addition.
template <class T>
inline InnerProducts products_of(const T* g, const T* r, int64_t count) {
  constexpr int64_t lanes = kLanes<double>, step = 4 * lanes;
  Vector<double> dots[4] = {}, squares[4] = {};
  const auto add = [&](int s, int64_t i) {
    const Vector<double> x = load_wide(g + i), y = load_wide(r + i);
    dots[s] = multiply_add<double>(x, y, dots[s]);
    squares[s] = multiply_add<double>(y, y, squares[s]);
  };
  int64_t i = 0;
  for (; i + step <= count; i += step) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) add(s, i + s * lanes);
  }
  for (; i + lanes <= count; i += lanes) add(0, i);
  InnerProducts sums{sum_lanes<double>((dots[0] + dots[1]) + (dots[2] + dots[3])),
                     sum_lanes<double>((squares[0] + squares[1]) + (squares[2] + squares[3]))};
  for (; i < count; ++i) {
    const double x = static_cast<double>(g[i]), y = static_cast<double>(r[i]);
    sums.dot += x * y;
    sums.sq_norm += y * y;
  }
  return sums;
}

template <class T>
inline InnerProducts products_of_range(const GradientLists<T>& lists, int64_t begin, int64_t end) {
  InnerProducts sums{0, 0};
  while (begin < end) {
    const Piece piece = piece_at(lists, begin, end);
    const InnerProducts own =
        products_of<T>(lists.grads[piece.tensor] + piece.offset,
                       lists.reference[piece.tensor] + piece.offset, piece.count);
    sums.dot += own.dot;
    sums.sq_norm += own.sq_norm;
    begin += piece.count;
  }
  return sums;
}

template <class T>
inline void subtract_in_range(const GradientLists<T>& lists, double scale, int64_t begin,
                              int64_t end) {
  while (begin < end) {
    const Piece piece = piece_at(lists, begin, end);
    T* g = lists.grads[piece.tensor] + piece.offset;
    const T* r = lists.reference[piece.tensor] + piece.offset;
    const int64_t count = piece.count;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      g[i] = static_cast<T>(static_cast<double>(g[i]) - scale * static_cast<double>(r[i]));
    }
    begin += count;
  }
}

#define CLFAST_PROJECT_GRADIENTS_OF(T)                                                            \
  InnerProducts inner_products(const GradientLists<T>& lists, int64_t begin, int64_t end) {       \
    return products_of_range(lists, begin, end);                                                  \
  }                                                                                               \
  void subtract_scaled(const GradientLists<T>& lists, double scale, int64_t begin, int64_t end) { \
    subtract_in_range(lists, scale, begin, end);                                                  \
  }
CLFAST_PROJECT_GRADIENTS_OF(float)
CLFAST_PROJECT_GRADIENTS_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
