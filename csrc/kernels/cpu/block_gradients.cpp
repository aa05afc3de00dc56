#include "block_gradients.h"

namespace clfast::cpu {

#define CLFAST_PICK_BLOCK_GRADIENTS(T)                                                         \
  void block_gradients(T* grads, const ReservedMask& reserved, int64_t begin, int64_t end) {   \
    CLFAST_CALL_AT_LEVEL(block_gradients(grads, reserved, begin, end));                        \
  }                                                                                            \
  void compensate_gradients(T* grads, const T* embedding, const Compensation<T>& compensation, \
                            int64_t begin, int64_t end) {                                      \
    CLFAST_CALL_AT_LEVEL(compensate_gradients(grads, embedding, compensation, begin, end));    \
  }
CLFAST_PICK_BLOCK_GRADIENTS(float)
CLFAST_PICK_BLOCK_GRADIENTS(double)

}  // namespace clfast::cpu
