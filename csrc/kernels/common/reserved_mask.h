// Masks of what earlier tasks reserved: a byte an element, or a bit.
#pragma once
#include <cstdint>

#include "host_device.h"

namespace clfast {

struct ReservedMask {
  const uint8_t* marks;  // [elements] of 0 and 1, or [ceil(elements / 8)] packed; null: all is free
  bool packed;           // element 8 i + j is bit j of byte i
};

CLFAST_HD bool is_reserved(ReservedMask mask, int64_t i) {
  if (mask.marks == nullptr) return false;
  return mask.packed ? (mask.marks[i / 8] >> (i % 8) & 1) != 0 : mask.marks[i] != 0;
}

}  // namespace clfast
