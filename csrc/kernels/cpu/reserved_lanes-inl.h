// Masks of what is reserved, a vector at a time.
#pragma once
#include "../common/reserved_mask.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
struct LaneBytesOf;
template <>
struct LaneBytesOf<float> {
  typedef uint8_t type __attribute__((vector_size(CLFAST_VECTOR_BYTES / sizeof(float))));
};
template <>
struct LaneBytesOf<double> {
  typedef uint8_t type __attribute__((vector_size(CLFAST_VECTOR_BYTES / sizeof(double))));
};
template <class T>
using LaneBytes = typename LaneBytesOf<T>::type;

// All bits of a lane are set where element i + lane is reserved, for `count` lanes from 1 to
// kLanes; none is behind them. i is a multiple of kLanes, so that packed lanes begin with a byte,
// or with the half or quarter of one.
template <class T>
inline LaneIndex<T> reserved_lanes(ReservedMask mask, int64_t i, int64_t count) {
  constexpr int lanes = kLanes<T>;
  using Lane = LaneOf<T>;
  const LaneIndex<T> lane = lane_numbers<T>(), none = {};
  if (mask.marks == nullptr) return none;
  if (mask.packed) {
    uint32_t bits = mask.marks[i / 8];
    if (lanes > 8 && count > 8) bits |= static_cast<uint32_t>(mask.marks[i / 8 + 1]) << 8;
    bits >>= i % 8;
    LaneIndex<T> bit_of_lane;
    for (int c = 0; c < lanes; ++c) bit_of_lane[c] = Lane{1} << c;
    const LaneIndex<T> spread = none + static_cast<Lane>(bits);
    return ((spread & bit_of_lane) != none) & (lane < static_cast<Lane>(count));
  }
  LaneBytes<T> bytes = {};
  if (count == lanes) {
    memcpy(&bytes, mask.marks + i, sizeof bytes);
  } else {
    for (int64_t c = 0; c < count; ++c) bytes[c] = mask.marks[i + c];
  }
  return __builtin_convertvector(bytes, LaneIndex<T>) != none;
}

}  // namespace clfast::cpu::CLFAST_LEVEL
