#include "masked_weight.cuh"

namespace clfast::cuda {

#define CLFAST_INSTANTIATE(T)                                                                      \
  template int64_t parts_of_masks<T>(const int64_t*, int64_t);                                     \
  template cudaError_t mask_weights(const MaskedEntry<T>*, const int64_t*, int64_t, T,             \
                                    PartOfSparsity*, T*, int64_t*, cudaStream_t);                  \
  template cudaError_t mask_weights_backward(const MaskedGradEntry<T>*, const int64_t*, int64_t,   \
                                             bool, const MaskScales<T>&, const T*, const int64_t*, \
                                             cudaStream_t);
CLFAST_INSTANTIATE(float)
CLFAST_INSTANTIATE(double)

}  // namespace clfast::cuda
