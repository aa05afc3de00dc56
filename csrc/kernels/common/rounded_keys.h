// Keys that were rounded to bfloat16 before a search, for a sweep to read in their place.
#pragma once
#include <cstdint>

#include "scalar.h"

namespace clfast {

// Pairs from row to row: a cache line more than a row of dim elements has. There the last two pairs
// hold, as floats, the row's squared norm before rounding and a bound of the length of what
// rounding took; and at a stride of 4 KiB or a divisor of it the rows of a register tile would
// share a few sets of the L1 cache.
constexpr int64_t rounded_pairs(int64_t dim) { return ((dim + 1) / 2 + 15) / 16 * 16 + 16; }

struct RoundedKeys {
  const BFloat16Pair* rows = nullptr;  // [M, rounded_pairs(d)], of the keys less the offset
  const float* offset = nullptr;       // [d]
};

}  // namespace clfast
