#include "packed_mask.h"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace clfast::cpu {
namespace {

// Eight marks: byte j is 1 where element j is marked, otherwise 0.
using Eight = uint64_t;
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "byte j of memory is byte j of the number");
constexpr Eight kOnes = 0x0101010101010101;

int64_t count_of(Eight marks) { return static_cast<int64_t>(marks * kOnes >> 56); }

// Of the first `count` elements, 1 to 8; any byte but 0 is a mark.
Eight load_marks(const uint8_t* bytes, int64_t count) {
  Eight any = 0;
  if (count == 8) {
    memcpy(&any, bytes, 8);
  } else {
    for (int64_t j = 0; j < count; ++j) any |= static_cast<Eight>(bytes[j]) << (8 * j);
  }
  any |= any >> 4;
  any |= any >> 2;
  any |= any >> 1;
  return any & kOnes;
}

void store_marks(Eight marks, uint8_t* bytes, int64_t count) {
  if (count == 8) {
    memcpy(bytes, &marks, 8);
  } else {
    for (int64_t j = 0; j < count; ++j) bytes[j] = static_cast<uint8_t>(marks >> (8 * j));
  }
}

// The product has bit 8 j at 56 + j, and no two terms at one place.
uint8_t bits_of(Eight marks) { return static_cast<uint8_t>(marks * 0x0102040810204080 >> 56); }

// Bit j to byte j, where it is 0 or 2^j; 127 more has the highest bit where it was not 0.
Eight marks_of(uint8_t bits) {
  const Eight spread = bits * kOnes & 0x8040201008040201;
  return (spread + 127 * kOnes) >> 7 & kOnes;
}

template <class T>
Eight opened(const T* embedding, int64_t count) {
  uint8_t open[8] = {};
  if (count == 8) {
    for (int j = 0; j < 8; ++j) open[j] = embedding[j] >= T(0);
  } else {
    for (int64_t j = 0; j < count; ++j) open[j] = embedding[j] >= T(0);
  }
  return load_marks(open, 8);
}

// body(i, count) for the eights of [begin, end).
template <class Body>
inline __attribute__((always_inline)) void for_eights(int64_t begin, int64_t end,
                                                      const Body& body) {
  int64_t i = begin;
  for (; i + 8 <= end; i += 8) body(i, 8);
  if (i < end) body(i, end - i);
}

}  // namespace

void pack_mask(const uint8_t* mask, int64_t begin, int64_t end, uint8_t* packed) {
  int64_t whole = begin;
#if defined(__SSE2__)
  for (; whole + 16 <= end; whole += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(mask + whole));
    const int unmarked = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_setzero_si128()));
    const uint16_t bits = static_cast<uint16_t>(~unmarked);
    memcpy(packed + whole / 8, &bits, 2);
  }
#endif
  for_eights(whole, end, [&](int64_t i, int64_t count) {
    packed[i / 8] = bits_of(load_marks(mask + i, count));
  });
}

void unpack_mask(const uint8_t* packed, int64_t begin, int64_t end, uint8_t* mask) {
  int64_t whole = begin;
#if defined(__SSE2__)
  const __m128i bit = _mm_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  for (; whole + 16 <= end; whole += 16) {
    uint16_t bits;
    memcpy(&bits, packed + whole / 8, 2);
    __m128i spread = _mm_cvtsi32_si128(bits);  // eight times the first byte, eight the second
    spread = _mm_unpacklo_epi8(spread, spread);
    spread = _mm_unpacklo_epi16(spread, spread);
    spread = _mm_unpacklo_epi32(spread, spread);
    const __m128i marked = _mm_cmpeq_epi8(_mm_and_si128(spread, bit), bit);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(mask + whole),
                     _mm_and_si128(marked, _mm_set1_epi8(1)));
  }
#endif
  for_eights(whole, end, [&](int64_t i, int64_t count) {
    store_marks(marks_of(packed[i / 8]), mask + i, count);
  });
}

int64_t count_reserved(ReservedMask mask, int64_t begin, int64_t end) {
  int64_t sum = 0;
  if (mask.marks == nullptr) return sum;
  for_eights(begin, end, [&](int64_t i, int64_t count) {
    if (mask.packed) {
      sum += count_of(marks_of(mask.marks[i / 8]) << (8 * (8 - count)));
    } else {
      sum += count_of(load_marks(mask.marks + i, count));
    }
  });
  return sum;
}

template <class T>
int64_t reserve(uint8_t* marks, bool packed, const T* embedding, int64_t begin, int64_t end) {
  int64_t sum = 0;
  for_eights(begin, end, [&](int64_t i, int64_t count) {
    const Eight open = opened(embedding + i, count);
    const Eight before = packed ? marks_of(marks[i / 8]) : load_marks(marks + i, count);
    sum += count_of(open & ~before);
    if (packed) {
      marks[i / 8] = bits_of(before | open);
    } else {
      store_marks(before | open, marks + i, count);
    }
  });
  return sum;
}
template int64_t reserve(uint8_t*, bool, const float*, int64_t, int64_t);
template int64_t reserve(uint8_t*, bool, const double*, int64_t, int64_t);

}  // namespace clfast::cpu
