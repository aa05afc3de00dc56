// Divergences of two predictions, and what the recall loss adds to them (ARM paper, Eq. 8).
#pragma once
#include "host_device.h"

namespace clfast {

enum class Divergence : int { kAg, kJs, kCe };

// With p and q the two distributions, m their mean, and
//   x_j = old_mean log m_j + old_p log p_j + old_q log q_j,   y_j likewise with new_*,
// the divergence is sum_j p_j x_j + sum_j q_j y_j. Its gradients by the logits of p and q are
//   p_j (x_j - sum_k p_k x_k) + old_difference (p_j - q_j),
//   q_j (y_j - sum_k q_k y_k) + new_difference (q_j - p_j).
// No coefficient is above 1, so that x and y of a logit that masks a class do not overflow.
template <class T>
struct DivergenceForm {
  T old_mean, old_p, old_q, old_difference;
  T new_mean, new_p, new_q, new_difference;
};

// kAg: KL(m || p) / 2 + KL(m || q) / 2, as the authors' code has it. kJs: KL(p || m) / 2 +
// KL(q || m) / 2. kCe: -sum_j p_j log q_j.
template <class T>
CLFAST_HD DivergenceForm<T> form_of(Divergence divergence) {
  const T quarter = T(0.25), half = T(0.5), one = T(1), none = T(0);
  switch (divergence) {
    case Divergence::kAg:
      return {half, -quarter, -quarter, quarter, half, -quarter, -quarter, quarter};
    case Divergence::kJs:
      return {-half, half, none, none, -half, none, half, none};
    default:
      return {none, none, -one, none, none, none, none, one};
  }
}

// The smallest argument of log m. Where p and q are smaller, all their terms are 0.
template <class T>
CLFAST_HD T smallest_mean() {
  return sizeof(T) == sizeof(float) ? T(1.17549435e-38) : T(2.2250738585072014e-308);
}

// Mean predictions below are set to this constant, and have no gradient: the authors' code.
CLFAST_HD constexpr double smallest_mean_prediction() { return 2.220446049250313e-16; }

}  // namespace clfast
