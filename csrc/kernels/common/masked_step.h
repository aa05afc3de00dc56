// Steps of SGD and Adam that leave reserved entries alone: what a tensor brings, and the formulas
// of torch.optim, of numbers and of vectors F of them.
#pragma once
#include <cstdint>

#include "host_device.h"
#include "reserved_mask.h"

namespace clfast {

template <class T>
struct SgdTensor {
  T* param;
  const T* grad;
  T* momentum_buffer;  // null without momentum
  ReservedMask reserved;
};

template <class T>
struct SgdStep {
  const T* clip;  // one factor of all gradients, or null
  T sign;         // -1 where the objective is maximised
  T weight_decay;
  T lr, momentum;
  T gain;  // 1 - dampening
  bool nesterov;
};

template <class T>
struct AdamTensor {
  T* param;
  const T* grad;
  T* exp_avg;
  T* exp_avg_sq;
  T* max_exp_avg_sq;  // null without AMSGrad
  ReservedMask reserved;
  // lr m^ / (sqrt(v^) + eps) with m^ = m / c1 and v^ = v / c2 is rate m / (sqrt(v) + eps sqrt(c2)),
  // rate = lr sqrt(c2) / c1: corrections of a tensor's own number of steps.
  T rate, eps;
};

template <class T>
struct AdamStep {
  const T* clip;
  T sign;
  T weight_decay;                // as part of the gradient
  T keep;                        // 1 - lr weight_decay where that is decoupled, otherwise 1
  T beta1, rest1, beta2, rest2;  // rest = 1 - beta, rounded once
};

template <class T>
struct MaskedGrad {
  const T* grad;
  ReservedMask reserved;
};

// The gradient as an optimiser takes it, scale = sign clip. A parameter that is infinite gets no
// NaN from a decay of 0.
template <class F, class T>
CLFAST_HD F decayed_gradient(F grad, F param, T scale, T weight_decay) {
  return weight_decay == T(0) ? scale * grad : scale * grad + weight_decay * param;
}

template <class F, class T>
CLFAST_HD void sgd_momentum(F& buffer, F grad, const SgdStep<T>& step) {
  buffer = step.momentum * buffer + step.gain * grad;
}

// What is taken off the parameter, over lr.
template <class F, class T>
CLFAST_HD F sgd_direction(F buffer, F grad, const SgdStep<T>& step) {
  return step.nesterov ? grad + step.momentum * buffer : buffer;
}

template <class F, class T>
CLFAST_HD void adam_moments(F& exp_avg, F& exp_avg_sq, F grad, const AdamStep<T>& step) {
  exp_avg = step.beta1 * exp_avg + step.rest1 * grad;
  exp_avg_sq = step.beta2 * exp_avg_sq + step.rest2 * grad * grad;
}

// A NaN stays, as in torch.maximum.
template <class F>
CLFAST_HD F larger_or_nan(F before, F value) {
  return before >= value || before != before ? before : value;
}

// root = sqrt of the second moment.
template <class F, class T>
CLFAST_HD F adam_param(F param, F exp_avg, F root, T keep, T rate, T eps) {
  return keep * param - rate * (exp_avg / (root + eps));
}

}  // namespace clfast
