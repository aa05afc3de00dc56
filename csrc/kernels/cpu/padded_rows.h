// Leading dimensions of scratch: the same for every SIMD level.
#pragma once
#include <cstdint>

namespace clfast::cpu {

// A leading dimension that vectors of any level can read past the end of a row, and that is no
// multiple of 4 KiB: rows of a power of two would all compete for the same few cache sets.
static inline int64_t padded(int64_t n) {
  const int64_t vectors = (n + 15) / 16;
  return 16 * (vectors % 2 == 0 ? vectors + 1 : vectors);
}

}  // namespace clfast::cpu
