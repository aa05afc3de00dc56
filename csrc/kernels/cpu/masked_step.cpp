#include "masked_step.h"

namespace clfast::cpu {

#define CLFAST_PICK_MASKED_STEP(T)                                                           \
  void masked_sgd_step(const SgdTensor<T>& tensor, const SgdStep<T>& step, int64_t begin,    \
                       int64_t end) {                                                        \
    CLFAST_CALL_AT_LEVEL(masked_sgd_step(tensor, step, begin, end));                         \
  }                                                                                          \
  void masked_adam_step(const AdamTensor<T>& tensor, const AdamStep<T>& step, int64_t begin, \
                        int64_t end) {                                                       \
    CLFAST_CALL_AT_LEVEL(masked_adam_step(tensor, step, begin, end));                        \
  }                                                                                          \
  double masked_sq_norm(const MaskedGrad<T>& tensor, int64_t begin, int64_t end) {           \
    CLFAST_CALL_AT_LEVEL(masked_sq_norm(tensor, begin, end));                                \
  }
CLFAST_PICK_MASKED_STEP(float)
CLFAST_PICK_MASKED_STEP(double)

}  // namespace clfast::cpu
