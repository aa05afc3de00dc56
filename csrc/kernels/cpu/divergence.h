// The divergence of two predictions, a row at a time, and its gradients by the logits of both.
#pragma once
#include <cstdint>

#include "../common/recall.h"
#include "padded_classes.h"
#include "simd.h"

namespace clfast::cpu {

// Rows [begin, end): values [M], d_p and d_q [M, C]. scratch:
// divergence_scratch() elements.
#define CLFAST_DIVERGENCE(T)                                                              \
  void divergence(const T* p_logits, const T* q_logits, int64_t classes, Divergence kind, \
                  int64_t begin, int64_t end, T* scratch, T* values, T* d_p, T* d_q);
CLFAST_DIVERGENCE(float)
CLFAST_DIVERGENCE(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_DIVERGENCE(float) CLFAST_DIVERGENCE(double))

static inline int64_t divergence_scratch(int64_t classes) { return 2 * padded_classes(classes); }

}  // namespace clfast::cpu
