#include "packed_mask.h"

namespace clfast::cpu {

void pack_mask(const uint8_t* mask, int64_t begin, int64_t end, uint8_t* packed) {
  for (int64_t i = begin; i < end; i += 8) {
    const int64_t count = end - i < 8 ? end - i : 8;
    unsigned bits = 0;
    for (int64_t j = 0; j < count; ++j) bits |= static_cast<unsigned>(mask[i + j] != 0) << j;
    packed[i / 8] = static_cast<uint8_t>(bits);
  }
}

void unpack_mask(const uint8_t* packed, int64_t begin, int64_t end, uint8_t* mask) {
  for (int64_t i = begin; i < end; ++i) mask[i] = packed[i / 8] >> (i % 8) & 1;
}

int64_t count_reserved(ReservedMask mask, int64_t begin, int64_t end) {
  int64_t count = 0;
  int64_t i = begin;
  if (mask.packed) {
    for (; i + 8 <= end; i += 8) count += __builtin_popcount(mask.marks[i / 8]);
  }
  for (; i < end; ++i) count += is_reserved(mask, i);
  return count;
}

template <class T>
int64_t reserve(uint8_t* marks, bool packed, const T* embedding, int64_t begin, int64_t end) {
  int64_t fresh = 0;
  for (int64_t i = begin; i < end; ++i) {
    if (!(embedding[i] >= T(0)) || is_reserved({marks, packed}, i)) continue;
    uint8_t& mark = marks[packed ? i / 8 : i];
    mark = static_cast<uint8_t>(packed ? mark | 1u << (i % 8) : 1u);
    ++fresh;
  }
  return fresh;
}
template int64_t reserve(uint8_t*, bool, const float*, int64_t, int64_t);
template int64_t reserve(uint8_t*, bool, const double*, int64_t, int64_t);

}  // namespace clfast::cpu
