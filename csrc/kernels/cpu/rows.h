// Distances, norms and dot products of rows: the exact arithmetic behind retrieval and adaptation.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "simd.h"

namespace clfast::cpu {

// sq_distances, dots and sq_norms read rows[indices[i]], or rows[begin + i] when indices is null.
// `scratch` holds dim elements. Sums run over lanes and short panels, then in double: the relative
// error of a sum of non-negative terms stays below 2e-6 in float32, whatever dim is, and does not
// depend on anything but the two rows. all_sq_distances has the bits of sq_distances, out[q][i] of
// queries[q] and row i, with out_stride elements from query to query.
//
// copy_rows widens rows [begin, begin + count), less the offset unless it is null, into rows of
// out_stride elements, with their squared norms unless `norms` is null. pack_panels writes the rows
// as columns, as Panels of gemm-inl.h has them: panels of panel_columns() columns, [dim,
// panel_columns()] each, and the last padded with zeros; how many columns depends on the level.
#define CLFAST_ROW_FUNCTIONS(T)                                                                 \
  void sq_distances(const T* query, Rows rows, const int64_t* indices, int64_t begin,           \
                    int64_t count, int64_t dim, T* scratch, T* out);                            \
  void all_sq_distances(const T* const* queries, int64_t query_count, const T* rows,            \
                        int64_t count, int64_t dim, T* out, int64_t out_stride);                \
  void dots(const T* query, Rows rows, const int64_t* indices, int64_t begin, int64_t count,    \
            int64_t dim, T* scratch, T* out);                                                   \
  void sq_norms(Rows rows, const int64_t* indices, int64_t begin, int64_t count, int64_t dim,   \
                T* scratch, T* out);                                                            \
  void copy_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, const T* offset, T* out, \
                 int64_t out_stride, T* norms);
#define CLFAST_PANEL_FUNCTIONS(T)                                         \
  void pack_panels(const T* rows, int64_t count, int64_t dim, T* panels); \
  int64_t panel_columns(T);

CLFAST_ROW_FUNCTIONS(float)
CLFAST_ROW_FUNCTIONS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_ROW_FUNCTIONS(float) CLFAST_ROW_FUNCTIONS(double)
                             CLFAST_PANEL_FUNCTIONS(float) CLFAST_PANEL_FUNCTIONS(double))
template <class T>
void pack_panels(Simd level, const T* rows, int64_t count, int64_t dim, T* panels);
template <class T>
int64_t panel_columns(Simd level);

static constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static constexpr int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

template <class T>
constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));  // elements of a cache line

// Elements from row to row of a copy that tiles read: a cache line more than a row has, since at a
// stride of 4 KiB or a divisor of it the rows of a tile would share a few sets of the L1 cache.
template <class T>
static constexpr int64_t padded_stride(int64_t dim) {
  return round_up(dim, kLine<T>) + kLine<T>;
}

}  // namespace clfast::cpu
