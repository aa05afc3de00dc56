#include "quadratic_penalty.cuh"

namespace clfast::cuda {

#define CLFAST_QUADRATIC_PENALTY_OF(T)                                                            \
  template cudaError_t quadratic_penalty(const PenaltyTensor<T>*, const int64_t*, int64_t,        \
                                         double*, T*, cudaStream_t);                              \
  template cudaError_t add_penalty_gradients(const PenaltyTensor<T>*, const int64_t*, int64_t, T, \
                                             cudaStream_t);
CLFAST_QUADRATIC_PENALTY_OF(float)
CLFAST_QUADRATIC_PENALTY_OF(double)

}  // namespace clfast::cuda
