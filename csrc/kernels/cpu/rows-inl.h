// Included once per SIMD level.
#include "reduce-inl.h"
#include "rows.h"

namespace clfast::cpu::CLFAST_LEVEL {

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
  void widen_rows(Rows rows, const int64_t* indices, int64_t begin, int64_t count, int64_t dim,   \
                  T* out, int64_t out_stride) {                                                   \
    for (int64_t i = 0; i < count; ++i) {                                                         \
      load_row(rows.data, rows.kind, indices != nullptr ? indices[i] : begin + i, dim,            \
               out + i * out_stride);                                                             \
    }                                                                                             \
  }

CLFAST_DEFINE_ROW_FUNCTIONS(float)
CLFAST_DEFINE_ROW_FUNCTIONS(double)
#undef CLFAST_DEFINE_ROW_FUNCTIONS

}  // namespace clfast::cpu::CLFAST_LEVEL
