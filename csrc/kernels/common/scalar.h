// Element types a kernel may meet in memory, and the widening of the 16-bit ones to float.
#pragma once
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace clfast {

enum class ScalarKind : int { kFloat32, kFloat64, kFloat16, kBFloat16 };

constexpr int64_t size_of(ScalarKind kind) {
  return kind == ScalarKind::kFloat64 ? 8 : kind == ScalarKind::kFloat32 ? 4 : 2;
}

template <class T>
constexpr ScalarKind kKindOf =
    sizeof(T) == sizeof(double) ? ScalarKind::kFloat64 : ScalarKind::kFloat32;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Two adjacent elements of a row in bfloat16, the first in the lower half.
struct BFloat16Pair {
  uint32_t bits;
};

CLFAST_HD float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

CLFAST_HD float widen(float x) { return x; }
CLFAST_HD double widen(double x) { return x; }
CLFAST_HD float widen(BFloat16 x) { return float_from_bits(static_cast<uint32_t>(x.bits) << 16); }

// A half's exponent moves from bias 15 to bias 127 by a multiplication with 2^112, which also
// normalises subnormals; exponent 31 (infinity, NaN) is set to 255 apart.
CLFAST_HD float widen(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(x.bits & 0x7fffu) << 13;
  const uint32_t special = (x.bits & 0x7c00u) == 0x7c00u ? 0x70000000u : 0u;
  const float scaled = float_from_bits(magnitude) * float_from_bits(0x77800000u);
  uint32_t bits;
  memcpy(&bits, &scaled, sizeof bits);
  return float_from_bits((special ? (magnitude | 0x7f800000u) : bits) | sign);
}

}  // namespace clfast
