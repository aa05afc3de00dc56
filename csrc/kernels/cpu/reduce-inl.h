// Sums over a pair of rows, and walks over rows of any element type.
#pragma once
#include "../common/neighbourhood.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// sum_j Term(a_j, b_j). Four independent accumulators hide the latency of the addition; a panel of
// 16 terms an accumulator is summed in T, the panels in double.
template <class Term, class T>
inline T reduce_pair(const T* a, const T* b, int64_t dim) {
  constexpr int64_t lanes = kLanes<T>, step = 4 * lanes, panel = 16 * step;
  double total = 0;
  int64_t j = 0;
  while (j + step <= dim) {
    const int64_t end = j + panel < dim ? j + panel : dim;
    Vector<T> s0 = {}, s1 = {}, s2 = {}, s3 = {};
    for (; j + step <= end; j += step) {
      s0 += Term::template term<Vector<T>>(load(a + j), load(b + j));
      s1 += Term::template term<Vector<T>>(load(a + j + lanes), load(b + j + lanes));
      s2 += Term::template term<Vector<T>>(load(a + j + 2 * lanes), load(b + j + 2 * lanes));
      s3 += Term::template term<Vector<T>>(load(a + j + 3 * lanes), load(b + j + 3 * lanes));
    }
    total += static_cast<double>(sum_lanes<T>((s0 + s1) + (s2 + s3)));
  }
  Vector<T> rest = {};
  for (; j + lanes <= dim; j += lanes) {
    rest += Term::template term<Vector<T>>(load(a + j), load(b + j));
  }
  if (j < dim) {
    rest +=
        Term::template term<Vector<T>>(load_partial(a + j, dim - j), load_partial(b + j, dim - j));
  }
  return static_cast<T>(total + static_cast<double>(sum_lanes<T>(rest)));
}

template <class T>
struct KindOf;
template <>
struct KindOf<float> {
  static constexpr ScalarKind value = ScalarKind::kFloat32;
};
template <>
struct KindOf<double> {
  static constexpr ScalarKind value = ScalarKind::kFloat64;
};

// Row `index`, as it lies in memory when it is of type T, widened into scratch when it is not.
template <class T>
inline const T* row_of(Rows rows, int64_t index, int64_t dim, T* scratch) {
  if (rows.kind == KindOf<T>::value) return static_cast<const T*>(rows.data) + index * dim;
  load_row(rows.data, rows.kind, index, dim, scratch);
  return scratch;
}

// Row `index` less the offset, unless that is null.
template <class T>
inline void load_row_less(Rows rows, int64_t index, int64_t dim, const T* offset, T* out) {
  load_row(rows.data, rows.kind, index, dim, out);
  if (offset == nullptr) return;
#pragma omp simd
  for (int64_t j = 0; j < dim; ++j) out[j] -= offset[j];
}

// Gathered rows come from anywhere in the memory: while row i is in work, ask for row i + ahead.
template <class T>
inline void prefetch_row(Rows rows, const int64_t* indices, int64_t i, int64_t ahead, int64_t count,
                         int64_t dim) {
  if (rows.kind != KindOf<T>::value || i + ahead >= count) return;
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
