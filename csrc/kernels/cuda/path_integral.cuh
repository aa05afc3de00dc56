// The path integral of synaptic intelligence over lists of tensors.
#pragma once
#include "consolidation.h"
#include "list_table.cuh"

namespace clfast::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads)
    path_integral_kernel(ListTable<PathTensor<T>> table, int64_t elements) {
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    const PathTensor<T>& tensor = table.of[at];
    const T delta = tensor.before == nullptr ? tensor.after[i] : tensor.after[i] - tensor.before[i];
    if (delta != T(0)) tensor.omega[i] -= tensor.grad[i] * delta;
  });
}

template <class T>
cudaError_t path_integral(const PathTensor<T>* tensors, const int64_t* ends, int64_t count,
                          cudaStream_t stream) {
  for_tables(tensors, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((path_integral_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream, table,
                  elements);
  });
  return cudaGetLastError();
}

}  // namespace clfast::cuda
