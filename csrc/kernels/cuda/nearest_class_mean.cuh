// The nearest mean is the nearest neighbour among the means that are not empty.
#pragma once
#include "knn.cuh"

namespace clfast::cuda {

// One warp a class: the distances to an empty class, a row of zeros, become NaN, which sorts last.
template <class T>
__global__ void exclude_empty_kernel(const T* __restrict__ means, int64_t num_classes, int64_t dim,
                                     int64_t batch, T* __restrict__ distances) {
  const int64_t own = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (own >= num_classes) return;
  bool present = false;
  for (int64_t j = threadIdx.x % kWarpSize; j < dim; j += kWarpSize) {
    present = present || means[own * dim + j] != T(0);
  }
  if (__any_sync(kFullWarp, present)) return;
  for (int64_t q = threadIdx.x % kWarpSize; q < batch; q += kWarpSize) {
    distances[q * num_classes + own] = static_cast<T>(NAN);
  }
}

// The smallest class that is not empty, or -1 if all are, where every distance is NaN, and for
// features without a direction, whose cosines are all 0 (`units` [samples, dim], null if they do
// not matter).
template <class T>
__global__ void settle_kernel(const T* __restrict__ means, int64_t num_classes, int64_t dim,
                              const T* __restrict__ units, const T* __restrict__ nearest,
                              int64_t samples, int64_t* __restrict__ labels) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= samples) return;
  bool directed = units == nullptr;
  for (int64_t j = 0; j < dim && !directed; ++j) directed = units[i * dim + j] != T(0);
  if (directed && nearest[i] == nearest[i]) return;
  int64_t entry = 0;
  while (entry < num_classes * dim && means[entry] == T(0)) ++entry;
  labels[i] = entry < num_classes * dim ? entry / dim : -1;
}

template <class T>
cudaError_t nearest_class_mean(Rows features, const T* means, int64_t samples, int64_t dim,
                               int64_t num_classes, bool cosine,
                               const NearestMeanScratch<T>& scratch, int64_t* labels,
                               cudaStream_t stream) {
  if (samples == 0) return cudaSuccess;
  constexpr ScalarKind own = sizeof(T) == 4 ? ScalarKind::kFloat32 : ScalarKind::kFloat64;
  const T* queries = static_cast<const T*>(features.data);
  cudaError_t status = cudaSuccess;
  if (cosine || features.kind != own) {
    status = convert_rows(features, samples, dim, cosine, scratch.features, stream);
    if (status != cudaSuccess) return status;
    queries = scratch.features;
  }
  if (cosine) {
    status = convert_rows(Rows{means, own}, num_classes, dim, true, scratch.means, stream);
    if (status != cudaSuccess) return status;
    means = scratch.means;
  }
  for (int64_t begin = 0; begin < samples; begin += scratch.chunk) {
    const int64_t count = samples - begin < scratch.chunk ? samples - begin : scratch.chunk;
    status = compute_distances(queries + begin * dim, count, Rows{means, own}, num_classes, dim,
                               scratch.distances, stream);
    if (status != cudaSuccess) return status;
    CLFAST_LAUNCH((exclude_empty_kernel<T>), grid_of(divide_up(num_classes, kWarps)),
                  dim3(kThreads), 0, stream, means, num_classes, dim, count, scratch.distances);
    status = cudaGetLastError();
    if (status != cudaSuccess) return status;
    status = select_nearest(scratch.distances, count, num_classes, 1, scratch.entries,
                            scratch.nearest + begin, labels + begin, stream);
    if (status != cudaSuccess) return status;
  }
  CLFAST_LAUNCH((settle_kernel<T>), grid_of(divide_up(samples, kThreads)), dim3(kThreads), 0,
                stream, means, num_classes, dim, cosine ? queries : nullptr, scratch.nearest,
                samples, labels);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
