// The rows on either side of a product of cosines, and the gradients by them.
#pragma once
#include <cstdint>

#include "simd.h"

namespace clfast::cpu {

// Rows [begin, end). unit_rows: factor x / |x| into out, and inverse_lengths [N]; a zero row stays
// zero. unit_rows_gradient: of slopes h by x / |x|, factor times the gradient by x into out, and
// dots [N] = <h, x / |x|>.
#define CLFAST_UNIT_ROWS(T)                                                                      \
  void unit_rows(const T* rows, int64_t dim, int64_t begin, int64_t end, T factor, T* out,       \
                 T* inverse_lengths);                                                            \
  void unit_rows_gradient(const T* rows, const T* inverse_lengths, const T* slopes, int64_t dim, \
                          int64_t begin, int64_t end, T factor, T* out, T* dots);
CLFAST_UNIT_ROWS(float)
CLFAST_UNIT_ROWS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_UNIT_ROWS(float) CLFAST_UNIT_ROWS(double))

}  // namespace clfast::cpu
