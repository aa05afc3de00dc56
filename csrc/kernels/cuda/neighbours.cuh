// Looking up the neighbours of a batch, and their dot products with the queries.
#pragma once
#include "adaptation.h"
#include "launch.h"
#include "rows.cuh"

namespace clfast::cuda {

template <class T>
__global__ void resolve_kernel(Neighbourhood<T> n, int64_t batch, Resolved<T> out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= batch * n.neighbours) return;
  const bool fine = check_neighbour(n, at / n.neighbours, at % n.neighbours) == Fault::kNone;
  out.rows[at] = fine ? n.indices[at] : -1;
  out.labels[at] = fine ? n.labels[n.indices[at]] : -1;
  out.closeness[at] = fine ? closeness(n, at) : T(0);
}

template <class T>
cudaError_t resolve(const Neighbourhood<T>& n, int64_t batch, const Resolved<T>& out,
                    cudaStream_t stream) {
  CLFAST_LAUNCH((resolve_kernel<T>), grid_of(divide_up(batch * n.neighbours, kThreads)),
                dim3(kThreads), 0, stream, n, batch, out);
  return cudaGetLastError();
}

// <x, h_k>, one warp a neighbour, in double when formed from the key.
template <class T, class Key>
__global__ void dots_kernel(Neighbourhood<T> n, int64_t batch, const Key* __restrict__ keys,
                            const T* __restrict__ queries, const T* __restrict__ key_sq_norms,
                            Resolved<T> resolved, T* __restrict__ dots) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (at >= batch * n.neighbours) return;
  const T* x = queries + at / n.neighbours * n.dim;
  const int64_t row = resolved.rows[at];
  if (row < 0) {
    if (threadIdx.x % kWarpSize == 0) dots[at] = T(0);
    return;
  }
  double sum = 0;
  for (int64_t j = threadIdx.x % kWarpSize; j < n.dim; j += kWarpSize) {
    const double other = static_cast<double>(
        key_sq_norms == nullptr ? static_cast<T>(widen(keys[row * n.dim + j])) : x[j]);
    sum += static_cast<double>(x[j]) * other;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarpSize != 0) return;
  const T value = static_cast<T>(sum);
  dots[at] = key_sq_norms == nullptr ? value
                                     : dot_from_norms(value, key_sq_norms[row], n.sq_distances[at]);
}

template <class T>
cudaError_t neighbour_dots(const Neighbourhood<T>& n, int64_t batch, const T* queries,
                           const T* key_sq_norms, const Resolved<T>& resolved, T* dots,
                           cudaStream_t stream) {
  return dispatch_rows(n.keys, T{}, [&](auto* keys) {
    using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys)>>;
    CLFAST_LAUNCH((dots_kernel<T, Key>), grid_of(divide_up(batch * n.neighbours, kWarps)),
                  dim3(kThreads), 0, stream, n, batch, keys, queries, key_sq_norms, resolved, dots);
    return cudaGetLastError();
  });
}

// Feature j of a neighbour; nothing is read for one that is left out.
template <class T, class Key>
__device__ __forceinline__ T feature_of(const Key* keys, int64_t row, int64_t dim, int64_t j) {
  return row < 0 ? T(0) : static_cast<T>(widen(keys[row * dim + j]));
}

// Whether no neighbour before k has k's class: then thread k speaks for the class. No atomics, so
// every sum has one order.
__device__ __forceinline__ bool speaks_for_class(const int64_t* labels, int64_t k) {
  for (int64_t before = 0; before < k; ++before) {
    if (labels[before] == labels[k]) return false;
  }
  return true;
}

}  // namespace clfast::cuda
