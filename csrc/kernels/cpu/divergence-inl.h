// Included once per SIMD level.
#include "divergence.h"
#include "divergence_row-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void divergence_of_rows(const T* p_logits, const T* q_logits, int64_t classes,
                               Divergence kind, int64_t begin, int64_t end, T* scratch, T* values,
                               T* d_p, T* d_q) {
  const DivergenceForm<T> form = form_of<T>(kind);
  for (int64_t row = begin; row < end; ++row) {
    const T *p_row = p_logits + row * classes, *q_row = q_logits + row * classes;
    T *p = d_p + row * classes, *q = d_q + row * classes;
    const Softmax<T> of_p = softmax(p_row, classes, T(1), p);
    const Softmax<T> of_q = softmax(q_row, classes, T(1), q);
    const DivergenceRow<T> d =
        divergence_row(form, classes, p_row, q_row, of_p, of_q, p, q, scratch, scratch + classes);
    values[row] = d.value();
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i) {
      const T p_slope = d.old_slope(i), q_slope = d.new_slope(i);
      p[i] = p_slope;
      q[i] = q_slope;
    }
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
