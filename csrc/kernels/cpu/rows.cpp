#include "rows.h"

namespace clfast::cpu {

#define CLFAST_PICK_ROW_FUNCTIONS(T)                                                            \
  void sq_distances(const T* query, Rows rows, const int64_t* indices, int64_t begin,           \
                    int64_t count, int64_t dim, T* scratch, T* out) {                           \
    CLFAST_CALL_AT_LEVEL(sq_distances(query, rows, indices, begin, count, dim, scratch, out));  \
  }                                                                                             \
  void dots(const T* query, Rows rows, const int64_t* indices, int64_t begin, int64_t count,    \
            int64_t dim, T* scratch, T* out) {                                                  \
    CLFAST_CALL_AT_LEVEL(dots(query, rows, indices, begin, count, dim, scratch, out));          \
  }                                                                                             \
  void sq_norms(Rows rows, const int64_t* indices, int64_t begin, int64_t count, int64_t dim,   \
                T* scratch, T* out) {                                                           \
    CLFAST_CALL_AT_LEVEL(sq_norms(rows, indices, begin, count, dim, scratch, out));             \
  }                                                                                             \
  void widen_rows(Rows rows, const int64_t* indices, int64_t begin, int64_t count, int64_t dim, \
                  T* out, int64_t out_stride) {                                                 \
    CLFAST_CALL_AT_LEVEL(widen_rows(rows, indices, begin, count, dim, out, out_stride));        \
  }

CLFAST_PICK_ROW_FUNCTIONS(float)
CLFAST_PICK_ROW_FUNCTIONS(double)

}  // namespace clfast::cpu
