// Weights times their soft masks, how much of what is free the masks take, and both gradients.
#pragma once
#include <cstdint>

#include "../common/reserved_mask.h"
#include "../common/soft_mask.h"
#include "simd.h"

namespace clfast::cpu {

// A weight with its embedding, which has one entry an element, or one a run of `inner` elements
// that comes back every `channels` runs.
template <class T>
struct MaskedWeight {
  const T* weight;        // [outer, channels, inner], or null where only the mask matters
  const T* embedding;     // [channels]
  ReservedMask reserved;  // [channels]
  int64_t outer, channels, inner;
};

struct MaskSums {
  double used;   // sum of m over what is not reserved
  double whole;  // sum of m, NaN if an embedding is
  int64_t free;  // how many entries are not reserved
};

// Channels [begin, end); begin is a multiple of 16. mask_weights: masked like weight, or null.
// mask_weights_backward: grad, by what was masked, like weight, or null; share: the gradient by one
// free entry of the mask; d_weight like weight, or null; d_embedding [channels].
#define CLFAST_MASKED_WEIGHT(T)                                                               \
  MaskSums mask_weights(const MaskedWeight<T>& layer, T scale, int64_t begin, int64_t end,    \
                        T* masked);                                                           \
  void mask_weights_backward(const MaskedWeight<T>& layer, const MaskScales<T>& scales,       \
                             const T* grad, T share, int64_t begin, int64_t end, T* d_weight, \
                             T* d_embedding);
CLFAST_MASKED_WEIGHT(float)
CLFAST_MASKED_WEIGHT(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_MASKED_WEIGHT(float) CLFAST_MASKED_WEIGHT(double))

}  // namespace clfast::cpu
