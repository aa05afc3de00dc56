// MbPA's update (Hebb paper, Eq. 5), written out for every query.
#pragma once
#include "mbpa.cuh"

namespace clfast::cuda {

// delta[q, i] = adapted[q, i] - given[i]. Grid: blocks of entries x queries.
template <class T>
__global__ void difference_kernel(const T* __restrict__ adapted, const T* __restrict__ given,
                                  int64_t entries, T* __restrict__ delta) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= entries) return;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * entries + i;
  delta[at] = given == nullptr ? T(0) : adapted[at] - given[i];
}

template <class T>
cudaError_t mbpa_update(const MbpaProblem<T>& p, const Resolved<T>& resolved,
                        const MbpaScratch<T>& scratch, T* delta_weight, T* delta_bias,
                        cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  const Neighbourhood<T>& n = p.neighbourhood;
  cudaError_t status = resolve(n, p.batch, resolved, stream);
  if (status != cudaSuccess) return status;
  const int64_t entries = n.num_classes * n.dim;
  for (int64_t begin = 0; begin < p.batch; begin += scratch.chunk) {
    const int64_t count = p.batch - begin < scratch.chunk ? p.batch - begin : scratch.chunk;
    status = adapt(p, resolved, begin, count, scratch, stream);
    if (status != cudaSuccess) return status;
    if (entries > 0) {
      CLFAST_LAUNCH((difference_kernel<T>), grid_of(divide_up(entries, kThreads), count),
                    dim3(kThreads), 0, stream, scratch.weight, p.weight, entries,
                    delta_weight + begin * entries);
    }
    CLFAST_LAUNCH((difference_kernel<T>), grid_of(divide_up(n.num_classes, kThreads), count),
                  dim3(kThreads), 0, stream, scratch.bias, p.bias, n.num_classes,
                  delta_bias + begin * n.num_classes);
    status = cudaGetLastError();
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace clfast::cuda
