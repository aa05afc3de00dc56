// Gradients of what is reserved become 0, and gradients of embeddings are compensated for the slope
// of a steep sigmoid.
#pragma once
#include <cstdint>

#include "../common/reserved_mask.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct Compensation {
  T scale;    // of the embedding
  T factor;   // max_scale / scale
  T clamp;    // of |scale e|, or infinite
  T largest;  // number that the gradient's own dtype holds
};

// Elements [begin, end); begin is a multiple of 64.
#define CLFAST_BLOCK_GRADIENTS(T)                                                              \
  void block_gradients(T* grads, const ReservedMask& reserved, int64_t begin, int64_t end);    \
  void compensate_gradients(T* grads, const T* embedding, const Compensation<T>& compensation, \
                            int64_t begin, int64_t end);
CLFAST_BLOCK_GRADIENTS(float)
CLFAST_BLOCK_GRADIENTS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_BLOCK_GRADIENTS(float) CLFAST_BLOCK_GRADIENTS(double))

}  // namespace clfast::cpu
