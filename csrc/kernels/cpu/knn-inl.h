// Included once per SIMD level.
#include <cmath>

#include "amx.h"
#include "gemm-inl.h"
#include "knn.h"
#include "reduce-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

#if defined(__AVX512F__)
// tile[r][c] = <row r, query c>, along the features: rows of few queries would leave most lanes of
// a register tile empty. Both are padded with zeros to whole vectors.
template <int kRows, int kQueries>
__attribute__((noinline, target("avx512bf16"))) void multiply_few(const BFloat16Pair* rows,
                                                                  int64_t stride,
                                                                  const BFloat16Pair* queries,
                                                                  int64_t query_stride,
                                                                  int64_t depth, float* tile) {
  __m512 sum[kRows][kQueries] = {};
  for (int64_t p = 0; p < depth; p += 16) {
    __m512i query[kQueries];
#pragma GCC unroll 2
    for (int c = 0; c < kQueries; ++c) {
      query[c] = _mm512_loadu_si512(queries + c * query_stride + p);
    }
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      const __m512i row = _mm512_loadu_si512(rows + r * stride + p);
#pragma GCC unroll 2
      for (int c = 0; c < kQueries; ++c) {
        sum[r][c] = _mm512_dpbf16_ps(sum[r][c], (__m512bh)row, (__m512bh)query[c]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kQueries; ++c) {
      tile[r * kTileColumns<float> + c] = sum_lanes<float>((Vector<float>)sum[r][c]);
    }
  }
}

template <int kRows>
inline void multiply_few(const KnnSweep<float>& s, int64_t key, float* tile) {
  const BFloat16Pair* rows = s.key_pairs + key * s.pair_stride;
  for (int64_t q = 0; q < s.query_count; q += 2) {
    const BFloat16Pair* queries = s.query_rows + q * s.pair_stride;
    const int64_t depth = (s.dim + 1) / 2;
    if (q + 1 < s.query_count) {
      multiply_few<kRows, 2>(rows, s.pair_stride, queries, s.pair_stride, depth, tile + q);
    } else {
      multiply_few<kRows, 1>(rows, s.pair_stride, queries, s.pair_stride, depth, tile + q);
    }
  }
}
#endif

// Blocks of keys in the outer loop, whose shape AMX is told.
template <class Finish>
inline void multiply_in_tiles(const KnnSweep<float>& s, Finish&& finish) {
  constexpr int64_t columns = kTileColumns<float>;
  const int64_t depth = rounded_panel(s.dim);
  float tile[kAmxRows * columns];
  for (int64_t key = 0; key < s.key_count; key += kAmxRows) {
    const int64_t keys = s.key_count - key < kAmxRows ? s.key_count - key : kAmxRows;
    const AmxBlock block(keys);
    for (int64_t q = 0; q < s.query_count; q += columns) {
      block.multiply(s.key_pairs + key * s.pair_stride, s.pair_stride, s.query_pairs + q * depth,
                     columns, depth, tile);
      finish(key, keys, q, s.query_count - q < columns ? s.query_count - q : columns, tile);
    }
  }
}

// f(key, first_query, scores) for every key and kLanes queries. Meanwhile the next block is
// fetched, a share with every tile.
template <class T, class F>
inline void for_scores(const KnnSweep<T>& s, F&& f) {
  const char* next = s.next;
  const char* const next_end = s.next + s.next_size;
  const bool in_tiles = s.in_tiles && s.key_pairs != nullptr && s.query_rows == nullptr;
  const int64_t rows = in_tiles ? kAmxRows : kTileRows;
  const int64_t tiles =
      ((s.query_count + kTileColumns<T> - 1) / kTileColumns<T>)*((s.key_count + rows - 1) / rows);
  const int64_t share = (s.next_size / 64 / tiles + 1) * 64;
  const auto finish = [&](int64_t first_key, int64_t keys, int64_t first_query, int64_t queries,
                          const T* tile) {
    for (int64_t at = 0; at < share && next < next_end; at += 64) {
      __builtin_prefetch(next, 0, 2);
      next += next_end - next < 64 ? next_end - next : 64;
    }
    for (int64_t r = 0; r < keys; ++r) {
      const T term = s.key_terms[first_key + r];
      for (int64_t c = 0; c < queries; c += kLanes<T>) {
        f(first_key + r, first_query + c, term - T(2) * load(tile + r * kTileColumns<T> + c));
      }
    }
  };
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == sizeof(float)) {
    if (s.query_rows != nullptr) {
      float tile[kTileRows * kTileColumns<float>] = {};
      int64_t key = 0;
      for (; key + kTileRows <= s.key_count; key += kTileRows) {
        multiply_few<kTileRows>(s, key, tile);
        finish(key, kTileRows, 0, s.query_count, tile);
      }
      for (; key < s.key_count; ++key) {
        multiply_few<1>(s, key, tile);
        finish(key, 1, 0, s.query_count, tile);
      }
      return;
    }
    if (s.key_pairs != nullptr && !s.in_tiles) {
      const int64_t depth = (s.dim + 1) / 2;
      const Panels<BFloat16Pair> queries{s.query_pairs, rounded_panel(s.dim)};
      gemm(s.key_pairs, s.pair_stride, s.key_count, queries, s.query_count, depth, finish);
      return;
    }
  }
#endif
  if constexpr (sizeof(T) == sizeof(float) && kTileColumns<T> % kAmxPairs == 0) {
    if (in_tiles) return multiply_in_tiles(s, finish);
  }
  const Panels<T> queries{s.queries, s.dim};
  gemm(s.keys, s.key_stride, s.key_count, queries, s.query_count, s.dim, finish);
}

