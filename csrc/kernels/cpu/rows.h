// Distances, norms and dot products of rows: the exact arithmetic behind retrieval and adaptation.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "simd.h"

namespace clfast::cpu {

// Every function reads rows[indices[i]], or rows[begin + i] when indices is null. `scratch` holds
// dim elements. Sums run over lanes and short panels, then in double: the relative error of a sum
// of non-negative terms stays below 2e-6 in float32, whatever dim is, and does not depend on
// anything but the two rows.
#define CLFAST_ROW_FUNCTIONS(T)                                                                 \
  void sq_distances(const T* query, Rows rows, const int64_t* indices, int64_t begin,           \
                    int64_t count, int64_t dim, T* scratch, T* out);                            \
  void dots(const T* query, Rows rows, const int64_t* indices, int64_t begin, int64_t count,    \
            int64_t dim, T* scratch, T* out);                                                   \
  void sq_norms(Rows rows, const int64_t* indices, int64_t begin, int64_t count, int64_t dim,   \
                T* scratch, T* out);                                                            \
  void widen_rows(Rows rows, const int64_t* indices, int64_t begin, int64_t count, int64_t dim, \
                  T* out, int64_t out_stride);

CLFAST_ROW_FUNCTIONS(float)
CLFAST_ROW_FUNCTIONS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_ROW_FUNCTIONS(float) CLFAST_ROW_FUNCTIONS(double))

}  // namespace clfast::cpu
