// Vectors of the SIMD level that this translation unit is compiled for. Included by *-inl.h files
// only. Everything is in the level's own namespace and nothing here instantiates a template that
// another unit could share: the linker keeps one copy of a shared template, and would hand AVX-512
// code to a processor without it.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../common/scalar.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__AVX512F__)
#define CLFAST_LEVEL avx512
#define CLFAST_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define CLFAST_LEVEL avx2
#define CLFAST_VECTOR_BYTES 32
#else
#define CLFAST_LEVEL base
#define CLFAST_VECTOR_BYTES 16
#endif

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(CLFAST_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(CLFAST_VECTOR_BYTES)));
};
template <class T>
using Vector = typename VectorOf<T>::type;

template <class T>
constexpr int kLanes = CLFAST_VECTOR_BYTES / sizeof(T);

template <class T>
inline Vector<T> load(const T* p) {
  Vector<T> v;
  memcpy(&v, p, sizeof v);
  return v;
}

typedef float HalfVector __attribute__((vector_size(CLFAST_VECTOR_BYTES / 2)));

// g++ 12 would convert a quarter of a vector at a time.
inline Vector<double> as_doubles(HalfVector v) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtps_pd(0xff, v);  // without a mask it warns of its own header
#elif defined(__AVX2__)
  return _mm256_cvtps_pd(v);
#else
  return __builtin_convertvector(v, Vector<double>);
#endif
}

// As many elements as a vector has of double.
inline Vector<double> load_wide(const double* p) { return load(p); }
inline Vector<double> load_wide(const float* p) {
  HalfVector v;
  memcpy(&v, p, sizeof v);
  return as_doubles(v);
}

// The halves of a vector of float, widened and added: as many lanes as a vector has of double.
inline Vector<double> joined_halves(Vector<double> v) { return v; }
inline Vector<double> joined_halves(Vector<float> v) {
  HalfVector halves[2];
  memcpy(halves, &v, sizeof v);
  return as_doubles(halves[0]) + as_doubles(halves[1]);
}

template <class T>
inline void store(T* p, Vector<T> v) {
  memcpy(p, &v, sizeof v);
}

template <class T>
struct LaneIndexOf;
template <>
struct LaneIndexOf<float> {
  typedef int32_t type __attribute__((vector_size(CLFAST_VECTOR_BYTES)));
};
template <>
struct LaneIndexOf<double> {
  typedef int64_t type __attribute__((vector_size(CLFAST_VECTOR_BYTES)));
};

template <class T>
using LaneIndex = typename LaneIndexOf<T>::type;

template <class T>
using LaneOf = std::decay_t<decltype(LaneIndex<T>{}[0] + 0)>;

template <class T>
inline LaneIndex<T> lane_numbers() {
  LaneIndex<T> lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return lane;
}

// The integers that floats, or vectors of them, are made of.
template <class F>
struct FloatBits {
  typedef int32_t type __attribute__((vector_size(CLFAST_VECTOR_BYTES)));
  typedef uint32_t unsigned_type __attribute__((vector_size(CLFAST_VECTOR_BYTES)));
};
template <>
struct FloatBits<float> {
  using type = int32_t;
  using unsigned_type = uint32_t;
};
template <class F>
using BitsOf = typename FloatBits<F>::type;
template <class F>
using UnsignedBitsOf = typename FloatBits<F>::unsigned_type;

template <class To, class From>
inline To bits_as(From value) {
  To bits;
  static_assert(sizeof bits == sizeof value);
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float as_floats(int32_t n) { return static_cast<float>(n); }
inline Vector<float> as_floats(BitsOf<Vector<float>> n) {
  return __builtin_convertvector(n, Vector<float>);
}

// The first `count` < kLanes elements of p, zeros behind them. A copy of variable length would be a
// call of memcpy and a read of bytes just written.
template <class T>
inline Vector<T> load_partial(const T* p, int64_t count) {
#if defined(__AVX512F__)
  const uint32_t mask = (uint32_t{1} << count) - 1;
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), p);
  } else {
    return _mm512_maskz_loadu_pd(static_cast<__mmask8>(mask), p);
  }
#elif defined(__AVX2__)
  const __m256i mask = (__m256i)(lane_numbers<T>() < static_cast<LaneOf<T>>(count));
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm256_maskload_ps(p, mask);
  } else {
    return _mm256_maskload_pd(p, mask);
  }
#else
  Vector<T> v = {};
  for (int64_t i = 0; i < count; ++i) v[i] = p[i];
  return v;
#endif
}

// The same for `count` from 1 to kLanes, and with `behind` behind them.
template <class T>
inline Vector<T> load_first(const T* p, int64_t count, T behind) {
  if (count == kLanes<T>) return load(p);
  const Vector<T> fill = Vector<T>{} + behind;
  return lane_numbers<T>() < static_cast<LaneOf<T>>(count) ? load_partial(p, count) : fill;
}

// p[i] = v[i] for the first `count` lanes, from 1 to kLanes.
template <class T>
inline void store_first(T* p, int64_t count, Vector<T> v) {
  if (count == kLanes<T>) return store(p, v);
#if defined(__AVX512F__)
  const uint32_t mask = (uint32_t{1} << count) - 1;
  if constexpr (sizeof(T) == sizeof(float)) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), v);
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>(mask), v);
  }
#elif defined(__AVX2__)
  const __m256i mask = (__m256i)(lane_numbers<T>() < static_cast<LaneOf<T>>(count));
  if constexpr (sizeof(T) == sizeof(float)) {
    _mm256_maskstore_ps(p, mask, v);
  } else {
    _mm256_maskstore_pd(p, mask, v);
  }
#else
  for (int64_t i = 0; i < count; ++i) p[i] = v[i];
#endif
}

