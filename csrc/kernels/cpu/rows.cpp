#include "rows.h"

namespace clfast::cpu {

#define CLFAST_PICK_ROW_FUNCTIONS(T)                                                            \
  void sq_distances(const T* query, Rows rows, const int64_t* indices, int64_t begin,           \
                    int64_t count, int64_t dim, T* scratch, T* out) {                           \
    CLFAST_CALL_AT_LEVEL(sq_distances(query, rows, indices, begin, count, dim, scratch, out));  \
  }                                                                                             \
  void all_sq_distances(const T* const* queries, int64_t query_count, const T* rows,            \
                        int64_t count, int64_t dim, T* out, int64_t out_stride) {               \
    CLFAST_CALL_AT_LEVEL(                                                                       \
        all_sq_distances(queries, query_count, rows, count, dim, out, out_stride));             \
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
  }

CLFAST_PICK_ROW_FUNCTIONS(float)
CLFAST_PICK_ROW_FUNCTIONS(double)

template <class T>
void pack_panels(Simd level, const T* rows, int64_t count, int64_t dim, T* panels) {
  CLFAST_CALL_AT(level, pack_panels(rows, count, dim, panels));
}
template void pack_panels(Simd, const float*, int64_t, int64_t, float*);
template void pack_panels(Simd, const double*, int64_t, int64_t, double*);

template <class T>
int64_t panel_columns(Simd level) {
  CLFAST_CALL_AT(level, panel_columns(T{}));
}
template int64_t panel_columns<float>(Simd);
template int64_t panel_columns<double>(Simd);

}  // namespace clfast::cpu
