// C = A B in register tiles: rows of A are broadcast, rows of B are read as vectors, and the caller
// says what becomes of a finished tile. One text serves knn (keys x queries, and queries x keys),
// nearest_class_mean (features x means), MbPA's forward pass (classes x neighbours), MbPA's
// gradient (classes x features) and all products of softmax_descent.
#pragma once
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// 12 x 2 accumulators fill the 32 registers of AVX-512, 6 x 2 the 16 of the levels below.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileVectors = 2;

template <class T>
constexpr int kTileColumns = kTileVectors * kLanes<T>;

// tile[r][c] = sum_p a[r][p] b[p][c] for kRows rows and kVectors vectors of columns. The rows of a
// lie lda apart, or its columns where it is kTurned.
template <int kRows, int kVectors, bool kTurned, class T>
__attribute__((noinline)) void multiply_tile(const T* a, int64_t lda, const T* b, int64_t ldb,
                                             int64_t depth, T* tile) {
  Vector<T> sum[kRows][kVectors] = {};
  for (int64_t p = 0; p < depth; ++p) {
    Vector<T> column[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + p * ldb + v * kLanes<T>);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const T factor = kTurned ? a[p * lda + r] : a[r * lda + p];
      const Vector<T> x = factor - Vector<T>{};  // exact, and no instruction
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = multiply_add<T>(x, column[v], sum[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v)
      store<T>(tile + r * kTileColumns<T> + v * kLanes<T>, sum[r][v]);
  }
}

#if defined(__AVX512F__)
// The same for pairs of bfloat16: exact products, two of them added at a time to sums in float.
template <int kRows, int kVectors, bool kTurned>
__attribute__((noinline, target("avx512bf16"))) void multiply_tile(const BFloat16Pair* a,
                                                                   int64_t lda,
                                                                   const BFloat16Pair* b,
                                                                   int64_t ldb, int64_t depth,
                                                                   float* tile) {
  static_assert(!kTurned);
  __m512 sum[kRows][kVectors] = {};
  for (int64_t p = 0; p < depth; ++p) {
    __m512i column[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) column[v] = _mm512_loadu_si512(b + p * ldb + v * 16);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const __m512i x = _mm512_set1_epi32(static_cast<int>(a[r * lda + p].bits));
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        sum[r][v] = _mm512_dpbf16_ps(sum[r][v], (__m512bh)x, (__m512bh)column[v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      _mm512_storeu_ps(tile + r * kTileColumns<float> + v * 16, sum[r][v]);
    }
  }
}
#endif

// What products of two elements are summed in.
template <class E>
struct SumOf {
  using type = E;
};
template <>
struct SumOf<BFloat16Pair> {
  using type = float;
};
template <class E>
using Sum = typename SumOf<E>::type;

// Every height has a tile of its own: in two tiles, B would be read twice and a tile of one or two
// rows wait for its own sums.
template <int kVectors, bool kTurned, int kRows = kTileRows, class E>
inline void multiply_rows(const E* a, int64_t lda, int64_t rows, const E* b, int64_t ldb,
                          int64_t depth, Sum<E>* tile) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return multiply_rows<kVectors, kTurned, kRows - 1>(a, lda, rows, b, ldb, depth, tile);
    }
  }
  multiply_tile<kRows, kVectors, kTurned>(a, lda, b, ldb, depth, tile);
}

// B [depth, columns], row-major and readable up to the next multiple of kLanes.
template <class T>
struct RowMajor {
  const T* data;
  int64_t stride;
  const T* panel(int64_t column) const { return data + column; }
};

// B as pack_panels() leaves it: [depth, kTileColumns] for every tile's columns, one after another,
// so that a tile reads one stream. With rows of 4 KiB or more each of its lines would come from
// another page.
template <class E>
struct Panels {
  static constexpr int64_t stride = kTileColumns<Sum<E>>;
  const E* data;
  int64_t depth;
  const E* panel(int64_t column) const { return data + column * depth; }
};

// A [rows, depth], turned or not. finish(first_row, row_count, first_column, column_count, tile)
// sees every tile once; the tile is row-major with kTileColumns<T> elements a row.
template <bool kTurned = false, class E, class Right, class Finish>
inline void gemm(const E* a, int64_t lda, int64_t rows, Right b, int64_t columns, int64_t depth,
                 Finish&& finish) {
  using T = Sum<E>;
  T tile[kTileRows * kTileColumns<T>];
  for (int64_t c = 0; c < columns; c += kTileColumns<T>) {
    const int64_t width = columns - c < kTileColumns<T> ? columns - c : kTileColumns<T>;
    for (int64_t r = 0; r < rows; r += kTileRows) {
      const int64_t height = rows - r < kTileRows ? rows - r : kTileRows;
      const E* left = a + (kTurned ? r : r * lda);
      if (width > kLanes<T>) {
        multiply_rows<2, kTurned>(left, lda, height, b.panel(c), b.stride, depth, tile);
      } else {
        multiply_rows<1, kTurned>(left, lda, height, b.panel(c), b.stride, depth, tile);
      }
      finish(r, height, c, width, tile);
    }
  }
}

}  // namespace clfast::cpu::CLFAST_LEVEL
