// Masks of one bit an element, and the reservation of what embeddings open. Eight elements at a
// time are the bytes of a number of 64 bits, sixteen a vector of SSE2, which all of x86-64 has: no
// levels are wanted.
#pragma once
#include <cstdint>

#include "../common/reserved_mask.h"

namespace clfast::cpu {

// Elements [begin, end); begin is a multiple of 8.
void pack_mask(const uint8_t* mask, int64_t begin, int64_t end, uint8_t* packed);
void unpack_mask(const uint8_t* packed, int64_t begin, int64_t end, uint8_t* mask);

int64_t count_reserved(ReservedMask mask, int64_t begin, int64_t end);

// Marks the elements with e >= 0 too, in `marks` as the mask has them; how many of them are new.
// begin is a multiple of 8.
template <class T>
int64_t reserve(uint8_t* marks, bool packed, const T* embedding, int64_t begin, int64_t end);

}  // namespace clfast::cpu
