// Included once per SIMD level.
#include "cosine_logits.h"
#include "unit_length-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void scale_rows(const T* rows, int64_t dim, int64_t begin, int64_t end, T factor, T* out,
                       T* inverse_lengths) {
  for (int64_t i = begin; i < end; ++i) {
    const T* x = rows + i * dim;
    const T inverse = static_cast<T>(inverse_length_of(x, dim)), scale = factor * inverse;
    inverse_lengths[i] = inverse;
    for (int64_t j = 0; j < dim; ++j) out[i * dim + j] = scale * x[j];
  }
}

template <class T>
inline void gradient_of_rows(const T* rows, const T* inverse_lengths, const T* slopes, int64_t dim,
                             int64_t begin, int64_t end, T factor, T* out, T* dots) {
  for (int64_t i = begin; i < end; ++i) {
    const T *x = rows + i * dim, *h = slopes + i * dim;
    const T inverse = inverse_lengths[i], dot = inverse * reduce_pair<Product>(h, x, dim);
    const T along = is_floor(inverse) ? T(0) : dot * inverse, scale = factor * inverse;
    dots[i] = dot;
    for (int64_t j = 0; j < dim; ++j) out[i * dim + j] = scale * (h[j] - along * x[j]);
  }
}

#define CLFAST_DEFINE_UNIT_ROWS(T)                                                               \
  void unit_rows(const T* rows, int64_t dim, int64_t begin, int64_t end, T factor, T* out,       \
                 T* inverse_lengths) {                                                           \
    scale_rows(rows, dim, begin, end, factor, out, inverse_lengths);                             \
  }                                                                                              \
  void unit_rows_gradient(const T* rows, const T* inverse_lengths, const T* slopes, int64_t dim, \
                          int64_t begin, int64_t end, T factor, T* out, T* dots) {               \
    gradient_of_rows(rows, inverse_lengths, slopes, dim, begin, end, factor, out, dots);         \
  }
CLFAST_DEFINE_UNIT_ROWS(float)
CLFAST_DEFINE_UNIT_ROWS(double)
#undef CLFAST_DEFINE_UNIT_ROWS

}  // namespace clfast::cpu::CLFAST_LEVEL
