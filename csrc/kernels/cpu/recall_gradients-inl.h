// Included once per SIMD level.
#include "divergence_row-inl.h"
#include "recall_gradients.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void predict_rows(const RecallProblem<T>& p, int64_t begin, int64_t end, T* scratch,
                         const RecallState<T>& s, T* d_old, T* d_new) {
  const int64_t width = padded_classes(p.classes);
  T *logits = scratch, *prediction = logits + width;
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t network = 0; network < 2; ++network) {
      const T* given = network == 0 ? p.old_logits : p.new_logits;
      take_logits(given + row * p.classes, p.classes, width, logits);
      const Softmax<T> found = softmax(logits, width, T(1), prediction);
      s.tops[2 * row + network] = found.top;
      s.log_sums[2 * row + network] = found.log_sum;
      T* out = (network == 0 ? d_old : d_new) + row * p.classes;
      for (int64_t i = 0; i < p.classes; ++i) out[i] = prediction[i];
    }
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

// The first class with the largest logit; `count` where that is NaN.
template <class T>
inline int32_t first_of_largest(const T* logits, int64_t count, T top) {
  const int32_t none = static_cast<int32_t>(count);
  int32_t first = none;
#pragma omp simd reduction(min : first)
  for (int32_t i = 0; i < none; ++i) {
    const int32_t at = logits[i] == top ? i : none;
    first = at < first ? at : first;
  }
  return first;
}

template <class T>
inline void take_shares(const T* row, int64_t count, int64_t width, T* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = row[i];
  for (int64_t i = count; i < width; ++i) out[i] = T(0);
}

template <class T>
inline void gradients_of_rows(const RecallProblem<T>& p, int64_t begin, int64_t end, T* scratch,
                              const RecallState<T>& s, T* d_old, T* d_new, T* values) {
  const int64_t classes = p.classes, width = padded_classes(classes);
  const DivergenceForm<T> form = form_of<T>(p.divergence);
  const T *present = p.present, *slopes = s.slopes;
  const T diversity = p.diversity, sharpness = p.sharpness, divergence = p.divergence_weight;
  const T not_local_old = p.not_local_old, not_local_new = p.not_local_new;
  T *old_logits = scratch, *new_logits = old_logits + width;
  T *old_share = new_logits + width, *new_share = old_share + width;
  T *x = new_share + width, *y = x + width;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * classes;
    take_logits(p.old_logits + at, classes, width, old_logits);
    take_logits(p.new_logits + at, classes, width, new_logits);
    take_shares(d_old + at, classes, width, old_share);
    take_shares(d_new + at, classes, width, new_share);
    const Softmax<T> of_old{s.tops[2 * row], T(1), s.log_sums[2 * row]};
    const Softmax<T> of_new{s.tops[2 * row + 1], T(1), s.log_sums[2 * row + 1]};
    const DivergenceRow<T> d = divergence_row(form, width, old_logits, new_logits, of_old, of_new,
                                              old_share, new_share, x, y);
    T mean_slope = 0, old_here = 0, new_here = 0;
#pragma omp simd reduction(+ : mean_slope, old_here, new_here)
    for (int64_t i = 0; i < width; ++i) {
      mean_slope += old_share[i] * slopes[i];
      old_here += present[i] * of_old.log_of_share(old_logits[i]);
      new_here += present[i] * of_new.log_of_share(new_logits[i]);
    }
    // -log of the largest prediction, which softmax() scaled to e^0.
    values[row] = not_local_old * old_here + not_local_new * new_here + sharpness * of_old.log_sum -
                  divergence * d.value();
    const int64_t sharpest = first_of_largest(old_logits, classes, of_old.top);
    const T weight = p.row_weights[row];
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      const T old_slope = d.old_slope(i), new_slope = d.new_slope(i);
      old_logits[i] =
          weight * (diversity * old_share[i] * (slopes[i] - mean_slope) + sharpness * old_share[i] -
                    not_local_old * (old_share[i] - present[i]) - divergence * old_slope);
      new_logits[i] =
          -weight * (not_local_new * (new_share[i] - present[i]) + divergence * new_slope);
    }
    for (int64_t i = 0; i < classes; ++i) d_old[at + i] = old_logits[i];
    for (int64_t i = 0; i < classes; ++i) d_new[at + i] = new_logits[i];
    if (sharpest < classes) d_old[at + sharpest] -= weight * sharpness;
  }
}

#define CLFAST_RECALL_GRADIENTS_OF(T)                                                              \
  void recall_predictions(const RecallProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                          const RecallState<T>& state, T* d_old, T* d_new) {                       \
    predict_rows(problem, begin, end, scratch, state, d_old, d_new);                               \
  }                                                                                                \
  void recall_diversity(const RecallProblem<T>& problem, int64_t begin, int64_t end,               \
                        const T* predictions, const RecallState<T>& state, T* terms) {             \
    diversity_of_classes(problem, begin, end, predictions, state, terms);                          \
  }                                                                                                \
  void recall_gradients(const RecallProblem<T>& problem, int64_t begin, int64_t end, T* scratch,   \
                        const RecallState<T>& state, T* d_old, T* d_new, T* values) {              \
    gradients_of_rows(problem, begin, end, scratch, state, d_old, d_new, values);                  \
  }
CLFAST_RECALL_GRADIENTS_OF(float)
CLFAST_RECALL_GRADIENTS_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
