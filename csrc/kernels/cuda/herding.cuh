// Herding: a block takes a class from its mean to its last pick, a warp scores a row. All sums are
// in double.
#pragma once
#include "../common/herding.h"
#include "exemplars.h"
#include "rows.cuh"

namespace clfast::cuda {

// Where the labels from `begin` on end to be equal. Inlined, it would cost the kernel registers.
static __device__ __attribute__((noinline)) int64_t end_of_class(const int64_t* __restrict__ sorted,
                                                                 int64_t begin, int64_t samples) {
  int64_t inside = begin, outside = samples;
  while (outside - inside > 1) {
    const int64_t middle = inside + (outside - inside) / 2;
    (sorted[middle] == sorted[begin] ? inside : outside) = middle;
  }
  return outside;
}

// sum_j f(row_j - mean_j, j) in one warp.
template <class T, class F>
__device__ __forceinline__ double sum_over_row(const T* __restrict__ row, const double* mean,
                                               int64_t dim, F&& f) {
  double sum = 0;
  for (int64_t j = threadIdx.x % kWarpSize; j < dim; j += kWarpSize) {
    sum += f(static_cast<double>(row[j]) - mean[j], j);
  }
  return warp_sum(sum);
}

// Blocks take the places at which a class may begin in turn. A member that is picked has squared
// length -1.
template <class T>
__global__ void __launch_bounds__(kThreads)
    herding_kernel(HerdingProblem<T> p, HerdingScratch s, int64_t* __restrict__ picks,
                   int64_t* __restrict__ sizes) {
  CLFAST_SHARED(double[kWarps], shared);
  CLFAST_SHARED(int64_t[kWarps], shared_members);
  const int64_t dim = p.dim, own_warp = threadIdx.x / kWarpSize;
  double* const mean = s.means + static_cast<int64_t>(blockIdx.x) * 2 * dim;
  double* const target = mean + dim;
  for (int64_t begin = blockIdx.x; begin < p.samples; begin += gridDim.x) {
    if (begin > 0 && p.sorted[begin] == p.sorted[begin - 1]) {
      if (threadIdx.x == 0) sizes[begin] = 0;
      continue;
    }
    const int64_t* const members = p.members + begin;
    const int64_t count = end_of_class(p.sorted, begin, p.samples) - begin;
    const int64_t wanted = p.m < count ? p.m : count;
    if (threadIdx.x == 0) sizes[begin] = count;
    double sq_mean = 0, longest = 0;
    for (int64_t j = threadIdx.x; j < dim; j += kThreads) {
      double sum = 0;
      for (int64_t i = 0; i < count; ++i) {
        sum += static_cast<double>(p.features[members[i] * dim + j]);
      }
      mean[j] = sum / static_cast<double>(count);
      target[j] = 0;
      sq_mean += mean[j] * mean[j];
    }
    const double mean_length = sqrt(block_sum<kThreads>(sq_mean, shared));
    for (int64_t i = own_warp; i < count; i += kWarps) {
      const double sq_norm = sum_over_row(p.features + members[i] * dim, mean, dim,
                                          [](double y, int64_t) { return y * y; });
      if (threadIdx.x % kWarpSize == 0) s.sq_norms[begin + i] = sq_norm;
      longest = max(longest, sq_norm);
    }
    for (int64_t k = wanted + threadIdx.x; k < count; k += kThreads) picks[begin + k] = -1;
    longest = sqrt(block_max<kThreads>(longest, shared));
    for (int64_t k = 0; k < wanted; ++k) {
      double sq_length = 0, best = -HUGE_VAL;
      for (int64_t j = threadIdx.x; j < dim; j += kThreads) sq_length += target[j] * target[j];
      const double tie =
          herding_tie(sqrt(block_sum<kThreads>(sq_length, shared)), longest, mean_length);
      for (int64_t i = own_warp; i < count; i += kWarps) {
        const double sq_norm = s.sq_norms[begin + i];
        if (sq_norm == -1) continue;
        const double product = sum_over_row(p.features + members[i] * dim, mean, dim,
                                            [=](double y, int64_t j) { return target[j] * y; });
        const double score = herding_score(product, sq_norm);
        // A score that is NaN comes last.
        const double ordered = score == score ? score : -HUGE_VAL;
        if (threadIdx.x % kWarpSize == 0) s.scores[begin + i] = ordered;
        best = max(best, ordered);
      }
      const double least = block_max<kThreads>(best, shared) - tie;
      int64_t first = count;
      for (int64_t i = threadIdx.x; i < first; i += kThreads) {
        if (s.sq_norms[begin + i] != -1 && !(s.scores[begin + i] < least)) first = i;
      }
      first = block_min<kThreads>(first, shared_members);
      const int64_t pick = members[first];
      if (threadIdx.x == 0) {
        picks[begin + k] = pick;
        s.sq_norms[begin + first] = -1;
      }
      for (int64_t j = threadIdx.x; j < dim; j += kThreads) {
        target[j] -= static_cast<double>(p.features[pick * dim + j]) - mean[j];
      }
      __syncthreads();
    }
  }
}

template <class T>
cudaError_t herding(const HerdingProblem<T>& problem, const HerdingScratch& scratch, int64_t* picks,
                    int64_t* sizes, cudaStream_t stream) {
  if (problem.samples == 0) return cudaSuccess;
  CLFAST_LAUNCH((herding_kernel<T>), grid_of(herding_blocks(problem.samples, problem.dim)),
                dim3(kThreads), 0, stream, problem, scratch, picks, sizes);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
