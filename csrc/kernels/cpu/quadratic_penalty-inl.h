// Included once per SIMD level.
#include "quadratic_penalty.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// f(i, lanes, theta - theta*, F) for the vectors of a part; behind its end all of them are 0.
template <class T, class F>
inline __attribute__((always_inline)) void for_distances(const PenaltyTensor<T>& tensor,
                                                         int64_t begin, int64_t end, const F& f) {
  for_vectors<T>(end - begin, [&](int64_t offset, int64_t lanes) {
    const int64_t i = begin + offset;
    const Vector<T> param = load_first(tensor.param + i, lanes, T(0));
    const Vector<T> anchor = load_first(tensor.anchor + i, lanes, T(0));
    f(i, lanes, param - anchor, load_first(tensor.importance + i, lanes, T(0)));
  });
}

template <class T>
inline double penalty_of_part(PenaltyTensor<T> tensor, int64_t begin, int64_t end) {
  Vector<double> sum = {};
  for_distances(tensor, begin, end,
                [&](int64_t i, int64_t lanes, Vector<T> distance, Vector<T> importance) {
                  sum += joined_halves(penalty_term(distance, importance));
                  if (tensor.grad == nullptr) return;
                  store_first(tensor.grad + i, lanes, penalty_slope(distance, importance));
                });
  return sum_lanes<double>(sum);
}

template <class T>
inline void add_gradient_of_part(PenaltyTensor<T> tensor, T strength, int64_t begin, int64_t end) {
  const Vector<T> times = Vector<T>{} + strength;
  for_distances(tensor, begin, end,
                [&](int64_t i, int64_t lanes, Vector<T> distance, Vector<T> importance) {
                  const Vector<T> grad = load_first(tensor.grad + i, lanes, T(0));
                  const Vector<T> slope = penalty_slope(distance, importance);
                  store_first(tensor.grad + i, lanes, multiply_add<T>(times, slope, grad));
                });
}

#define CLFAST_QUADRATIC_PENALTY_OF(T)                                                   \
  double quadratic_penalty(const PenaltyTensor<T>& tensor, int64_t begin, int64_t end) { \
    return penalty_of_part(tensor, begin, end);                                          \
  }                                                                                      \
  void add_penalty_gradient(const PenaltyTensor<T>& tensor, T strength, int64_t begin,   \
                            int64_t end) {                                               \
    add_gradient_of_part(tensor, strength, begin, end);                                  \
  }
CLFAST_QUADRATIC_PENALTY_OF(float)
CLFAST_QUADRATIC_PENALTY_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