template <class T>
inline int64_t add_hits(Vector<T> scores, const T* limits, int64_t key, int64_t first_query,
                        KnnHit<T>* hits) {
  int64_t count = 0;
  for (uint32_t found = not_above<T>(scores, load(limits + first_query)); found != 0;
       found &= found - 1) {
    const int c = __builtin_ctz(found);
    hits[count++] = {scores[c], static_cast<int32_t>(key), static_cast<int32_t>(first_query + c)};
  }
  return count;
}

template <class T>
inline int64_t sweep_keys(const KnnSweep<T>& s, KnnHit<T>* hits) {
  int64_t count = 0;
  for_scores(s, [&](int64_t key, int64_t first_query, Vector<T> scores) {
    count += add_hits<T>(scores, s.limits, key, first_query, hits + count);
  });
  return count;
}

template <class T>
inline void lower_minima(const KnnSweep<T>& s, int64_t stride, T* minima, T* kept) {
  for_scores(s, [&](int64_t key, int64_t first_query, Vector<T> scores) {
    if (kept != nullptr) store<T>(kept + key * stride + first_query, scores);
    T* smallest = minima + key * stride + first_query;
    const Vector<T> before = load(smallest);
    // -inf is a product that overflowed, and bounds nothing.
    store<T>(smallest, (scores < before) & (scores > -INFINITY) ? scores : before);
  });
}

template <class T>
inline int64_t filter_scores(const KnnSweep<T>& s, int64_t stride, const T* scores,
                             KnnHit<T>* hits) {
  int64_t count = 0;
  for (int64_t key = 0; key < s.key_count; ++key) {
    for (int64_t c = 0; c < s.query_count; c += kLanes<T>) {
      count += add_hits<T>(load(scores + key * stride + c), s.limits, key, c, hits + count);
    }
  }
  return count;
}

// Integers that order like values that are no NaN: below zero all bits but the sign turn round.
inline int32_t signed_order_of(float value) {
  int32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits < 0 ? bits ^ INT32_MAX : bits;
}
inline int64_t signed_order_of(double value) {
  int64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits < 0 ? bits ^ INT64_MAX : bits;
}
template <class T>
using SignedOrder = decltype(signed_order_of(T{}));

template <class T>
inline T value_of_order(SignedOrder<T> order) {
  constexpr SignedOrder<T> magnitude = sizeof(T) == sizeof(float) ? INT32_MAX : INT64_MAX;
  const SignedOrder<T> bits = order < 0 ? order ^ magnitude : order;
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// By halving the range of the values' orders: exact in as many steps as an order has bits, but
// seldom run to the end.
template <class T>
inline T cut_of_values(const T* values, int64_t count, int64_t rank) {
  Vector<T> smallest = load(values), largest = smallest;
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const Vector<T> v = load(values + i);
    smallest = v < smallest ? v : smallest;
    largest = v > largest ? v : largest;
  }
  typename LaneIndexOf<T>::type lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
#pragma GCC unroll 4
  for (int width = kLanes<T> / 2; width > 0; width /= 2) {
    const Vector<T> s = __builtin_shuffle(smallest, lane + width);
    const Vector<T> l = __builtin_shuffle(largest, lane + width);
    smallest = s < smallest ? s : smallest;
    largest = l > largest ? l : largest;
  }
  SignedOrder<T> low = signed_order_of(smallest[0]), high = signed_order_of(largest[0]);
  while (low < high) {
    const SignedOrder<T> middle = (low & high) + ((low ^ high) >> 1);
    const Vector<T> cut = value_of_order<T>(middle) - Vector<T>{};
    int64_t found = 0;
    for (int64_t i = 0; i < count; i += kLanes<T>) {
      found += __builtin_popcount(not_above<T>(load(values + i), cut));
    }
    if (found < rank) {
      low = middle + 1;
      continue;
    }
    high = middle;
    if (found <= rank + rank / 16) break;
  }
  return value_of_order<T>(high);
}

