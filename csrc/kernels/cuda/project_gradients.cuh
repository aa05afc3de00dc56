// A-GEM's projection of lists of gradients: sums of parts, the scale, and what is taken off.
// Pointers go to the kernels as arguments, so the device decides and the host never waits.
#pragma once
#include "consolidation.h"
#include "list_walk.cuh"

namespace clfast::cuda {

// The tensors of one launch, as one row of all their elements.
template <class T>
struct TensorTable {
  T* grads[kTensorsOfALaunch];
  const T* reference[kTensorsOfALaunch];
  int64_t ends[kTensorsOfALaunch];  // in the row of this launch
  int64_t tensors;
};

template <class T>
TensorTable<T> table_of(const GradientLists<T>& lists, int64_t first, int64_t tensors) {
  TensorTable<T> table = {};
  const int64_t before = first > 0 ? lists.ends[first - 1] : 0;
  for (int64_t i = 0; i < tensors; ++i) {
    table.grads[i] = lists.grads[first + i];
    table.reference[i] = lists.reference[first + i];
    table.ends[i] = lists.ends[first + i] - before;
  }
  table.tensors = tensors;
  return table;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    inner_products_kernel(TensorTable<T> table, int64_t elements,
                          InnerProducts* __restrict__ sums) {
  CLFAST_SHARED(double[kWarps], shared);
  InnerProducts own{0, 0};
  for_elements(table, elements, [&](int64_t tensor, int64_t i) {
    const double g = static_cast<double>(table.grads[tensor][i]);
    const double r = static_cast<double>(table.reference[tensor][i]);
    own.dot += g * r;
    own.sq_norm += r * r;
  });
  own.dot = block_sum<kThreads>(own.dot, shared);
  own.sq_norm = block_sum<kThreads>(own.sq_norm, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = own;
}

// One block.
static __global__ void __launch_bounds__(kThreads)
    projection_scale_kernel(const InnerProducts* __restrict__ sums, int64_t parts,
                            double* __restrict__ scale) {
  CLFAST_SHARED(double[kWarps], shared);
  InnerProducts all{0, 0};
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) {
    all.dot += sums[i].dot;
    all.sq_norm += sums[i].sq_norm;
  }
  all.dot = block_sum<kThreads>(all.dot, shared);
  all.sq_norm = block_sum<kThreads>(all.sq_norm, shared);
  if (threadIdx.x == 0) *scale = projection_scale(all);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    subtract_scaled_kernel(TensorTable<T> table, int64_t elements,
                           const double* __restrict__ scale) {
  const double times = *scale;
  if (times == 0) return;
  for_elements(table, elements, [&](int64_t tensor, int64_t i) {
    T& g = table.grads[tensor][i];
    const double r = static_cast<double>(table.reference[tensor][i]);
    g = static_cast<T>(static_cast<double>(g) - times * r);
  });
}

template <class T>
cudaError_t project_gradients(const GradientLists<T>& lists, InnerProducts* sums, double* scale,
                              cudaStream_t stream) {
  int64_t parts = 0;
  for_launches<kTensorsOfALaunch>(
      lists.ends, lists.tensors, [&](int64_t first, int64_t count, int64_t elements) {
        const int64_t blocks = parts_of_elements(elements);
        CLFAST_LAUNCH((inner_products_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream,
                      table_of(lists, first, count), elements, sums + parts);
        parts += blocks;
      });
  if (parts == 0) return cudaSuccess;
  CLFAST_LAUNCH(projection_scale_kernel, dim3(1), dim3(kThreads), 0, stream, sums, parts, scale);
  for_launches<kTensorsOfALaunch>(
      lists.ends, lists.tensors, [&](int64_t first, int64_t count, int64_t elements) {
        CLFAST_LAUNCH((subtract_scaled_kernel<T>), grid_of(parts_of_elements(elements)),
                      dim3(kThreads), 0, stream, table_of(lists, first, count), elements, scale);
      });
  return cudaGetLastError();
}

}  // namespace clfast::cuda
