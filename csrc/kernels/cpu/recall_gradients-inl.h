// Included once per SIMD level.
#include "divergence_row-inl.h"
#include "recall_gradients.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void predict_rows(const RecallProblem<T>& p, int64_t begin, int64_t end,
                         const RecallState<T>& s, T* d_old, T* d_new) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * p.classes;
    const Softmax<T> of_old = softmax(p.old_logits + at, p.classes, T(1), d_old + at);
    const Softmax<T> of_new = softmax(p.new_logits + at, p.classes, T(1), d_new + at);
    s.tops[2 * row] = of_old.top, s.log_sums[2 * row] = of_old.log_sum;
    s.tops[2 * row + 1] = of_new.top, s.log_sums[2 * row + 1] = of_new.log_sum;
  }
}

template <class T>
inline void diversity_of_classes(const RecallProblem<T>& p, int64_t begin, int64_t end,
                                 const T* predictions, const RecallState<T>& s, T* terms) {
  constexpr T smallest = static_cast<T>(smallest_mean_prediction());
  for (int64_t i = begin; i < end; ++i) terms[i] = T(0);
  for (int64_t row = 0; row < p.rows; ++row) {
    const T weight = p.row_weights[row];
    const T* prediction = predictions + row * p.classes;
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) terms[i] += weight * prediction[i];
  }
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    const bool small = terms[i] < smallest;
    const T mean = small ? smallest : terms[i], log_mean = log_of(mean);
    terms[i] = mean * log_mean;
    s.slopes[i] = small ? T(0) : log_mean + T(1);
  }
}

template <class T>
inline void gradients_of_rows(const RecallProblem<T>& p, int64_t begin, int64_t end, T* scratch,
                              const RecallState<T>& s, T* d_old, T* d_new, T* values) {
  const int64_t classes = p.classes;
  const DivergenceForm<T> form = form_of<T>(p.divergence);
  const T *present = p.present, *slopes = s.slopes;
  for (int64_t row = begin; row < end; ++row) {
    const T *old_logits = p.old_logits + row * classes, *new_logits = p.new_logits + row * classes;
    T *old_out = d_old + row * classes, *new_out = d_new + row * classes;
    const Softmax<T> of_old{s.tops[2 * row], T(1), s.log_sums[2 * row]};
    const Softmax<T> of_new{s.tops[2 * row + 1], T(1), s.log_sums[2 * row + 1]};
    const DivergenceRow<T> d = divergence_row(form, classes, old_logits, new_logits, of_old, of_new,
                                              old_out, new_out, scratch, scratch + classes);
    T mean_slope = 0, old_here = 0, new_here = 0;
#pragma omp simd reduction(+ : mean_slope, old_here, new_here)
    for (int64_t i = 0; i < classes; ++i) {
      mean_slope += old_out[i] * slopes[i];
      old_here += present[i] * of_old.log_of_share(old_logits[i]);
      new_here += present[i] * of_new.log_of_share(new_logits[i]);
    }
    // -log of the largest prediction, which softmax() scaled to e^0.
    values[row] = p.not_local_old * old_here + p.not_local_new * new_here +
                  p.sharpness * of_old.log_sum - p.divergence_weight * d.value();
    const T weight = p.row_weights[row], diversity = p.diversity, sharpness = p.sharpness;
    const T divergence = p.divergence_weight;
    const T not_local_old = p.not_local_old, not_local_new = p.not_local_new;
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i) {
      const T share = old_out[i], new_share = new_out[i];
      const T of_divergence = d.old_slope(i), of_new_divergence = d.new_slope(i);
      old_out[i] = weight * (diversity * share * (slopes[i] - mean_slope) + sharpness * share -
                             not_local_old * (share - present[i]) - divergence * of_divergence);
      new_out[i] =
          -weight * (not_local_new * (new_share - present[i]) + divergence * of_new_divergence);
    }
    for (int64_t i = 0; i < classes; ++i) {
      if (old_logits[i] != of_old.top) continue;
      old_out[i] -= weight * sharpness;
      break;
    }
  }
}

#define CLFAST_RECALL_GRADIENTS_OF(T)                                                            \
  void recall_predictions(const RecallProblem<T>& problem, int64_t begin, int64_t end,           \
                          const RecallState<T>& state, T* d_old, T* d_new) {                     \
    predict_rows(problem, begin, end, state, d_old, d_new);                                      \
  }                                                                                              \
  void recall_diversity(const RecallProblem<T>& problem, int64_t begin, int64_t end,             \
                        const T* predictions, const RecallState<T>& state, T* terms) {           \
    diversity_of_classes(problem, begin, end, predictions, state, terms);                        \
  }                                                                                              \
  void recall_gradients(const RecallProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                        const RecallState<T>& state, T* d_old, T* d_new, T* values) {            \
    gradients_of_rows(problem, begin, end, scratch, state, d_old, d_new, values);                \
  }
CLFAST_RECALL_GRADIENTS_OF(float)
CLFAST_RECALL_GRADIENTS_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
