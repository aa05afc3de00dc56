// Included once per SIMD level.
#include "divergence.h"
#include "divergence_row-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void divergence_of_rows(const T* p_logits, const T* q_logits, int64_t classes,
                               Divergence kind, int64_t begin, int64_t end, T* scratch, T* values,
                               T* d_p, T* d_q) {
  const DivergenceForm<T> form = form_of<T>(kind);
  const int64_t width = padded_classes(classes);
  T *p_row = scratch, *q_row = p_row + width, *p = q_row + width, *q = p + width, *x = q + width,
    *y = x + width;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * classes;
    take_logits(p_logits + at, classes, width, p_row);
    take_logits(q_logits + at, classes, width, q_row);
    const Softmax<T> of_p = softmax(p_row, width, T(1), p);
    const Softmax<T> of_q = softmax(q_row, width, T(1), q);
    const DivergenceRow<T> d = divergence_row(form, width, p_row, q_row, of_p, of_q, p, q, x, y);
    values[row] = d.value();
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      p_row[i] = d.old_slope(i);
      q_row[i] = d.new_slope(i);
    }
    for (int64_t i = 0; i < classes; ++i) d_p[at + i] = p_row[i];
    for (int64_t i = 0; i < classes; ++i) d_q[at + i] = q_row[i];
  }
}

void divergence(const float* p_logits, const float* q_logits, int64_t classes, Divergence kind,
                int64_t begin, int64_t end, float* scratch, float* values, float* d_p, float* d_q) {
  divergence_of_rows(p_logits, q_logits, classes, kind, begin, end, scratch, values, d_p, d_q);
}
void divergence(const double* p_logits, const double* q_logits, int64_t classes, Divergence kind,
                int64_t begin, int64_t end, double* scratch, double* values, double* d_p,
                double* d_q) {
  divergence_of_rows(p_logits, q_logits, classes, kind, begin, end, scratch, values, d_p, d_q);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
