#include "cosine_logits.h"

namespace clfast::cpu {

#define CLFAST_PICK_UNIT_ROWS(T)                                                                 \
  void unit_rows(const T* rows, int64_t dim, int64_t begin, int64_t end, T factor, T* out,       \
                 T* inverse_lengths) {                                                           \
    CLFAST_CALL_AT_LEVEL(unit_rows(rows, dim, begin, end, factor, out, inverse_lengths));        \
  }                                                                                              \
  void unit_rows_gradient(const T* rows, const T* inverse_lengths, const T* slopes, int64_t dim, \
                          int64_t begin, int64_t end, T factor, T* out, T* dots) {               \
    CLFAST_CALL_AT_LEVEL(                                                                        \
        unit_rows_gradient(rows, inverse_lengths, slopes, dim, begin, end, factor, out, dots));  \
  }
CLFAST_PICK_UNIT_ROWS(float)
CLFAST_PICK_UNIT_ROWS(double)

}  // namespace clfast::cpu
