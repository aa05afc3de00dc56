// The divergence of two rows of predictions; see common/recall.h for the formulas.
#pragma once
#include "../common/recall.h"
#include "log-inl.h"
#include "softmax-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Arrays are [width], as take_logits() pads them.
template <class T>
struct DivergenceRow {
  DivergenceForm<T> form;
  const T *p, *q;
  const T *x, *y;
  T mean_x, mean_y;  // under p and q

  inline T value() const { return T(0.5) * (mean_x + mean_y); }
  inline T old_slope(int64_t i) const {
    return T(0.5) * (p[i] * (x[i] - mean_x) + form.old_difference * (p[i] - q[i]));
  }
  inline T new_slope(int64_t i) const {
    return T(0.5) * (q[i] * (y[i] - mean_y) + form.new_difference * (q[i] - p[i]));
  }
};

// Of softmax() of both logits, with p and q as it left them. x, y: scratch.
template <class T>
inline DivergenceRow<T> divergence_row(const DivergenceForm<T>& given, int64_t width,
                                       const T* old_logits, const T* new_logits,
                                       const Softmax<T>& old_softmax, const Softmax<T>& new_softmax,
                                       const T* p, const T* q, T* x, T* y) {
  const DivergenceForm<T> form = given;  // known not to change
  const Softmax<T> of_old = old_softmax, of_new = new_softmax;
  T mean_x = 0, mean_y = 0;
#pragma omp simd reduction(+ : mean_x, mean_y)
  for (int64_t i = 0; i < width; ++i) {
    const T log_p = of_old.log_of_share(old_logits[i]), log_q = of_new.log_of_share(new_logits[i]);
    const T mean = T(0.5) * (p[i] + q[i]);
    const T log_mean = log_of(mean < smallest_mean<T>() ? smallest_mean<T>() : mean);
    x[i] = form.old_mean * log_mean + form.old_p * log_p + form.old_q * log_q;
    y[i] = form.new_mean * log_mean + form.new_p * log_p + form.new_q * log_q;
    mean_x += p[i] * x[i];
    mean_y += q[i] * y[i];
  }
  return {form, p, q, x, y, mean_x, mean_y};
}

}  // namespace clfast::cpu::CLFAST_LEVEL
