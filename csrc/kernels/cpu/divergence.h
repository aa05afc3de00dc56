// The divergence of two predictions, a row at a time, and its gradients by the logits of both.
#pragma once
#include <cstdint>

#include "../common/recall.h"
#include "simd.h"

namespace clfast::cpu {

// Rows [begin, end): values [M], d_p and d_q [M, C]. scratch: 2 C elements.
#define CLFAST_DIVERGENCE(T)                                                              \
  void divergence(const T* p_logits, const T* q_logits, int64_t classes, Divergence kind, \
                  int64_t begin, int64_t end, T* scratch, T* values, T* d_p, T* d_q);
CLFAST_DIVERGENCE(float)
CLFAST_DIVERGENCE(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_DIVERGENCE(float) CLFAST_DIVERGENCE(double))

}  // namespace clfast::cpu
