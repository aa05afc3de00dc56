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
  void copy_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, const T* offset, T* out, \
                 int64_t out_stride, T* norms) {                                                \
    CLFAST_CALL_AT_LEVEL(copy_rows(rows, begin, count, dim, offset, out, out_stride, norms));   \
  }                                                                                             \
  void pack_panels(const T* rows, int64_t count, int64_t dim, T factor, T* panels) {            \
    CLFAST_CALL_AT_LEVEL(pack_panels(rows, count, dim, factor, panels));                        \
  }                                                                                             \
  int64_t panel_columns(T tag) { CLFAST_CALL_AT_LEVEL(panel_columns(tag)); }

CLFAST_PICK_ROW_FUNCTIONS(float)
CLFAST_PICK_ROW_FUNCTIONS(double)

}  // namespace clfast::cpu
