// The Hebbian update (Hebb paper, Eq. 4): every thread owns a column and walks over the neighbours.
#pragma once
#include "neighbours.cuh"

namespace clfast::cuda {

// closeness[b, k] becomes c_k / |N_i|, or 0 for a class that is not selected; delta_bias gets its
// sums. One block a query.
template <class T>
__global__ void __launch_bounds__(kThreads)
    shares_kernel(int64_t neighbours, int64_t num_classes, const bool* __restrict__ select,
                  Resolved<T> resolved, T* __restrict__ delta_bias) {
  const int64_t* labels = resolved.labels + static_cast<int64_t>(blockIdx.x) * neighbours;
  T* share = resolved.closeness + static_cast<int64_t>(blockIdx.x) * neighbours;
  for (int64_t k = threadIdx.x; k < neighbours; k += kThreads) {
    int64_t count = 0;
    for (int64_t other = 0; other < neighbours; ++other) count += labels[other] == labels[k];
    const bool counts = labels[k] >= 0 && (select == nullptr || select[labels[k]]);
    share[k] = counts ? share[k] / static_cast<T>(count) : T(0);
  }
  __syncthreads();
  for (int64_t k = threadIdx.x; k < neighbours; k += kThreads) {
    if (labels[k] < 0 || !speaks_for_class(labels, k)) continue;
    T sum = T(0);
    for (int64_t other = k; other < neighbours; ++other) {
      if (labels[other] == labels[k]) sum += share[other];
    }
    delta_bias[static_cast<int64_t>(blockIdx.x) * num_classes + labels[k]] = sum;
  }
}

// Grid: queries x blocks of 256 columns. delta_weight is zero before.
template <class T, class Key>
__global__ void __launch_bounds__(kThreads)
    wire_kernel(const Key* __restrict__ keys, int64_t dim, int64_t neighbours, int64_t num_classes,
                Resolved<T> resolved, T* __restrict__ delta_weight) {
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (column >= dim) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * neighbours;
  T* out = delta_weight + static_cast<int64_t>(blockIdx.x) * num_classes * dim;
  for (int64_t k = 0; k < neighbours; ++k) {
    const T share = resolved.closeness[first + k];
    if (resolved.labels[first + k] < 0 || share == T(0)) continue;
    out[resolved.labels[first + k] * dim + column] +=
        share * static_cast<T>(widen(keys[resolved.rows[first + k] * dim + column]));
  }
}

template <class T>
cudaError_t hebbian_update(const Neighbourhood<T>& n, int64_t batch, const bool* select,
                           const Resolved<T>& resolved, T* delta_weight, T* delta_bias,
                           cudaStream_t stream) {
  if (batch == 0) return cudaSuccess;
  const size_t classes = static_cast<size_t>(batch * n.num_classes);
  cudaError_t status = cudaMemsetAsync(delta_bias, 0, classes * sizeof(T), stream);
  if (status != cudaSuccess) return status;
  status =
      cudaMemsetAsync(delta_weight, 0, classes * static_cast<size_t>(n.dim) * sizeof(T), stream);
  if (status != cudaSuccess) return status;
  status = resolve(n, batch, resolved, stream);
  if (status != cudaSuccess) return status;
  CLFAST_LAUNCH((shares_kernel<T>), grid_of(batch), dim3(kThreads), 0, stream, n.neighbours,
                n.num_classes, select, resolved, delta_bias);
  status = cudaGetLastError();
  if (status != cudaSuccess || n.dim == 0) return status;
  return dispatch_rows(n.keys, T{}, [&](auto* keys) {
    using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys)>>;
    CLFAST_LAUNCH((wire_kernel<T, Key>), grid_of(batch, divide_up(n.dim, kThreads)), dim3(kThreads),
                  0, stream, keys, n.dim, n.neighbours, n.num_classes, resolved, delta_weight);
    return cudaGetLastError();
  });
}

}  // namespace clfast::cuda
