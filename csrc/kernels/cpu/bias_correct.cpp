#include "bias_correct.h"

namespace clfast::cpu {

#define CLFAST_PICK_BIAS_CORRECT(T)                                                              \
  void bias_correct(const T* logits, const T* factors, const T* offsets, int64_t classes,        \
                    int64_t begin, int64_t end, T* out) {                                        \
    CLFAST_CALL_AT_LEVEL(bias_correct(logits, factors, offsets, classes, begin, end, out));      \
  }                                                                                              \
  void bias_correct_gradients(const T* grad, const T* logits, const T* factors, const T* is_new, \
                              int64_t classes, int64_t begin, int64_t end, T* out, T* sums) {    \
    CLFAST_CALL_AT_LEVEL(                                                                        \
        bias_correct_gradients(grad, logits, factors, is_new, classes, begin, end, out, sums));  \
  }
CLFAST_PICK_BIAS_CORRECT(float)
CLFAST_PICK_BIAS_CORRECT(double)

}  // namespace clfast::cpu
