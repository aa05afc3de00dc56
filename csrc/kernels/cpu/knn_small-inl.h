// Included once per SIMD level.
#include <cmath>

#include "gemm-inl.h"
#include "knn_small.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void score_rows(const T* rows, int64_t stride, int64_t count, const T* panels, int64_t dim,
                       const T* terms, int64_t columns, T* scores) {
  gemm(rows, stride, count, Panels<T>{panels, dim}, columns, dim,
       [=](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
         for (int64_t i = 0; i < height; ++i) {
           for (int64_t j = 0; j < width; j += kLanes<T>) {
             const Vector<T> products = load(tile + i * kTileColumns<T> + j);
             store<T>(scores + (r + i) * columns + c + j, load(terms + c + j) - T(2) * products);
           }
         }
       });
}

template <class T>
inline void minima_of_groups(const T* scores, int64_t columns, int64_t groups, T* minima) {
  for (int64_t g = 0; g < groups; g += kLanes<T>) {
    Vector<T> smallest = INFINITY - Vector<T>{};
    for (int64_t c = g; c < columns; c += groups) {
      const Vector<T> s = load(scores + c);
      // -inf is a product that overflowed, and bounds nothing.
      smallest = (s < smallest) & (s > -INFINITY) ? s : smallest;
    }
    store<T>(minima + g, smallest);
  }
}

#define CLFAST_DEFINE_KNN_SMALL_FUNCTIONS(T)                                                 \
  void knn_score(const T* rows, int64_t stride, int64_t count, const T* panels, int64_t dim, \
                 const T* terms, int64_t columns, T* scores) {                               \
    score_rows(rows, stride, count, panels, dim, terms, columns, scores);                    \
  }                                                                                          \
  void knn_minima(const T* scores, int64_t columns, int64_t groups, T* minima) {             \
    minima_of_groups(scores, columns, groups, minima);                                       \
  }
CLFAST_DEFINE_KNN_SMALL_FUNCTIONS(float)
CLFAST_DEFINE_KNN_SMALL_FUNCTIONS(double)
#undef CLFAST_DEFINE_KNN_SMALL_FUNCTIONS

}  // namespace clfast::cpu::CLFAST_LEVEL
