// Launchers of the masks kernels, for the glue and for the emulator's bindings. Include what
// defines cudaError_t and cudaStream_t first. Tensors are on the device, the arrays of entries that
// list them on the host; ends[i] is where entry i ends in the row of all elements.
#pragma once
#include <cstdint>

#include "../common/reserved_mask.h"
#include "../common/soft_mask.h"
#include "list_launches.h"

namespace clfast::cuda {

// weight [outer, channels, inner], embedding and reserved [channels]. Where only the mask matters
// outer and inner are 1 and weight and masked null.
template <class T>
struct MaskedEntry {
  const T *weight, *embedding;
  ReservedMask reserved;
  int64_t channels, inner;
  T* masked;
};

template <class T>
struct MaskedGradEntry {
  const T *weight, *embedding;
  const T* grad;  // by what was masked, or null
  ReservedMask reserved;
  int64_t outer, channels, inner;
  T *d_weight, *d_embedding;
};

struct PartOfSparsity {
  double used;
  int64_t free;
};

template <class T>
int64_t parts_of_masks(const int64_t* ends, int64_t count) {
  return parts_of_launches<kEntriesOfALaunch<MaskedEntry<T>>>(ends, count);
}
// Masked weights; parts: parts_of_masks() of scratch; value: one element, the used share of what is
// free; free: how many entries that is. Either of the two may be null.
template <class T>
cudaError_t mask_weights(const MaskedEntry<T>* layers, const int64_t* ends, int64_t count, T scale,
                         PartOfSparsity* parts, T* value, int64_t* free, cudaStream_t stream);

// Gradients of layers with an embedding an element (`ends` in elements), or of layers whose
// embedding is spread (`ends` in channels). sparsity_grad: one element, or null for 1.
template <class T>
cudaError_t mask_weights_backward(const MaskedGradEntry<T>* layers, const int64_t* ends,
                                  int64_t count, bool spread, const MaskScales<T>& scales,
                                  const T* sparsity_grad, const int64_t* free, cudaStream_t stream);

template <class T>
struct BlockedEntry {
  T* grad;
  ReservedMask reserved;
};
template <class T>
cudaError_t block_gradients(const BlockedEntry<T>* entries, const int64_t* ends, int64_t count,
                            cudaStream_t stream);

template <class T>
struct CompensatedEntry {
  T* grad;
  const T* embedding;
  T largest;  // number that the gradient's own dtype holds
};
template <class T>
cudaError_t compensate_gradients(const CompensatedEntry<T>* entries, const int64_t* ends,
                                 int64_t count, T scale, T factor, T clamp, cudaStream_t stream);

cudaError_t pack_mask(const uint8_t* mask, int64_t elements, uint8_t* packed, cudaStream_t stream);
cudaError_t unpack_mask(const uint8_t* packed, int64_t elements, uint8_t* mask,
                        cudaStream_t stream);

// Marks the elements with e >= 0, too; fresh: one element, how many of them are new.
template <class T>
cudaError_t reserve(uint8_t* marks, bool packed, const T* embedding, int64_t elements,
                    int64_t* fresh, cudaStream_t stream);

}  // namespace clfast::cuda
