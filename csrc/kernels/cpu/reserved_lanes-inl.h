// Masks of what is reserved, a vector at a time.
#pragma once
#include "../common/reserved_mask.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Bytes as lanes. GCC's own conversion goes through memory, lane by lane.
template <class T>
inline LaneIndex<T> widened_bytes(const uint8_t* bytes) {
#if defined(__AVX512F__)
  // Without a mask GCC 12 warns of its own header.
  if constexpr (sizeof(T) == sizeof(float)) {
    return (LaneIndex<T>)_mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128((const __m128i*)bytes));
  } else {
    return (LaneIndex<T>)_mm512_maskz_cvtepu8_epi64(0xff, _mm_loadl_epi64((const __m128i*)bytes));
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return (LaneIndex<T>)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes));
  } else {
    int32_t four;
    memcpy(&four, bytes, sizeof four);
    return (LaneIndex<T>)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(four));
  }
#else
  LaneIndex<T> lanes;
  for (int c = 0; c < kLanes<T>; ++c) lanes[c] = bytes[c];
  return lanes;
#endif
}

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
  if (count == lanes) return widened_bytes<T>(mask.marks + i) != none;
  uint8_t bytes[lanes] = {};
  for (int64_t c = 0; c < count; ++c) bytes[c] = mask.marks[i + c];
  return widened_bytes<T>(bytes) != none;
}

}  // namespace clfast::cpu::CLFAST_LEVEL
