#include "quadratic_penalty.h"

namespace clfast::cpu {

#define CLFAST_PICK_QUADRATIC_PENALTY(T)                                                 \
  double quadratic_penalty(const PenaltyTensor<T>& tensor, int64_t begin, int64_t end) { \
    CLFAST_CALL_AT_LEVEL(quadratic_penalty(tensor, begin, end));                         \
  }                                                                                      \
  void add_penalty_gradient(const PenaltyTensor<T>& tensor, T strength, int64_t begin,   \
                            int64_t end) {                                               \
    CLFAST_CALL_AT_LEVEL(add_penalty_gradient(tensor, strength, begin, end));            \
  }
CLFAST_PICK_QUADRATIC_PENALTY(float)
CLFAST_PICK_QUADRATIC_PENALTY(double)

}  // namespace clfast::cpu
