// Included once per SIMD level.
#include "soft_cross_entropy.h"
#include "softmax-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void cross_entropy_of_rows(const SoftCrossEntropyProblem<T>& p, int64_t begin, int64_t end,
                                  T* target, T* values, T* gradient) {
  const int64_t classes = p.classes;
  for (int64_t row = begin; row < end; ++row) {
    const T* logits = p.logits + row * classes;
    T* out = gradient + row * classes;
    softmax(p.target_logits + row * classes, classes, p.sharpening, target);
    const Softmax<T> of_logits = softmax(logits, classes, p.sharpening, out);
    const T factor = p.row_weights[row] * p.sharpening;
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < classes; ++i) {
      sum -= target[i] * of_logits.log_of_share(logits[i]);
      out[i] = factor * (out[i] - target[i]);
    }
    values[row] = sum;
  }
}

void soft_cross_entropy(const SoftCrossEntropyProblem<float>& problem, int64_t begin, int64_t end,
                        float* scratch, float* values, float* gradient) {
  cross_entropy_of_rows(problem, begin, end, scratch, values, gradient);
}
void soft_cross_entropy(const SoftCrossEntropyProblem<double>& problem, int64_t begin, int64_t end,
                        double* scratch, double* values, double* gradient) {
  cross_entropy_of_rows(problem, begin, end, scratch, values, gradient);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
