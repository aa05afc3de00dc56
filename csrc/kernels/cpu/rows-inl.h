// Included once per SIMD level.
#include "gemm-inl.h"
#include "reduce-inl.h"
#include "rows.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void pack_rows(const T* rows, int64_t count, int64_t dim, T* panels) {
  constexpr int64_t columns = kTileColumns<T>;
  for (int64_t first = 0; first < count; first += columns) {
    transpose(rows + first * dim, dim, count - first < columns ? count - first : columns, dim,
              panels + first * dim, columns, columns);
  }
}

// Two gathered rows at a time share the loads of the query. (Rows one after another arrive faster
// from memory when one is read at a time.)
template <class T>
inline void distances_of_rows(const T* query, Rows rows, const int64_t* indices, int64_t begin,
                              int64_t count, int64_t dim, T* scratch, T* out) {
  int64_t done = 0;
  if (indices != nullptr && rows.kind == kKindOf<T>) {
    for (; done + 2 <= count; done += 2) {
      const T *const alone[] = {query}, *pair[2];
      for (int64_t n = 0; n < 2; ++n) {
        prefetch_row<T>(rows, indices, done + n, 2, count, dim);
        pair[n] = row_of(rows, indices[done + n], dim, scratch);
      }
      T sums[1][2];
      reduce_rows<SquaredDifference>(alone, pair, dim, sums);
      out[done] = sums[0][0];
      out[done + 1] = sums[0][1];
    }
    indices += done;
  }
  for_each_row(rows, indices, begin, count - done, dim, scratch, [=](int64_t i, const T* row) {
    out[done + i] = reduce_pair<SquaredDifference>(query, row, dim);
  });
}

// kA queries and two rows at a time; the first of the queries read the rows from memory, the others
// from the cache.
template <int kA, class T>
inline void distances_of_some(const T* const* queries, const T* rows, int64_t count, int64_t dim,
                              bool from_memory, T* out, int64_t out_stride) {
  constexpr uintptr_t kAhead = 4096;  // bytes
  const T* left[kA];
  for (int m = 0; m < kA; ++m) left[m] = queries[m];
  for (int64_t i = 0; i < count; i += 2) {
    const T* row = rows + i * dim;
    // A hint may point anywhere, a pointer may not.
    const uintptr_t later = reinterpret_cast<uintptr_t>(row) + kAhead;
    for (uintptr_t at = 0; from_memory && at < 2 * dim * sizeof(T); at += 64) {
      __builtin_prefetch(reinterpret_cast<const void*>(later + at));
    }
    // The last row of an odd number meets itself.
    const T* const pair[2] = {row, i + 1 < count ? row + dim : row};
    T sums[kA][2];
    reduce_rows<SquaredDifference>(left, pair, dim, sums);
    for (int m = 0; m < kA; ++m) {
      out[m * out_stride + i] = sums[m][0];
      if (i + 1 < count) out[m * out_stride + i + 1] = sums[m][1];
    }
  }
}

template <class T>
inline void distances_of_all(const T* const* queries, int64_t query_count, const T* rows,
                             int64_t count, int64_t dim, T* out, int64_t out_stride) {
  // Sixteen accumulators are too many for the sixteen registers of the levels below.
#if defined(__AVX512F__)
  constexpr int64_t at_a_time = 2;
#else
  constexpr int64_t at_a_time = 1;
#endif
  int64_t q = 0;
  for (; q + at_a_time <= query_count; q += at_a_time) {
    distances_of_some<at_a_time>(queries + q, rows, count, dim, q == 0, out + q * out_stride,
                                 out_stride);
  }
  for (; q < query_count; ++q) {
    distances_of_some<1>(queries + q, rows, count, dim, q == 0, out + q * out_stride, out_stride);
  }
}

template <class T>
inline void copies_of_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, const T* offset,
                           T* out, int64_t out_stride, T* norms) {
  for (int64_t i = 0; i < count; ++i) {
    T* copy = out + i * out_stride;
    // The norm is best summed from where the row lies: a read of what was just written waits.
    const T* row = row_less(rows, begin + i, dim, offset, copy);
    for (int64_t j = 0; row != copy && j < dim; ++j) copy[j] = row[j];
    if (norms != nullptr) norms[i] = reduce_pair<Product>(row, row, dim);
  }
}

#define CLFAST_DEFINE_ROW_FUNCTIONS(T)                                                            \
  void sq_distances(const T* query, Rows rows, const int64_t* indices, int64_t begin,             \
                    int64_t count, int64_t dim, T* scratch, T* out) {                             \
    distances_of_rows(query, rows, indices, begin, count, dim, scratch, out);                     \
  }                                                                                               \
  void all_sq_distances(const T* const* queries, int64_t query_count, const T* rows,              \
                        int64_t count, int64_t dim, T* out, int64_t out_stride) {                 \
    distances_of_all(queries, query_count, rows, count, dim, out, out_stride);                    \
  }                                                                                               \
  void dots(const T* query, Rows rows, const int64_t* indices, int64_t begin, int64_t count,      \
            int64_t dim, T* scratch, T* out) {                                                    \
    for_each_row(rows, indices, begin, count, dim, scratch, [=](int64_t i, const T* row) {        \
      out[i] = reduce_pair<Product>(query, row, dim);                                             \
    });                                                                                           \
  }                                                                                               \
  void sq_norms(Rows rows, const int64_t* indices, int64_t begin, int64_t count, int64_t dim,     \
                T* scratch, T* out) {                                                             \
    for_each_row(rows, indices, begin, count, dim, scratch,                                       \
                 [=](int64_t i, const T* row) { out[i] = reduce_pair<Product>(row, row, dim); }); \
  }                                                                                               \
  void copy_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, const T* offset, T* out,   \
                 int64_t out_stride, T* norms) {                                                  \
    copies_of_rows(rows, begin, count, dim, offset, out, out_stride, norms);                      \
  }                                                                                               \
  void pack_panels(const T* rows, int64_t count, int64_t dim, T* panels) {                        \
    pack_rows(rows, count, dim, panels);                                                          \
  }                                                                                               \
  int64_t panel_columns(T) { return kTileColumns<T>; }

CLFAST_DEFINE_ROW_FUNCTIONS(float)
CLFAST_DEFINE_ROW_FUNCTIONS(double)
#undef CLFAST_DEFINE_ROW_FUNCTIONS

}  // namespace clfast::cpu::CLFAST_LEVEL
