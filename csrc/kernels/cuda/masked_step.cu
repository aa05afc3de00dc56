#include "masked_step.cuh"

namespace clfast::cuda {

#define CLFAST_MASKED_STEP_OF(T)                                                                \
  template cudaError_t masked_sgd_step(const SgdTensor<T>*, const int64_t*, int64_t,            \
                                       const SgdStep<T>&, cudaStream_t);                        \
  template cudaError_t masked_adam_step(const AdamTensor<T>*, const int64_t*, int64_t,          \
                                        const AdamStep<T>&, cudaStream_t);                      \
  template int64_t parts_of_norm<T>(const int64_t*, int64_t);                                   \
  template cudaError_t masked_grad_norm(const MaskedGrad<T>*, const int64_t*, int64_t, double*, \
                                        double*, cudaStream_t);
CLFAST_MASKED_STEP_OF(float)
CLFAST_MASKED_STEP_OF(double)

}  // namespace clfast::cuda
