// Steps of SGD and Adam over a part of a tensor, and the sum of squares of a gradient, all of them
// with what is reserved left out.
#pragma once
#include <cstdint>

#include "../common/masked_step.h"
#include "simd.h"

namespace clfast::cpu {

// Elements [begin, end); begin is a multiple of 16. The sum is in double.
#define CLFAST_MASKED_STEP(T)                                                                \
  void masked_sgd_step(const SgdTensor<T>& tensor, const SgdStep<T>& step, int64_t begin,    \
                       int64_t end);                                                         \
  void masked_adam_step(const AdamTensor<T>& tensor, const AdamStep<T>& step, int64_t begin, \
                        int64_t end);                                                        \
  double masked_sq_norm(const MaskedGrad<T>& tensor, int64_t begin, int64_t end);
CLFAST_MASKED_STEP(float)
CLFAST_MASKED_STEP(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_MASKED_STEP(float) CLFAST_MASKED_STEP(double))

}  // namespace clfast::cpu
