#include "divergence.h"

namespace clfast::cpu {

#define CLFAST_PICK_DIVERGENCE(T)                                                              \
  void divergence(const T* p_logits, const T* q_logits, int64_t classes, Divergence kind,      \
                  int64_t begin, int64_t end, T* scratch, T* values, T* d_p, T* d_q) {         \
    CLFAST_CALL_AT_LEVEL(                                                                      \
        divergence(p_logits, q_logits, classes, kind, begin, end, scratch, values, d_p, d_q)); \
  }
CLFAST_PICK_DIVERGENCE(float)
CLFAST_PICK_DIVERGENCE(double)

}  // namespace clfast::cpu
