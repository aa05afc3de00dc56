#include "block_gradients.cuh"

namespace clfast::cuda {

#define CLFAST_INSTANTIATE(T)                                                                    \
  template cudaError_t block_gradients(const BlockedEntry<T>*, const int64_t*, int64_t,          \
                                       cudaStream_t);                                            \
  template cudaError_t compensate_gradients(const CompensatedEntry<T>*, const int64_t*, int64_t, \
                                            T, T, T, cudaStream_t);
CLFAST_INSTANTIATE(float)
CLFAST_INSTANTIATE(double)

}  // namespace clfast::cuda
