// Gradients of what is reserved become 0, and gradients of embeddings are compensated, over lists
// of tensors.
#pragma once
#include <cmath>

#include "../common/compensation.h"
#include "list_table.cuh"
#include "masks.h"

namespace clfast::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads)
    block_gradients_kernel(ListTable<BlockedEntry<T>> table, int64_t elements) {
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    if (is_reserved(table.of[at].reserved, i)) table.of[at].grad[i] = T(0);
  });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    compensate_gradients_kernel(ListTable<CompensatedEntry<T>> table, int64_t elements, T scale,
                                T factor, T clamp) {
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    T& grad = table.of[at].grad[i];
    const T e = table.of[at].embedding[i], size = e < T(0) ? -e : e;
    const T x = scale * size, steep = x < clamp ? x : clamp;
    const T decay = exp(-(steep < size ? steep : size)), fall = exp(-half_gap<T>(steep, size));
    grad = compensated<T>(grad, steep, size, decay, fall, factor, table.of[at].largest);
  });
}

template <class T>
cudaError_t block_gradients(const BlockedEntry<T>* entries, const int64_t* ends, int64_t count,
                            cudaStream_t stream) {
  for_tables(entries, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((block_gradients_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream, table,
                  elements);
  });
  return cudaGetLastError();
}

template <class T>
cudaError_t compensate_gradients(const CompensatedEntry<T>* entries, const int64_t* ends,
                                 int64_t count, T scale, T factor, T clamp, cudaStream_t stream) {
  for_tables(entries, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((compensate_gradients_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream,
                  table, elements, scale, factor, clamp);
  });
  return cudaGetLastError();
}

}  // namespace clfast::cuda
