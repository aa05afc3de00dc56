// A table of which classes are new.
#pragma once
#include "rows.cuh"

namespace clfast::cuda {

// One block.
static __global__ void __launch_bounds__(kThreads)
    mark_new_classes_kernel(const int64_t* __restrict__ new_classes, int64_t new_count,
                            int64_t classes, uint8_t* __restrict__ is_new) {
  for (int64_t c = threadIdx.x; c < classes; c += kThreads) is_new[c] = 0;
  __syncthreads();
  for (int64_t j = threadIdx.x; j < new_count; j += kThreads) {
    const int64_t own = new_classes[j];
    if (own >= 0 && own < classes) is_new[own] = 1;
  }
}

inline cudaError_t mark_new_classes(const int64_t* new_classes, int64_t new_count, int64_t classes,
                                    uint8_t* is_new, cudaStream_t stream) {
  CLFAST_LAUNCH(mark_new_classes_kernel, dim3(1), dim3(kThreads), 0, stream, new_classes, new_count,
                classes, is_new);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
