// Softmax of a row of logits, and its logarithm without loss where logits are large.
#pragma once
#include "exp-inl.h"
#include "log-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// A NaN is passed over; what is computed from the row itself still meets it.
template <class T>
inline T largest(const T* x, int64_t count) {
  constexpr T least = -INFINITY;
  Vector<T> maximum = Vector<T>{} + least;
  for_vectors<T>(count, [&](int64_t i, int64_t lanes) {
    const Vector<T> v = load_first(x + i, lanes, least);
    maximum = v > maximum ? v : maximum;
  });
  return largest_lane<T>(maximum);
}

// Of p = softmax(scale z): log p_i = (z_i - top) scale - log_sum, p_i = e^((z_i - top) scale)
// share.
template <class T>
struct Softmax {
  T top, scale, log_sum, share;

  // Lanes behind the last class have a finite logarithm, for a probability of 0 beside it.
  inline Vector<T> logits(const T* z, int64_t count) const { return load_first(z, count, top); }
  inline Vector<T> log_of_share(Vector<T> z) const { return (z - top) * scale - log_sum; }
};

// Leaves e^((z - top) scale), which `share` makes probabilities, in `powers` [classes].
template <class T>
inline Softmax<T> softmax(const T* z, int64_t classes, T scale, T* powers) {
  constexpr T behind = -INFINITY;  // e^behind is 0
  const T top = largest(z, classes);
  Vector<T> sum = {};
  for_vectors<T>(classes, [&](int64_t i, int64_t count) {
    const Vector<T> power = exp_of((load_first(z + i, count, behind) - top) * scale);
    store_first<T>(powers + i, count, power);
    sum += power;
  });
  const T total = sum_lanes<T>(sum);
  return {top, scale, log_of(total), T(1) / total};
}

}  // namespace clfast::cpu::CLFAST_LEVEL
