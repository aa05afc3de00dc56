// EWC's penalty and its gradient over lists of tensors; sums of parts have one order.
#pragma once
#include "consolidation.h"
#include "list_table.cuh"

namespace clfast::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads)
    quadratic_penalty_kernel(ListTable<PenaltyTensor<T>> table, int64_t elements,
                             double* __restrict__ sums) {
  CLFAST_SHARED(double[kWarps], shared);
  double own = 0;
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    const PenaltyTensor<T>& tensor = table.of[at];
    const T distance = tensor.param[i] - tensor.anchor[i], importance = tensor.importance[i];
    own += static_cast<double>(penalty_term(distance, importance));
    if (tensor.grad != nullptr) tensor.grad[i] = penalty_slope(distance, importance);
  });
  own = block_sum<kThreads>(own, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = own;
}

// One block.
template <class T>
__global__ void __launch_bounds__(kThreads)
    penalty_of_sums_kernel(const double* __restrict__ sums, int64_t parts, T* __restrict__ value) {
  CLFAST_SHARED(double[kWarps], shared);
  const double all = sum_of_parts(sums, parts, shared);
  if (threadIdx.x == 0) *value = static_cast<T>(all);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    add_penalty_gradients_kernel(ListTable<PenaltyTensor<T>> table, int64_t elements, T strength) {
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    const PenaltyTensor<T>& tensor = table.of[at];
    const T distance = tensor.param[i] - tensor.anchor[i];
    tensor.grad[i] += strength * penalty_slope(distance, tensor.importance[i]);
  });
}

template <class T>
cudaError_t quadratic_penalty(const PenaltyTensor<T>* tensors, const int64_t* ends, int64_t count,
                              double* sums, T* value, cudaStream_t stream) {
  int64_t parts = 0;
  for_tables(tensors, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((quadratic_penalty_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream, table,
                  elements, sums + parts);
    parts += blocks;
  });
  CLFAST_LAUNCH((penalty_of_sums_kernel<T>), dim3(1), dim3(kThreads), 0, stream, sums, parts,
                value);
  return cudaGetLastError();
}

template <class T>
cudaError_t add_penalty_gradients(const PenaltyTensor<T>* tensors, const int64_t* ends,
                                  int64_t count, T strength, cudaStream_t stream) {
  for_tables(tensors, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((add_penalty_gradients_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream,
                  table, elements, strength);
  });
  return cudaGetLastError();
}

}  // namespace clfast::cuda
