// Included once per SIMD level.
#include "soft_cross_entropy.h"
#include "softmax-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void cross_entropy_of_rows(const SoftCrossEntropyProblem<T>& p, int64_t begin, int64_t end,
                                  T* scratch, T* values, T* gradient) {
  const int64_t classes = p.classes;
  T* targets = scratch;
  for (int64_t row = begin; row < end; ++row) {
    const T *logits = p.logits + row * p.width, *target_logits = p.target_logits + row * classes;
    T* out = gradient + row * p.width;
    const TwoSoftmaxes<T> both =
        softmaxes(target_logits, logits, classes, p.sharpening, targets, out);
    const Softmax<T> of_target = both.a, of_logits = both.b;
    const T factor = p.row_weights[row] * p.sharpening;
    Vector<T> sum = {};
    for_vectors<T>(classes, [&](int64_t i, int64_t count) {
      const Vector<T> target = load_first(targets + i, count, T(0)) * of_target.share;
      const Vector<T> share = load_first(out + i, count, T(0)) * of_logits.share;
      Vector<T> log_ratio = of_logits.log_of_share(of_logits.logits(logits + i, count));
      if (p.less_entropy) {
        log_ratio -= of_target.log_of_share(of_target.logits(target_logits + i, count));
      }
      sum -= target * log_ratio;
      store_first<T>(out + i, count, factor * (share - target));
    });
    for (int64_t i = classes; i < p.width; ++i) out[i] = T(0);
    values[row] = sum_lanes<T>(sum);
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
