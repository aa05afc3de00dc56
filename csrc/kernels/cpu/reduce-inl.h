// Sums over a pair of rows, and walks over rows of any element type.
#pragma once
#include "../common/neighbourhood.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Keeps a value in its register, where GCC would rather read it from memory again.
template <class V>
inline void keep(V& value) {
#if defined(__x86_64__)
  asm("" : "+v"(value));
#endif
}

// out[m][n] = sum_j Term(a[m]_j, b[n]_j). Four independent accumulators a pair hide the latency of
// the addition; a panel of 16 terms an accumulator is summed in T, the panels in double. Pairs
// share what they read, and nothing else: a sum depends on its two rows only.
template <class Term, int kA, int kB, class T>
inline __attribute__((always_inline)) void reduce_rows(const T* const (&a)[kA],
                                                       const T* const (&b)[kB], int64_t dim,
                                                       T (&out)[kA][kB]) {
  constexpr int64_t lanes = kLanes<T>, step = 4 * lanes, panel = 16 * step;
  double total[kA * kB] = {};
  Vector<T> joined[kA * kB];
  const auto add_joined = [&] {
    T sums[kA * kB];
    sum_lanes<T, kA * kB>(joined, sums);
#pragma GCC unroll 4
    for (int i = 0; i < kA * kB; ++i) total[i] += static_cast<double>(sums[i]);
  };
  // sums += Term(a, b) of all pairs.
  const auto add_vectors = [](const Vector<T>(&x)[kA], const Vector<T>(&y)[kB], Vector<T>* sums,
                              int stride) {
#pragma GCC unroll 2
    for (int m = 0; m < kA; ++m) {
#pragma GCC unroll 2
      for (int n = 0; n < kB; ++n) {
        Vector<T>& sum = sums[(m * kB + n) * stride];
        sum = Term::template add<T>(sum, x[m], y[n]);
      }
    }
  };
  int64_t j = 0;
  while (j + step <= dim) {
    const int64_t end = j + panel < dim ? j + panel : dim;
    Vector<T> sums[kA * kB][4] = {};
    for (; j + step <= end; j += step) {
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) {
        Vector<T> x[kA], y[kB];
#pragma GCC unroll 2
        for (int m = 0; m < kA; ++m) {
          x[m] = load(a[m] + j + s * lanes);
          if constexpr (kB > 1) keep(x[m]);
        }
#pragma GCC unroll 2
        for (int n = 0; n < kB; ++n) {
          y[n] = load(b[n] + j + s * lanes);
          if constexpr (kA > 1) keep(y[n]);
        }
        add_vectors(x, y, &sums[0][s], 4);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kA * kB; ++i) {
      joined[i] = (sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]);
    }
    add_joined();
  }
  if (j < dim) {
#pragma GCC unroll 4
    for (int i = 0; i < kA * kB; ++i) joined[i] = Vector<T>{};
    while (j < dim) {
      const int64_t rest = dim - j;
      Vector<T> x[kA], y[kB];
#pragma GCC unroll 2
      for (int m = 0; m < kA; ++m) {
        x[m] = rest >= lanes ? load(a[m] + j) : load_partial(a[m] + j, rest);
      }
#pragma GCC unroll 2
      for (int n = 0; n < kB; ++n) {
        y[n] = rest >= lanes ? load(b[n] + j) : load_partial(b[n] + j, rest);
      }
      add_vectors(x, y, joined, 1);
      j += lanes;
    }
    add_joined();
  }
#pragma GCC unroll 4
  for (int i = 0; i < kA * kB; ++i) out[i / kB][i % kB] = static_cast<T>(total[i]);
}

template <class Term, class T>
inline T reduce_pair(const T* a, const T* b, int64_t dim) {
  const T *const left[] = {a}, *const right[] = {b};
  T sum[1][1];
  reduce_rows<Term>(left, right, dim, sum);
  return sum[0][0];
}

// Row `index`, as it lies in memory when it is of type T, widened into scratch when it is not.
template <class T>
inline const T* row_of(Rows rows, int64_t index, int64_t dim, T* scratch) {
  if (rows.kind == kKindOf<T>) return static_cast<const T*>(rows.data) + index * dim;
  load_row(rows.data, rows.kind, index, dim, scratch);
  return scratch;
}

// The same less the offset, unless that is null.
template <class T>
inline const T* row_less(Rows rows, int64_t index, int64_t dim, const T* offset, T* scratch) {
  const T* row = row_of(rows, index, dim, scratch);
  if (offset == nullptr) return row;
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j) scratch[j] = row[j] - offset[j];
  return scratch;
}

// Gathered rows come from anywhere in the memory: while row i is in work, ask for row i + ahead.
template <class T>
inline void prefetch_row(Rows rows, const int64_t* indices, int64_t i, int64_t ahead, int64_t count,
                         int64_t dim) {
  if (rows.kind != kKindOf<T> || i + ahead >= count) return;
  const char* row =
      reinterpret_cast<const char*>(static_cast<const T*>(rows.data) + indices[i + ahead] * dim);
  const int64_t bytes = dim * static_cast<int64_t>(sizeof(T));
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
}

template <class T, class F>
inline void for_each_row(Rows rows, const int64_t* indices, int64_t begin, int64_t count,
                         int64_t dim, T* scratch, F&& f) {
  for (int64_t i = 0; i < count; ++i) {
    if (indices != nullptr) prefetch_row<T>(rows, indices, i, 1, count, dim);
    f(i, row_of(rows, indices != nullptr ? indices[i] : begin + i, dim, scratch));
  }
}

}  // namespace clfast::cpu::CLFAST_LEVEL
