// The divergence of two rows of predictions, vector by vector; see common/recall.h for the
// formulas.
#pragma once
#include "../common/recall.h"
#include "softmax-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// x and y of the classes in a vector, with what it takes of both predictions.
template <class T>
struct DivergenceTerms {
  Vector<T> p, q, log_p, log_q, x, y;
};

template <class T>
inline DivergenceTerms<T> divergence_terms(const DivergenceForm<T>& form, const Softmax<T>& of_old,
                                           const Softmax<T>& of_new, Vector<T> old_logits,
                                           Vector<T> new_logits, Vector<T> old_powers,
                                           Vector<T> new_powers) {
  DivergenceTerms<T> t;
  t.p = old_powers * of_old.share, t.q = new_powers * of_new.share;
  t.log_p = of_old.log_of_share(old_logits), t.log_q = of_new.log_of_share(new_logits);
  const Vector<T> mean = T(0.5) * (t.p + t.q), smallest = Vector<T>{} + smallest_mean<T>();
  const Vector<T> log_mean = log_of(mean < smallest ? smallest : mean);
  t.x = form.old_mean * log_mean + form.old_p * t.log_p + form.old_q * t.log_q;
  t.y = form.new_mean * log_mean + form.new_p * t.log_p + form.new_q * t.log_q;
  return t;
}

// mean_x = sum_j p_j x_j, mean_y = sum_j q_j y_j.
template <class T>
inline Vector<T> old_slope(const DivergenceForm<T>& form, Vector<T> p, Vector<T> q, Vector<T> x,
                           T mean_x) {
  return p * (x - mean_x) + form.old_difference * (p - q);
}
template <class T>
inline Vector<T> new_slope(const DivergenceForm<T>& form, Vector<T> p, Vector<T> q, Vector<T> y,
                           T mean_y) {
  return q * (y - mean_y) + form.new_difference * (q - p);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
