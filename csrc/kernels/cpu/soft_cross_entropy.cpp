#include "soft_cross_entropy.h"

namespace clfast::cpu {

#define CLFAST_PICK_SOFT_CROSS_ENTROPY(T)                                                        \
  void soft_cross_entropy(const SoftCrossEntropyProblem<T>& problem, int64_t begin, int64_t end, \
                          T* scratch, T* values, T* gradient) {                                  \
    CLFAST_CALL_AT_LEVEL(soft_cross_entropy(problem, begin, end, scratch, values, gradient));    \
  }
CLFAST_PICK_SOFT_CROSS_ENTROPY(float)
CLFAST_PICK_SOFT_CROSS_ENTROPY(double)

}  // namespace clfast::cpu