template <class T>
inline int64_t select_values(const T* values, int64_t count, T limit, int32_t* selected) {
  const Vector<T> limits = limit - Vector<T>{};
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const bool whole = i + kLanes<T> <= count;
    const Vector<T> v = whole ? load(values + i) : load_partial(values + i, count - i);
    uint32_t near = not_above<T>(v, limits);
    if (!whole) near &= (uint32_t{1} << (count - i)) - 1;
    for (; near != 0; near &= near - 1) {
      selected[found++] = static_cast<int32_t>(i) + __builtin_ctz(near);
    }
  }
  return found;
}

// The bits of the nearest bfloat16, ties to even, in the lower half. (NaN may become anything: the
// norms see it.)
inline uint32_t rounded_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

void knn_round_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, const float* offset,
                    float* row, BFloat16Pair* out, int64_t out_stride, float* norms,
                    float* residuals) {
  // A sum of squares rounds by dim / 2 units at the most, the root by one; and squares below the
  // normal range may be lost.
  const float margin = 1 + static_cast<float>(dim + 16) * 0x1p-23f;
  for (int64_t i = 0; i < count; ++i) {
    const float* x = row_less(rows, begin + i, dim, offset, row);
    norms[i] = reduce_pair<Product>(x, x, dim);
    BFloat16* rounded = reinterpret_cast<BFloat16*>(out + i * out_stride);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < dim; ++j) {
      const uint32_t bits = rounded_bits(x[j]);
      rounded[j].bits = static_cast<uint16_t>(bits);
      const float lost = x[j] - float_from_bits(bits << 16);
      sum += lost * lost;
    }
    if (dim % 2 != 0) rounded[dim].bits = 0;
    residuals[i] = std::sqrt(sum + static_cast<float>(dim) * 0x1p-126f) * margin;
  }
}

void knn_round_panels(const float* panels, int64_t dim, int64_t width, BFloat16Pair* out) {
  constexpr int64_t columns = kTileColumns<float>;
  const int64_t depth = (dim + 1) / 2, padded = rounded_panel(dim);
  for (int64_t first = 0; first < width; first += columns) {
    BFloat16Pair* panel = out + first * padded;
    memset(panel + depth * columns, 0, (padded - depth) * columns * sizeof *panel);
    for (int64_t p = 0; p < depth; ++p) {
      const float* low = panels + first * dim + 2 * p * columns;
      const float* high = low + columns;
      BFloat16Pair* pair = panel + p * columns;
      const bool last = 2 * p + 1 == dim;
      for (int64_t c = 0; c < columns; ++c) {
        pair[c].bits = rounded_bits(low[c]) | (last ? 0 : rounded_bits(high[c]) << 16);
      }
    }
  }
}

#define CLFAST_DEFINE_KNN_FUNCTIONS(T)                                                             \
  T knn_cut(const T* values, int64_t count, int64_t rank) {                                        \
    return cut_of_values(values, count, rank);                                                     \
  }                                                                                                \
  int64_t knn_select(const T* values, int64_t count, T limit, int32_t* selected) {                 \
    return select_values(values, count, limit, selected);                                          \
  }                                                                                                \
  int64_t knn_sweep(const KnnSweep<T>& sweep, KnnHit<T>* hits) { return sweep_keys(sweep, hits); } \
  void knn_open(const KnnSweep<T>& sweep, int64_t stride, T* minima, T* scores) {                  \
    lower_minima(sweep, stride, minima, scores);                                                   \
  }                                                                                                \
  int64_t knn_filter(const KnnSweep<T>& sweep, int64_t stride, const T* scores, KnnHit<T>* hits) { \
    return filter_scores(sweep, stride, scores, hits);                                             \
  }
CLFAST_DEFINE_KNN_FUNCTIONS(float)
CLFAST_DEFINE_KNN_FUNCTIONS(double)
#undef CLFAST_DEFINE_KNN_FUNCTIONS

}  // namespace clfast::cpu::CLFAST_LEVEL
