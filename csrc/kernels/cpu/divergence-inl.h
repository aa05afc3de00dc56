// Included once per SIMD level.
#include "divergence.h"
#include "divergence_row-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void divergence_of_rows(const T* p_logits, const T* q_logits, int64_t classes,
                               Divergence kind, int64_t begin, int64_t end, T* scratch, T* values,
                               T* d_p, T* d_q) {
  const DivergenceForm<T> form = form_of<T>(kind);
  T *x = scratch, *y = x + padded_classes(classes);
  for (int64_t row = begin; row < end; ++row) {
    const T *p_row = p_logits + row * classes, *q_row = q_logits + row * classes;
    T *p_out = d_p + row * classes, *q_out = d_q + row * classes;
    const TwoSoftmaxes<T> both = softmaxes(p_row, q_row, classes, T(1), p_out, q_out);
    const Softmax<T> of_p = both.a, of_q = both.b;
    Vector<T> sums[2] = {};
    for_vectors<T>(classes, [&](int64_t i, int64_t count) {
      const DivergenceTerms<T> t = divergence_terms<T>(
          form, of_p, of_q, of_p.logits(p_row + i, count), of_q.logits(q_row + i, count),
          load_first(p_out + i, count, T(0)), load_first(q_out + i, count, T(0)));
      sums[0] += t.p * t.x, sums[1] += t.q * t.y;
      store(x + i, t.x), store(y + i, t.y);
    });
    T means[2];
    sum_lanes<T, 2>(sums, means);
    values[row] = means[0] + means[1];
    for_vectors<T>(classes, [&](int64_t i, int64_t count) {
      const Vector<T> p = load_first(p_out + i, count, T(0)) * of_p.share;
      const Vector<T> q = load_first(q_out + i, count, T(0)) * of_q.share;
      store_first<T>(p_out + i, count, old_slope<T>(form, p, q, load(x + i), means[0]));
      store_first<T>(q_out + i, count, new_slope<T>(form, p, q, load(y + i), means[1]));
    });
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
