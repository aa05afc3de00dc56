// Included once per SIMD level.
#include "bias_correct.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void correct_rows(const T* logits, const T* factors, const T* offsets, int64_t classes,
                         int64_t begin, int64_t end, T* out) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * classes;
    for (int64_t c = 0; c < classes; ++c) out[at + c] = logits[at + c] * factors[c] + offsets[c];
  }
}

template <class T>
inline void gradients_of_rows(const T* grad, const T* logits, const T* factors, const T* is_new,
                              int64_t classes, int64_t begin, int64_t end, T* out, T* sums) {
  for (int64_t row = begin; row < end; ++row) {
    const T *g = grad + row * classes, *z = logits + row * classes;
    T* slope = out + row * classes;
    Vector<T> products = {}, slopes = {};
    for_vectors<T>(classes, [&](int64_t i, int64_t count) {
      const Vector<T> here = load_first(g + i, count, T(0));
      const auto counts = load_first(is_new + i, count, T(0)) != Vector<T>{};
      products += counts ? here * load_first(z + i, count, T(0)) : Vector<T>{};
      slopes += counts ? here : Vector<T>{};
      store_first<T>(slope + i, count, here * load_first(factors + i, count, T(0)));
    });
    sums[2 * row] = sum_lanes<T>(products), sums[2 * row + 1] = sum_lanes<T>(slopes);
  }
}

#define CLFAST_DEFINE_BIAS_CORRECT(T)                                                            \
  void bias_correct(const T* logits, const T* factors, const T* offsets, int64_t classes,        \
                    int64_t begin, int64_t end, T* out) {                                        \
    correct_rows(logits, factors, offsets, classes, begin, end, out);                            \
  }                                                                                              \
  void bias_correct_gradients(const T* grad, const T* logits, const T* factors, const T* is_new, \
                              int64_t classes, int64_t begin, int64_t end, T* out, T* sums) {    \
    gradients_of_rows(grad, logits, factors, is_new, classes, begin, end, out, sums);            \
  }
CLFAST_DEFINE_BIAS_CORRECT(float)
CLFAST_DEFINE_BIAS_CORRECT(double)
#undef CLFAST_DEFINE_BIAS_CORRECT

}  // namespace clfast::cpu::CLFAST_LEVEL
