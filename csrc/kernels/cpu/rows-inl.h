// Included once per SIMD level.
#include "gemm-inl.h"
#include "reduce-inl.h"
#include "rows.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void pack_rows(const T* rows, int64_t count, int64_t dim, T factor, T* panels) {
  constexpr int64_t columns = kTileColumns<T>;
  for (int64_t first = 0; first < count; first += columns) {
    transpose(rows + first * dim, dim, count - first < columns ? count - first : columns, dim,
              factor, panels + first * dim, columns, columns);
  }
}

#define CLFAST_DEFINE_ROW_FUNCTIONS(T)                                                            \
  void sq_distances(const T* query, Rows rows, const int64_t* indices, int64_t begin,             \
                    int64_t count, int64_t dim, T* scratch, T* out) {                             \
    for_each_row(rows, indices, begin, count, dim, scratch, [=](int64_t i, const T* row) {        \
      out[i] = reduce_pair<SquaredDifference>(query, row, dim);                                   \
    });                                                                                           \
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
    for (int64_t i = 0; i < count; ++i) {                                                         \
      T* row = out + i * out_stride;                                                              \
      load_row_less(rows, begin + i, dim, offset, row);                                           \
      norms[i] = reduce_pair<Product>(row, row, dim);                                             \
    }                                                                                             \
  }                                                                                               \
  void pack_panels(const T* rows, int64_t count, int64_t dim, T factor, T* panels) {              \
    pack_rows(rows, count, dim, factor, panels);                                                  \
  }                                                                                               \
  int64_t panel_columns(T) { return kTileColumns<T>; }

CLFAST_DEFINE_ROW_FUNCTIONS(float)
CLFAST_DEFINE_ROW_FUNCTIONS(double)
#undef CLFAST_DEFINE_ROW_FUNCTIONS

}  // namespace clfast::cpu::CLFAST_LEVEL
