// EWC's penalty over a part of a tensor, with its gradient, and the gradient alone, added to
// another.
#pragma once
#include <cstdint>

#include "../common/quadratic_penalty.h"
#include "simd.h"

namespace clfast::cpu {

// Elements [begin, end). quadratic_penalty: the sum, in double; it writes the gradient unless that
// is null. add_penalty_gradient: grad += strength times the gradient.
#define CLFAST_QUADRATIC_PENALTY(T)                                                     \
  double quadratic_penalty(const PenaltyTensor<T>& tensor, int64_t begin, int64_t end); \
  void add_penalty_gradient(const PenaltyTensor<T>& tensor, T strength, int64_t begin, int64_t end);
CLFAST_QUADRATIC_PENALTY(float)
CLFAST_QUADRATIC_PENALTY(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_QUADRATIC_PENALTY(float) CLFAST_QUADRATIC_PENALTY(double))

}  // namespace clfast::cpu
