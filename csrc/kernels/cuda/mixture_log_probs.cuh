// The classifier's prediction mixed with that of the neighbours' labels (Hebb paper, Eq. 8).
#pragma once
#include "neighbours.cuh"

namespace clfast::cuda {

template <class T>
__device__ __forceinline__ T log_add_exp(T a, T b) {
  // Comparisons, not max and min, which would lose a NaN.
  const T high = a > b ? a : b, low = a > b ? b : a;
  return low == static_cast<T>(-INFINITY) ? high : high + log1p(exp(low - high));
}

// The largest number in x; a NaN is left to what is computed from x itself.
template <class T>
__device__ T block_largest(const T* x, int64_t count, T* shared) {
  T largest = static_cast<T>(-INFINITY);
  for (int64_t i = threadIdx.x; i < count; i += kThreads) largest = max(largest, x[i]);
  return block_max<kThreads>(largest, shared);
}

// log sum exp(x - shift)
template <class T>
__device__ T block_log_sum_exp(const T* x, int64_t count, T shift, T* shared) {
  T sum = T(0);
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += exp(x[i] - shift);
  return log(block_sum<kThreads>(sum, shared));
}

// One block a query. Large numbers are taken away first, as in the CPU kernel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    mix_kernel(MixtureProblem<T> p, Resolved<T> resolved, T* __restrict__ scores,
               T* __restrict__ out) {
  CLFAST_SHARED(T[kWarps], shared);
  const int64_t classes = p.neighbourhood.num_classes, neighbours = p.neighbourhood.neighbours;
  const int64_t query = blockIdx.x;
  const int64_t* labels = resolved.labels + query * neighbours;
  const T* logits = p.logits + query * classes;
  T* score = scores + query * neighbours;
  T* result = out + query * classes;

  for (int64_t k = threadIdx.x; k < neighbours; k += kThreads) {
    score[k] = labels[k] < 0 ? static_cast<T>(-INFINITY) : p.theta * score[k];
  }
  __syncthreads();
  T score_shift = block_largest(score, neighbours, shared);
  T logit_shift = block_largest(logits, classes, shared);
  if (p.joint) score_shift = logit_shift = max(score_shift, logit_shift);
  const T zero = T(0);
  const T memory_norm = p.joint ? zero : block_log_sum_exp(score, neighbours, score_shift, shared);
  const T logits_norm = p.joint ? zero : block_log_sum_exp(logits, classes, logit_shift, shared);

  for (int64_t i = threadIdx.x; i < classes; i += kThreads) {
    result[i] = p.log_rest + (logits[i] - logit_shift) - logits_norm;
  }
  __syncthreads();
  for (int64_t k = threadIdx.x; k < neighbours; k += kThreads) {
    if (labels[k] < 0 || !speaks_for_class(labels, k)) continue;
    T largest = score[k];
    for (int64_t other = k; other < neighbours; ++other) {
      if (labels[other] == labels[k]) largest = max(largest, score[other]);
    }
    T sum = T(0);
    for (int64_t other = k; other < neighbours; ++other) {
      if (labels[other] == labels[k]) sum += exp(score[other] - largest);
    }
    const T near = p.log_gamma + (largest - score_shift) + log(sum) - memory_norm;
    result[labels[k]] = log_add_exp(result[labels[k]], near);
  }
  if (!p.joint) return;
  __syncthreads();
  const T top = block_largest(result, classes, shared);
  const T norm = block_log_sum_exp(result, classes, top, shared);
  for (int64_t i = threadIdx.x; i < classes; i += kThreads) result[i] = (result[i] - top) - norm;
}

template <class T>
cudaError_t mixture_log_probs(const MixtureProblem<T>& p, const Resolved<T>& resolved, T* scores,
                              T* out, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  cudaError_t status = resolve(p.neighbourhood, p.batch, resolved, stream);
  if (status != cudaSuccess) return status;
  status =
      neighbour_dots(p.neighbourhood, p.batch, p.queries, p.key_sq_norms, resolved, scores, stream);
  if (status != cudaSuccess) return status;
  CLFAST_LAUNCH((mix_kernel<T>), grid_of(p.batch), dim3(kThreads), 0, stream, p, resolved, scores,
                out);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
