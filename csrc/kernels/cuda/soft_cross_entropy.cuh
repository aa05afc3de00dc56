// Cross-entropy under soft targets, or the divergence from them, and its gradient by the
// predictions' logits: one block a row.
#pragma once
#include "recall_rows.cuh"

namespace clfast::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads)
    soft_cross_entropy_kernel(SoftCrossEntropyProblem<T> p, const T* __restrict__ weights,
                              T* __restrict__ values, T* __restrict__ gradient) {
  CLFAST_SHARED(T[kWarps], shared);
  const int64_t row = blockIdx.x;
  const T *target_logits = p.target_logits + row * p.classes, *logits = p.logits + row * p.width;
  T* out = gradient + row * p.width;
  const RowSoftmax<T> of_target = softmax_of_row(target_logits, p.classes, p.sharpening, shared);
  const RowSoftmax<T> of_logits = softmax_of_row(logits, p.classes, p.sharpening, shared);
  const T factor = p.factor * weights[row] * p.sharpening;
  T sum = T(0);
  for (int64_t i = threadIdx.x; i < p.classes; i += kThreads) {
    const T log_target = of_target.log_of_share(target_logits[i]), target = exp(log_target);
    const T log_share = of_logits.log_of_share(logits[i]);
    sum -= target * (p.less_entropy ? log_share - log_target : log_share);
    out[i] = factor * (exp(log_share) - target);
  }
  for (int64_t i = p.classes + threadIdx.x; i < p.width; i += kThreads) out[i] = T(0);
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) values[row] = p.factor * sum;
}

template <class T>
cudaError_t soft_cross_entropy(const SoftCrossEntropyProblem<T>& p, T* weights, T* values, T* loss,
                               T* gradient, cudaStream_t stream) {
  CLFAST_LAUNCH((row_weights_kernel<T>), dim3(1), dim3(kThreads), 0, stream, p.multiplicity, p.rows,
                weights);
  if (p.rows > 0) {
    CLFAST_LAUNCH((soft_cross_entropy_kernel<T>), grid_of(p.rows), dim3(kThreads), 0, stream, p,
                  weights, values, gradient);
  }
  CLFAST_LAUNCH((total_kernel<T>), dim3(1), dim3(kThreads), 0, stream, 0.0, 0.0,
                static_cast<const T*>(nullptr), int64_t{0}, weights, values, p.rows, loss);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
