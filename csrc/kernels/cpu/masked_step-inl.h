// Included once per SIMD level.
#include "masked_step.h"
#include "reserved_lanes-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// The gradient as the optimiser sees it: 0 where it is reserved, whatever stands there.
template <class T, class Step>
inline Vector<T> seen_gradient(const T* grad, Vector<T> param, LaneIndex<T> reserved, T clip,
                               const Step& step, int64_t count) {
  const Vector<T> g = decayed_gradient<Vector<T>, T>(load_first<T>(grad, count, 0), param,
                                                     step.sign * clip, step.weight_decay);
  return reserved ? Vector<T>{} : g;
}

template <class T>
inline void sgd_step_of_part(const SgdTensor<T>& tensor, const SgdStep<T>& step, int64_t begin,
                             int64_t end) {
  const T clip = step.clip != nullptr ? *step.clip : T(1);
  for_vectors<T>(end - begin, [&](int64_t offset, int64_t count) {
    const int64_t i = begin + offset;
    const Vector<T> param = load_first<T>(tensor.param + i, count, 0);
    const LaneIndex<T> reserved = reserved_lanes<T>(tensor.reserved, i, count);
    const Vector<T> g = seen_gradient<T>(tensor.grad + i, param, reserved, clip, step, count);
    Vector<T> direction = g;
    if (tensor.momentum_buffer != nullptr) {
      Vector<T> buffer = load_first<T>(tensor.momentum_buffer + i, count, 0);
      sgd_momentum<Vector<T>, T>(buffer, g, step);
      store_first<T>(tensor.momentum_buffer + i, count, buffer);
      direction = sgd_direction<Vector<T>, T>(buffer, g, step);
    }
    store_first<T>(tensor.param + i, count, reserved ? param : param - step.lr * direction);
  });
}

template <class T>
inline void adam_step_of_part(const AdamTensor<T>& tensor, const AdamStep<T>& step, int64_t begin,
                              int64_t end) {
  const T clip = step.clip != nullptr ? *step.clip : T(1);
  for_vectors<T>(end - begin, [&](int64_t offset, int64_t count) {
    const int64_t i = begin + offset;
    const Vector<T> param = load_first<T>(tensor.param + i, count, 0);
    const LaneIndex<T> reserved = reserved_lanes<T>(tensor.reserved, i, count);
    const Vector<T> g = seen_gradient<T>(tensor.grad + i, param, reserved, clip, step, count);
    Vector<T> m = load_first<T>(tensor.exp_avg + i, count, 0);
    Vector<T> v = load_first<T>(tensor.exp_avg_sq + i, count, 0);
    adam_moments<Vector<T>, T>(m, v, g, step);
    store_first<T>(tensor.exp_avg + i, count, m);
    store_first<T>(tensor.exp_avg_sq + i, count, v);
    if (tensor.max_exp_avg_sq != nullptr) {
      v = larger_or_nan(load_first<T>(tensor.max_exp_avg_sq + i, count, 0), v);
      store_first<T>(tensor.max_exp_avg_sq + i, count, v);
    }
    const Vector<T> stepped =
        adam_param<Vector<T>, T>(param, m, square_root<T>(v), step.keep, tensor.rate, tensor.eps);
    store_first<T>(tensor.param + i, count, reserved ? param : stepped);
  });
}

// Four independent accumulators hide the latency of the addition.
template <class T>
inline double sq_norm_of_part(const MaskedGrad<T>& tensor, int64_t begin, int64_t end) {
  constexpr int64_t lanes = kLanes<double>, step = 4 * lanes;
  Vector<double> sums[4] = {};
  const auto add = [&](int s, int64_t i) {
    const LaneIndex<double> out = reserved_lanes<double>(tensor.reserved, i, lanes);
    const Vector<double> g = out ? Vector<double>{} : load_wide(tensor.grad + i);
    sums[s] = multiply_add<double>(g, g, sums[s]);
  };
  int64_t i = begin;
  for (; i + step <= end; i += step) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) add(s, i + s * lanes);
  }
  for (; i + lanes <= end; i += lanes) add(0, i);
  double sum = sum_lanes<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < end; ++i) {
    const double g = is_reserved(tensor.reserved, i) ? 0.0 : static_cast<double>(tensor.grad[i]);
    sum += g * g;
  }
  return sum;
}

#define CLFAST_MASKED_STEP_OF(T)                                                             \
  void masked_sgd_step(const SgdTensor<T>& tensor, const SgdStep<T>& step, int64_t begin,    \
                       int64_t end) {                                                        \
    sgd_step_of_part(tensor, step, begin, end);                                              \
  }                                                                                          \
  void masked_adam_step(const AdamTensor<T>& tensor, const AdamStep<T>& step, int64_t begin, \
                        int64_t end) {                                                       \
    adam_step_of_part(tensor, step, begin, end);                                             \
  }                                                                                          \
  double masked_sq_norm(const MaskedGrad<T>& tensor, int64_t begin, int64_t end) {           \
    return sq_norm_of_part(tensor, begin, end);                                              \
  }
CLFAST_MASKED_STEP_OF(float)
CLFAST_MASKED_STEP_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
