// Steps of SGD and Adam over lists of tensors, and the norm of gradients, all of them with what is
// reserved left out. Pointers go to the kernels as arguments, a factor of all gradients is read on
// the device, and the host never waits.
#pragma once
#include "list_table.cuh"
#include "optimizers.h"

namespace clfast::cuda {

template <class T, class Step>
__device__ __forceinline__ T scale_of(const Step& step) {
  return step.clip != nullptr ? step.sign * *step.clip : step.sign;
}

// The gradient as the optimiser sees it: 0 where it is reserved, whatever stands there.
template <class T, class Step>
__device__ __forceinline__ T seen_gradient(T grad, T param, bool reserved, T scale,
                                           const Step& step) {
  return reserved ? T(0) : decayed_gradient<T, T>(grad, param, scale, step.weight_decay);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    masked_sgd_kernel(ListTable<SgdTensor<T>> table, SgdStep<T> step, int64_t elements) {
  const T scale = scale_of<T>(step);
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    const SgdTensor<T>& tensor = table.of[at];
    const T param = tensor.param[i];
    const bool reserved = is_reserved(tensor.reserved, i);
    const T g = seen_gradient<T>(tensor.grad[i], param, reserved, scale, step);
    T direction = g;
    if (tensor.momentum_buffer != nullptr) {
      T buffer = tensor.momentum_buffer[i];
      sgd_momentum<T, T>(buffer, g, step);
      tensor.momentum_buffer[i] = buffer;
      direction = sgd_direction<T, T>(buffer, g, step);
    }
    if (!reserved) tensor.param[i] = param - step.lr * direction;
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    masked_adam_kernel(ListTable<AdamTensor<T>> table, AdamStep<T> step, int64_t elements) {
  const T scale = scale_of<T>(step);
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    const AdamTensor<T>& tensor = table.of[at];
    const T param = tensor.param[i];
    const bool reserved = is_reserved(tensor.reserved, i);
    const T g = seen_gradient<T>(tensor.grad[i], param, reserved, scale, step);
    T m = tensor.exp_avg[i], v = tensor.exp_avg_sq[i];
    adam_moments<T, T>(m, v, g, step);
    tensor.exp_avg[i] = m;
    tensor.exp_avg_sq[i] = v;
    if (tensor.max_exp_avg_sq != nullptr) {
      v = larger_or_nan<T>(tensor.max_exp_avg_sq[i], v);
      tensor.max_exp_avg_sq[i] = v;
    }
    if (!reserved) {
      tensor.param[i] =
          adam_param<T, T>(param, m, std::sqrt(v), step.keep, tensor.rate, tensor.eps);
    }
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    masked_sq_norms_kernel(ListTable<MaskedGrad<T>> table, int64_t elements,
                           double* __restrict__ sums) {
  CLFAST_SHARED(double[kWarps], shared);
  double own = 0;
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    const MaskedGrad<T>& tensor = table.of[at];
    if (is_reserved(tensor.reserved, i)) return;
    const double g = static_cast<double>(tensor.grad[i]);
    own += g * g;
  });
  own = block_sum<kThreads>(own, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = own;
}

// One block.
static __global__ void __launch_bounds__(kThreads)
    root_of_sums_kernel(const double* __restrict__ sums, int64_t parts, double* __restrict__ norm) {
  CLFAST_SHARED(double[kWarps], shared);
  const double all = sum_of_parts(sums, parts, shared);
  if (threadIdx.x == 0) *norm = std::sqrt(all);
}

template <class T>
cudaError_t masked_sgd_step(const SgdTensor<T>* tensors, const int64_t* ends, int64_t count,
                            const SgdStep<T>& step, cudaStream_t stream) {
  for_tables(tensors, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((masked_sgd_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream, table, step,
                  elements);
  });
  return cudaGetLastError();
}

template <class T>
cudaError_t masked_adam_step(const AdamTensor<T>* tensors, const int64_t* ends, int64_t count,
                             const AdamStep<T>& step, cudaStream_t stream) {
  for_tables(tensors, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((masked_adam_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream, table, step,
                  elements);
  });
  return cudaGetLastError();
}

template <class T>
cudaError_t masked_grad_norm(const MaskedGrad<T>* tensors, const int64_t* ends, int64_t count,
                             double* sums, double* norm, cudaStream_t stream) {
  int64_t parts = 0;
  for_tables(tensors, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((masked_sq_norms_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream, table,
                  elements, sums + parts);
    parts += blocks;
  });
  CLFAST_LAUNCH(root_of_sums_kernel, dim3(1), dim3(kThreads), 0, stream, sums, parts, norm);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
