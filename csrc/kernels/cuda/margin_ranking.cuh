// Samples of old classes against the new classes that score highest on them: one warp a row.
#pragma once
#include "../common/margin_ranking.h"
#include "exemplar_losses.h"
#include "new_classes.cuh"
#include "recall_rows.cuh"

namespace clfast::cuda {

// One block. weights[i] = 1 / (samples of old classes times ranked) of such a sample, else 0.
template <class T>
__global__ void __launch_bounds__(kThreads)
    old_weights_kernel(const int64_t* __restrict__ labels, int64_t rows, int64_t classes,
                       int64_t ranked, const uint8_t* __restrict__ is_new,
                       T* __restrict__ weights) {
  CLFAST_SHARED(double[kWarps], shared);
  const auto is_old = [&](int64_t i) {
    return labels[i] >= 0 && labels[i] < classes && is_new[labels[i]] == 0;
  };
  double count = 0;
  for (int64_t i = threadIdx.x; i < rows; i += kThreads) count += is_old(i) ? 1.0 : 0.0;
  count = block_sum<kThreads>(count, shared);
  const double terms = count * static_cast<double>(ranked);
  const T weight = static_cast<T>(terms > 0 ? 1 / terms : 0.0);
  for (int64_t i = threadIdx.x; i < rows; i += kThreads) weights[i] = is_old(i) ? weight : T(0);
}

// A score and its position in the list of new classes; none: -1.
template <class T>
struct RankedScore {
  T score;
  int position;
};

// Of equals the one listed first.
template <class T>
__device__ __forceinline__ bool is_ahead(RankedScore<T> a, RankedScore<T> b) {
  if (ranks_before(a.score, b.score)) return true;
  return !ranks_before(b.score, a.score) && a.position < b.position;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    margin_ranking_kernel(MarginRankingProblem<T> p, const T* __restrict__ weights,
                          T* __restrict__ values, T* __restrict__ gradient) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (row >= p.rows) return;
  const int lane = threadIdx.x % kWarpSize;
  const T* scores = p.cosines + row * p.classes;
  T* out = gradient + row * p.classes;
  for (int64_t c = lane; c < p.classes; c += kWarpSize) out[c] = T(0);
  __syncwarp();
  const T weight = weights[row];
  const int64_t label = p.labels[row];
  T sum = T(0);
  RankedScore<T> last = {T(0), -1};
  for (int64_t place = 0; weight > T(0) && place < p.ranked; ++place) {
    RankedScore<T> best = {T(0), -1};
    for (int64_t j = lane; j < p.new_count; j += kWarpSize) {
      const int64_t own = p.new_classes[j];
      if (own < 0 || own >= p.classes) continue;
      const RankedScore<T> here = {scores[own], static_cast<int>(j)};
      if (last.position >= 0 && !is_ahead(last, here)) continue;
      if (best.position < 0 || is_ahead(here, best)) best = here;
    }
    for (int lane_mask = kWarpSize / 2; lane_mask > 0; lane_mask /= 2) {
      const RankedScore<T> other = {__shfl_xor_sync(kFullWarp, best.score, lane_mask),
                                    __shfl_xor_sync(kFullWarp, best.position, lane_mask)};
      if (other.position >= 0 && (best.position < 0 || is_ahead(other, best))) best = other;
    }
    if (best.position < 0) break;
    const T excess = p.margin - scores[label] + best.score;
    sum += hinge(excess);
    if (lane == 0 && excess > T(0)) {
      out[label] -= weight;
      out[p.new_classes[best.position]] += weight;
    }
    last = best;
  }
  if (lane == 0) values[row] = sum;
}

template <class T>
cudaError_t margin_ranking(const MarginRankingProblem<T>& p, uint8_t* is_new, T* weights, T* values,
                           T* loss, T* gradient, cudaStream_t stream) {
  const cudaError_t status =
      mark_new_classes(p.new_classes, p.new_count, p.classes, is_new, stream);
  if (status != cudaSuccess) return status;
  CLFAST_LAUNCH((old_weights_kernel<T>), dim3(1), dim3(kThreads), 0, stream, p.labels, p.rows,
                p.classes, p.ranked, is_new, weights);
  if (p.rows > 0) {
    CLFAST_LAUNCH((margin_ranking_kernel<T>), grid_of(divide_up(p.rows, kWarps)), dim3(kThreads), 0,
                  stream, p, weights, values, gradient);
  }
  CLFAST_LAUNCH((total_kernel<T>), dim3(1), dim3(kThreads), 0, stream, 0.0, 0.0,
                static_cast<const T*>(nullptr), int64_t{0}, weights, values, p.rows, loss);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
