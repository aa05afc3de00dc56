#include "masked_weight.h"

namespace clfast::cpu {

#define CLFAST_PICK_MASKED_WEIGHT(T)                                                           \
  MaskSums mask_weights(const MaskedWeight<T>& layer, T scale, int64_t begin, int64_t end,     \
                        T* masked) {                                                           \
    CLFAST_CALL_AT_LEVEL(mask_weights(layer, scale, begin, end, masked));                      \
  }                                                                                            \
  void mask_weights_backward(const MaskedWeight<T>& layer, const MaskScales<T>& scales,        \
                             const T* grad, T share, int64_t begin, int64_t end, T* d_weight,  \
                             T* d_embedding) {                                                 \
    CLFAST_CALL_AT_LEVEL(                                                                      \
        mask_weights_backward(layer, scales, grad, share, begin, end, d_weight, d_embedding)); \
  }
CLFAST_PICK_MASKED_WEIGHT(float)
CLFAST_PICK_MASKED_WEIGHT(double)

}  // namespace clfast::cpu
