// Distances, norms and dot products of rows: the exact arithmetic behind retrieval and adaptation.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "simd.h"

namespace clfast::cpu {

// The first three read rows[indices[i]], or rows[begin + i] when indices is null. `scratch` holds
// dim elements. Sums run over lanes and short panels, then in double: the relative error of a sum
// of non-negative terms stays below 2e-6 in float32, whatever dim is, and does not depend on
// anything but the two rows.
//
// copy_rows widens rows [begin, begin + count), less the offset unless it is null, into rows of
// out_stride elements, with their squared norms. pack_panels writes factor times the rows as
// columns, as Panels of gemm-inl.h has them: panels of panel_columns() columns, [dim,
// panel_columns()] each; the last is padded with zeros.
#define CLFAST_ROW_FUNCTIONS(T)                                                                 \
  void sq_distances(const T* query, Rows rows, const int64_t* indices, int64_t begin,           \
                    int64_t count, int64_t dim, T* scratch, T* out);                            \
  void dots(const T* query, Rows rows, const int64_t* indices, int64_t begin, int64_t count,    \
            int64_t dim, T* scratch, T* out);                                                   \
  void sq_norms(Rows rows, const int64_t* indices, int64_t begin, int64_t count, int64_t dim,   \
                T* scratch, T* out);                                                            \
  void copy_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, const T* offset, T* out, \
                 int64_t out_stride, T* norms);                                                 \
  void pack_panels(const T* rows, int64_t count, int64_t dim, T factor, T* panels);             \
  int64_t panel_columns(T);

CLFAST_ROW_FUNCTIONS(float)
CLFAST_ROW_FUNCTIONS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_ROW_FUNCTIONS(float) CLFAST_ROW_FUNCTIONS(double))

// Elements from row to row of a copy that tiles read: a cache line more than a row has, since at a
// stride of 4 KiB or a divisor of it the rows of a tile would share a few sets of the L1 cache.
template <class T>
static constexpr int64_t padded_stride(int64_t dim) {
  constexpr int64_t line = 64 / sizeof(T);
  return (dim + line - 1) / line * line + line;
}

}  // namespace clfast::cpu
