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

template <class T>
struct TwoSoftmaxes {
  Softmax<T> a, b;
};

// Leaves e^((z - top) scale), which `share` makes probabilities, in the powers [classes]; scale >
// 0. Two rows at once: a short one mostly waits for its own results, and meanwhile goes the other.
template <class T>
inline TwoSoftmaxes<T> softmaxes(const T* a, const T* b, int64_t classes, T scale, T* a_powers,
                                 T* b_powers) {
  constexpr T behind = -INFINITY;  // e^behind is 0
  const T a_top = largest(a, classes), b_top = largest(b, classes);
  Vector<T> sums[2] = {};
  for_vectors<T>(classes, [&](int64_t i, int64_t count) {
    const Vector<T> x = exp_of_minus_size((load_first(a + i, count, behind) - a_top) * scale);
    const Vector<T> y = exp_of_minus_size((load_first(b + i, count, behind) - b_top) * scale);
    store_first<T>(a_powers + i, count, x), store_first<T>(b_powers + i, count, y);
    sums[0] += x, sums[1] += y;
  });
  T totals[2];
  sum_lanes<T, 2>(sums, totals);
  return {{a_top, scale, log_of(totals[0]), T(1) / totals[0]},
          {b_top, scale, log_of(totals[1]), T(1) / totals[1]}};
}

}  // namespace clfast::cpu::CLFAST_LEVEL
