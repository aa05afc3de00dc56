// The recall loss of ARM and its gradients by the logits of both networks: one block a row, with
// the mean prediction of all rows formed in between.
#pragma once
#include "recall_rows.cuh"

namespace clfast::cuda {

template <class T>
__global__ void count_present_kernel(RecallProblem<T> p, int32_t* __restrict__ counts) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= p.present_count) return;
  const int64_t own = p.present[at];
  if (own >= 0 && own < p.classes) atomicAdd(counts + own, 1);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(RecallProblem<T> p, RecallScratch<T> s, T* __restrict__ d_old) {
  CLFAST_SHARED(T[kWarps], shared);
  CLFAST_SHARED(int64_t[kWarps], shared_index);
  const int64_t row = blockIdx.x, at = row * p.classes;
  const RowSoftmax<T> of_old = softmax_of_row(p.old_logits + at, p.classes, T(1), shared);
  const RowSoftmax<T> of_new = softmax_of_row(p.new_logits + at, p.classes, T(1), shared);
  int64_t first = p.classes;
  for (int64_t i = threadIdx.x; i < p.classes; i += kThreads) {
    const T logit = p.old_logits[at + i];
    d_old[at + i] = exp(of_old.log_of_share(logit));
    if (logit == of_old.top && i < first) first = i;
  }
  first = block_min<kThreads>(first, shared_index);
  if (threadIdx.x != 0) return;
  s.sharpest[row] = first;
  s.log_sums[4 * row] = of_old.top, s.log_sums[4 * row + 1] = of_old.log_sum;
  s.log_sums[4 * row + 2] = of_new.top, s.log_sums[4 * row + 3] = of_new.log_sum;
}

// One thread a class, down all rows.
template <class T>
__global__ void __launch_bounds__(kThreads)
    diversity_kernel(RecallProblem<T> p, const T* __restrict__ weights,
                     const T* __restrict__ predictions, T* __restrict__ slopes,
                     T* __restrict__ terms) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= p.classes) return;
  T mean = T(0);
  for (int64_t row = 0; row < p.rows; ++row)
    mean += weights[row] * predictions[row * p.classes + i];
  const T smallest = static_cast<T>(smallest_mean_prediction());
  const bool small = mean < smallest;
  if (small) mean = smallest;
  const T log_mean = log(mean);
  terms[i] = mean * log_mean;
  slopes[i] = small ? T(0) : log_mean + T(1);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    recall_kernel(RecallProblem<T> p, RecallScratch<T> s, T* __restrict__ d_old,
                  T* __restrict__ d_new) {
  CLFAST_SHARED(T[kWarps], shared);
  const int64_t row = blockIdx.x, at = row * p.classes;
  const DivergenceForm<T> form = form_of<T>(p.divergence);
  const RowSoftmax<T> of_old{s.log_sums[4 * row], T(1), s.log_sums[4 * row + 1]};
  const RowSoftmax<T> of_new{s.log_sums[4 * row + 2], T(1), s.log_sums[4 * row + 3]};
  const T share = T(1) / static_cast<T>(p.present_count);
  T mean_x = T(0), mean_y = T(0), mean_slope = T(0), old_here = T(0), new_here = T(0);
  for (int64_t i = threadIdx.x; i < p.classes; i += kThreads) {
    const T log_p = of_old.log_of_share(p.old_logits[at + i]);
    const T log_q = of_new.log_of_share(p.new_logits[at + i]);
    const DivergenceTerms<T> t = divergence_terms(form, log_p, log_q);
    const T present = share * static_cast<T>(s.counts[i]);
    mean_x += t.p * t.x;
    mean_y += t.q * t.y;
    mean_slope += t.p * s.slopes[i];
    old_here += present * log_p;
    new_here += present * log_q;
  }
  mean_x = block_sum<kThreads>(mean_x, shared);
  mean_y = block_sum<kThreads>(mean_y, shared);
  mean_slope = block_sum<kThreads>(mean_slope, shared);
  old_here = block_sum<kThreads>(old_here, shared);
  new_here = block_sum<kThreads>(new_here, shared);
  if (threadIdx.x == 0) {
    s.values[row] = p.not_local_old * old_here + p.not_local_new * new_here +
                    p.sharpness * of_old.log_sum - p.divergence_weight * (mean_x + mean_y);
  }
  const T weight = s.weights[row];
  for (int64_t i = threadIdx.x; i < p.classes; i += kThreads) {
    const DivergenceTerms<T> t = divergence_terms(form, of_old.log_of_share(p.old_logits[at + i]),
                                                  of_new.log_of_share(p.new_logits[at + i]));
    const T present = share * static_cast<T>(s.counts[i]);
    const T top = i == s.sharpest[row] ? T(1) : T(0);
    d_old[at + i] = weight * (p.diversity * t.p * (s.slopes[i] - mean_slope) +
                              p.sharpness * (t.p - top) - p.not_local_old * (t.p - present) -
                              p.divergence_weight * old_slope(form, t, mean_x));
    d_new[at + i] = -weight * (p.not_local_new * (t.q - present) +
                               p.divergence_weight * new_slope(form, t, mean_y));
  }
}

template <class T>
cudaError_t recall_gradients(const RecallProblem<T>& p, const RecallScratch<T>& s, T* loss,
                             T* d_old, T* d_new, cudaStream_t stream) {
  cudaError_t status = cudaMemsetAsync(s.counts, 0, p.classes * sizeof(int32_t), stream);
  if (status != cudaSuccess) return status;
  CLFAST_LAUNCH((count_present_kernel<T>), grid_of(divide_up(p.present_count, kThreads)),
                dim3(kThreads), 0, stream, p, s.counts);
  CLFAST_LAUNCH((row_weights_kernel<T>), dim3(1), dim3(kThreads), 0, stream, p.multiplicity, p.rows,
                s.weights);
  if (p.rows > 0) {
    CLFAST_LAUNCH((softmax_kernel<T>), grid_of(p.rows), dim3(kThreads), 0, stream, p, s, d_old);
  }
  CLFAST_LAUNCH((diversity_kernel<T>), grid_of(divide_up(p.classes, kThreads)), dim3(kThreads), 0,
                stream, p, s.weights, d_old, s.slopes, s.terms);
  if (p.rows > 0) {
    CLFAST_LAUNCH((recall_kernel<T>), grid_of(p.rows), dim3(kThreads), 0, stream, p, s, d_old,
                  d_new);
  }
  CLFAST_LAUNCH((total_kernel<T>), dim3(1), dim3(kThreads), 0, stream,
                static_cast<double>(p.divergence_weight), static_cast<double>(p.diversity), s.terms,
                p.classes, s.weights, s.values, p.rows, loss);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
