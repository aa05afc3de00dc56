// Cross-entropy under soft targets and its gradient by the predictions' logits: one block a row.
#pragma once
#include "recall_rows.cuh"

namespace clfast::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads)
    soft_cross_entropy_kernel(SoftCrossEntropyProblem<T> p, const T* __restrict__ weights,
                              T* __restrict__ values, T* __restrict__ gradient) {
  CLFAST_SHARED(T[kWarps], shared);
  const int64_t row = blockIdx.x, at = row * p.classes;
  const RowSoftmax<T> of_target =
      softmax_of_row(p.target_logits + at, p.classes, p.sharpening, shared);
  const RowSoftmax<T> of_logits = softmax_of_row(p.logits + at, p.classes, p.sharpening, shared);
  const T factor = weights[row] * p.sharpening;
  T sum = T(0);
  for (int64_t i = threadIdx.x; i < p.classes; i += kThreads) {
    const T target = exp(of_target.log_of_share(p.target_logits[at + i]));
    const T log_share = of_logits.log_of_share(p.logits[at + i]);
    sum -= target * log_share;
    gradient[at + i] = factor * (exp(log_share) - target);
  }
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) values[row] = sum;
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
