// The divergence of two predictions and its gradients by the logits of both: one block a row.
#pragma once
#include "recall_rows.cuh"

namespace clfast::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads)
    divergence_kernel(const T* __restrict__ p_logits, const T* __restrict__ q_logits,
                      int64_t classes, Divergence kind, T* __restrict__ values, T* __restrict__ d_p,
                      T* __restrict__ d_q) {
  CLFAST_SHARED(T[kWarps], shared);
  const int64_t row = blockIdx.x, at = row * classes;
  const DivergenceForm<T> form = form_of<T>(kind);
  const RowSoftmax<T> of_p = softmax_of_row(p_logits + at, classes, T(1), shared);
  const RowSoftmax<T> of_q = softmax_of_row(q_logits + at, classes, T(1), shared);
  T mean_x = T(0), mean_y = T(0);
  for (int64_t i = threadIdx.x; i < classes; i += kThreads) {
    const DivergenceTerms<T> t = divergence_terms(form, of_p.log_of_share(p_logits[at + i]),
                                                  of_q.log_of_share(q_logits[at + i]));
    mean_x += t.p * t.x;
    mean_y += t.q * t.y;
  }
  mean_x = block_sum<kThreads>(mean_x, shared);
  mean_y = block_sum<kThreads>(mean_y, shared);
  if (threadIdx.x == 0) values[row] = mean_x + mean_y;
  for (int64_t i = threadIdx.x; i < classes; i += kThreads) {
    const DivergenceTerms<T> t = divergence_terms(form, of_p.log_of_share(p_logits[at + i]),
                                                  of_q.log_of_share(q_logits[at + i]));
    d_p[at + i] = old_slope(form, t, mean_x);
    d_q[at + i] = new_slope(form, t, mean_y);
  }
}

template <class T>
cudaError_t divergence(const T* p_logits, const T* q_logits, int64_t rows, int64_t classes,
                       Divergence kind, T* values, T* d_p, T* d_q, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  CLFAST_LAUNCH((divergence_kernel<T>), grid_of(rows), dim3(kThreads), 0, stream, p_logits,
                q_logits, classes, kind, values, d_p, d_q);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
