// Hebb paper, Eq. 7: one thread a class.
#pragma once
#include "../common/interpolation.h"
#include "adaptation.h"
#include "launch.h"
#include "rows.cuh"

namespace clfast::cuda {

template <class T>
__global__ void interpolation_kernel(const int64_t* __restrict__ counts, int64_t num_classes,
                                     double beta, double log_beta, T* __restrict__ out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < num_classes) out[i] = static_cast<T>(interpolation_weight(counts[i], beta, log_beta));
}

template <class T>
cudaError_t interpolation_weights(const int64_t* counts, int64_t num_classes, double beta, T* out,
                                  cudaStream_t stream) {
  if (num_classes == 0) return cudaSuccess;
  CLFAST_LAUNCH((interpolation_kernel<T>), grid_of(divide_up(num_classes, kThreads)),
                dim3(kThreads), 0, stream, counts, num_classes, beta, std::log(beta), out);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
