// Softmax of a row of logits, and its logarithm without loss where logits are large.
#pragma once
#include <cmath>

#include "exp-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// A NaN is passed over; what is computed from the row itself still meets it.
template <class T>
inline T largest(const T* x, int64_t count) {
  T maximum = -INFINITY;
#pragma omp simd reduction(max : maximum)
  for (int64_t i = 0; i < count; ++i) maximum = x[i] > maximum ? x[i] : maximum;
  return maximum;
}

// A row of logits in `width` >= count elements, a whole number of vectors: classes behind the last
// have probability 0, and a logarithm of it that is finite.
template <class T>
inline void take_logits(const T* row, int64_t count, int64_t width, T* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = row[i];
  // Far below any logit, and small enough to be doubled.
  constexpr T behind = static_cast<T>(sizeof(T) == sizeof(float) ? -4e37 : -2e307);
  for (int64_t i = count; i < width; ++i) out[i] = behind;
}

// log p_i = (z_i - top) scale - log_sum.
template <class T>
struct Softmax {
  T top, scale, log_sum;

  inline T log_of_share(T z) const { return (z - top) * scale - log_sum; }
};

// p = softmax(scale z).
template <class T>
inline Softmax<T> softmax(const T* z, int64_t count, T scale, T* p) {
  const T top = largest(z, count);
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    p[i] = exp_of((z[i] - top) * scale);
    sum += p[i];
  }
  const T share = T(1) / sum;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) p[i] *= share;
  return {top, scale, std::log(sum)};
}

}  // namespace clfast::cpu::CLFAST_LEVEL
