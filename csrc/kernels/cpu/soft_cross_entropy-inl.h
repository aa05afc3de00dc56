// Included once per SIMD level.
#include "soft_cross_entropy.h"
#include "softmax-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void cross_entropy_of_rows(const SoftCrossEntropyProblem<T>& p, int64_t begin, int64_t end,
                                  T* scratch, T* values, T* gradient) {
  const int64_t classes = p.classes, width = padded_classes(classes);
  T *logits = scratch, *target = logits + width, *share = target + width;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * classes;
    take_logits(p.target_logits + at, classes, width, logits);
    softmax(logits, width, p.sharpening, target);
    take_logits(p.logits + at, classes, width, logits);
    const Softmax<T> of_logits = softmax(logits, width, p.sharpening, share);
    const T factor = p.row_weights[row] * p.sharpening;
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) {
      sum -= target[i] * of_logits.log_of_share(logits[i]);
      share[i] = factor * (share[i] - target[i]);
    }
    values[row] = sum;
    for (int64_t i = 0; i < classes; ++i) gradient[at + i] = share[i];
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
