// Vectors of the SIMD level that this translation unit is compiled for. Included by *-inl.h files
// only. Everything is in the level's own namespace and nothing here instantiates a template that
// another unit could share: the linker keeps one copy of a shared template, and would hand AVX-512
// code to a processor without it.
#pragma once
#include <cstdint>
#include <cstring>

#include "../common/scalar.h"

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

template <class T>
inline void store(T* p, Vector<T> v) {
  memcpy(p, &v, sizeof v);
}

// The first `count` < kLanes elements of p, zeros behind them.
template <class T>
inline Vector<T> load_partial(const T* p, int64_t count) {
  Vector<T> v = {};
  memcpy(&v, p, static_cast<size_t>(count) * sizeof(T));
  return v;
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

// In a tree: the upper half of the lanes onto the lower half, and so on.
template <class T>
inline T sum_lanes(Vector<T> v) {
  typename LaneIndexOf<T>::type lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
#pragma GCC unroll 4
  for (int width = kLanes<T> / 2; width > 0; width /= 2) v += __builtin_shuffle(v, lane + width);
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

}  // namespace clfast::cpu::CLFAST_LEVEL