// body(i, lanes) for the vectors of `count` elements, the last of which may be part of one.
template <class T, class Body>
inline __attribute__((always_inline)) void for_vectors(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) body(i, int64_t{kLanes<T>});
  if (i < count) body(i, count - i);
}

// Bit c tells that a[c] is not above b[c]: less, equal, or one of them NaN.
template <class T>
inline uint32_t not_above(Vector<T> a, Vector<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm512_cmp_ps_mask(a, b, _CMP_NGT_UQ);
  } else {
    return _mm512_cmp_pd_mask(a, b, _CMP_NGT_UQ);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NGT_UQ)));
  } else {
    return static_cast<uint32_t>(_mm256_movemask_pd(_mm256_cmp_pd(a, b, _CMP_NGT_UQ)));
  }
#else
  uint32_t bits = 0;
  for (int c = 0; c < kLanes<T>; ++c) bits |= static_cast<uint32_t>(!(a[c] > b[c])) << c;
  return bits;
#endif
}

// Sums in a tree: the upper half of the lanes onto the lower half, and so on. Halves of two vectors
// fill one, which then holds twice as many segments of half the length.
template <class T, int kCount, int kSegment = kLanes<T>>
inline void sum_lanes(const Vector<T> (&v)[kCount], T* sums) {
  constexpr int half = kSegment / 2;
  typename LaneIndexOf<T>::type lane;
  if constexpr (kCount > 1 && kSegment > 1) {
    for (int i = 0; i < kLanes<T>; ++i) {
      const int place = i % (kLanes<T> / 2);  // of a segment in its vector, and in the segment
      lane[i] = i / (kLanes<T> / 2) * kLanes<T> + place / half * kSegment + place % half;
    }
    Vector<T> folded[kCount / 2];
#pragma GCC unroll 2
    for (int i = 0; i < kCount / 2; ++i) {
      const Vector<T> a = v[2 * i], b = v[2 * i + 1];
      folded[i] = __builtin_shuffle(a, b, lane) + __builtin_shuffle(a, b, lane + half);
    }
    sum_lanes<T, kCount / 2, half>(folded, sums);
  } else {
    for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i) {
      Vector<T> sum = v[i];
#pragma GCC unroll 4
      for (int width = half; width > 0; width /= 2) sum += __builtin_shuffle(sum, lane + width);
#pragma GCC unroll 4
      for (int at = 0; at < kLanes<T>; at += kSegment) *sums++ = sum[at];
    }
  }
}

template <class T>
inline T sum_lanes(Vector<T> v) {
  T sum;
  sum_lanes<T, 1>({v}, &sum);
  return sum;
}

// A NaN is passed over.
template <class T>
inline T largest_lane(Vector<T> v) {
  const LaneIndex<T> lane = lane_numbers<T>();
#pragma GCC unroll 4
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    const Vector<T> other = __builtin_shuffle(v, lane + width);
    v = other > v ? other : v;
  }
  return v[0];
}

// out[0..dim) = row `index` of `rows`, widened to T.
template <class T>
inline void load_row(const void* data, ScalarKind kind, int64_t index, int64_t dim, T* out) {
  switch (kind) {
    case ScalarKind::kFloat32: {
      const float* row = static_cast<const float*>(data) + index * dim;
      for (int64_t j = 0; j < dim; ++j) out[j] = static_cast<T>(row[j]);
      break;
    }
    case ScalarKind::kFloat64: {
      const double* row = static_cast<const double*>(data) + index * dim;
      for (int64_t j = 0; j < dim; ++j) out[j] = static_cast<T>(row[j]);
      break;
    }
    case ScalarKind::kFloat16: {
      const Half* row = static_cast<const Half*>(data) + index * dim;
      for (int64_t j = 0; j < dim; ++j) out[j] = static_cast<T>(widen(row[j]));
      break;
    }
    case ScalarKind::kBFloat16: {
      const BFloat16* row = static_cast<const BFloat16*>(data) + index * dim;
      for (int64_t j = 0; j < dim; ++j) out[j] = static_cast<T>(widen(row[j]));
      break;
    }
  }
}

// sum + a b, with one rounding where the level has it: said explicitly, since a compiler that fuses
// as it sees fit may do so in one caller and not in another.
template <class T>
inline Vector<T> multiply_add(Vector<T> a, Vector<T> b, Vector<T> sum) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm512_fmadd_ps(a, b, sum);
  } else {
    return _mm512_fmadd_pd(a, b, sum);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm256_fmadd_ps(a, b, sum);
  } else {
    return _mm256_fmadd_pd(a, b, sum);
  }
#else
  return sum + a * b;
#endif
}

template <class T>
inline Vector<T> square_root(Vector<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm512_maskz_sqrt_ps(0xffff, v);  // without, g++ 12 warns of its own header
  } else {
    return _mm512_maskz_sqrt_pd(0xff, v);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == sizeof(float)) {
    return _mm256_sqrt_ps(v);
  } else {
    return _mm256_sqrt_pd(v);
  }
#else
  for (int c = 0; c < kLanes<T>; ++c) {
    v[c] = sizeof(T) == sizeof(float) ? __builtin_sqrtf(v[c]) : __builtin_sqrt(v[c]);
  }
  return v;
#endif
}

// What a sum over two rows adds up.
struct SquaredDifference {
  template <class T>
  static inline Vector<T> add(Vector<T> sum, Vector<T> a, Vector<T> b) {
    const Vector<T> difference = a - b;
    return multiply_add<T>(difference, difference, sum);
  }
};
struct Product {
  template <class T>
  static inline Vector<T> add(Vector<T> sum, Vector<T> a, Vector<T> b) {
    return multiply_add<T>(a, b, sum);
  }
};

}  // namespace clfast::cpu::CLFAST_LEVEL
