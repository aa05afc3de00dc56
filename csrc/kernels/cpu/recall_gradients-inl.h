// Included once per SIMD level.
#include "divergence_row-inl.h"
#include "recall_gradients.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void predict_rows(const RecallProblem<T>& p, int64_t begin, int64_t end,
                         const RecallState<T>& s, T* d_old, T* d_new) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t at = row * p.classes;
    const TwoSoftmaxes<T> both =
        softmaxes(p.old_logits + at, p.new_logits + at, p.classes, T(1), d_old + at, d_new + at);
    const Softmax<T> of_old = both.a, of_new = both.b;
    T* state = s.softmaxes + 6 * row;
    state[0] = of_old.top, state[1] = of_old.log_sum, state[2] = of_old.share;
    state[3] = of_new.top, state[4] = of_new.log_sum, state[5] = of_new.share;
  }
}

template <class T>
inline void diversity_of_classes(const RecallProblem<T>& p, int64_t begin, int64_t end,
                                 const T* powers, const RecallState<T>& s, T* terms) {
  const Vector<T> smallest = Vector<T>{} + static_cast<T>(smallest_mean_prediction());
  for_vectors<T>(end - begin, [&](int64_t offset, int64_t count) {
    const int64_t i = begin + offset;
    Vector<T> mean = {};
    for (int64_t row = 0; row < p.rows; ++row) {
      const T weight = p.row_weights[row] * s.softmaxes[6 * row + 2];
      mean += weight * load_first(powers + row * p.classes + i, count, T(0));
    }
    const auto small = mean < smallest;
    mean = small ? smallest : mean;
    const Vector<T> log_mean = log_of(mean);
    store_first<T>(terms + i, count, mean * log_mean);
    store_first<T>(s.slopes + i, count, small ? Vector<T>{} : log_mean + T(1));
  });
}

// The first class whose logit is not below `top`; `classes` where there is none.
template <class T>
inline int64_t first_of_largest(const T* logits, int64_t classes, T top) {
  constexpr T behind = -INFINITY;
  for (int64_t i = 0; i < classes; i += kLanes<T>) {
    const int64_t count = classes - i < kLanes<T> ? classes - i : kLanes<T>;
    const uint32_t found = not_above<T>(Vector<T>{} + top, load_first(logits + i, count, behind));
    const int64_t first = i + (found ? __builtin_ctz(found) : classes);
    if (found) return first < classes ? first : classes;
  }
  return classes;
}

template <class T>
inline void gradients_of_rows(const RecallProblem<T>& p, int64_t begin, int64_t end, T* scratch,
                              const RecallState<T>& s, T* d_old, T* d_new, T* values) {
  const int64_t classes = p.classes;
  const DivergenceForm<T> form = form_of<T>(p.divergence);
  const T *present = p.present, *slopes = s.slopes;
  const T diversity = p.diversity, sharpness = p.sharpness, divergence = p.divergence_weight;
  const T not_local_old = p.not_local_old, not_local_new = p.not_local_new;
  T *x = scratch, *y = x + padded_classes(classes);
  for (int64_t row = begin; row < end; ++row) {
    const T *old_logits = p.old_logits + row * classes, *new_logits = p.new_logits + row * classes;
    T *old_out = d_old + row * classes, *new_out = d_new + row * classes;
    const T* state = s.softmaxes + 6 * row;
    const Softmax<T> of_old{state[0], T(1), state[1], state[2]};
    const Softmax<T> of_new{state[3], T(1), state[4], state[5]};
    Vector<T> sums[4] = {};
    for_vectors<T>(classes, [&](int64_t i, int64_t count) {
      const DivergenceTerms<T> t = divergence_terms<T>(
          form, of_old, of_new, of_old.logits(old_logits + i, count),
          of_new.logits(new_logits + i, count), load_first(old_out + i, count, T(0)),
          load_first(new_out + i, count, T(0)));
      sums[0] += t.p * t.x, sums[1] += t.q * t.y, sums[2] += t.p * load(slopes + i);
      const Vector<T> here = load(present + i);
      sums[3] += here * not_local_old * t.log_p + here * not_local_new * t.log_q;
      store(x + i, t.x), store(y + i, t.y);
    });
    T means[4];
    sum_lanes<T, 4>(sums, means);
    const T mean_x = means[0], mean_y = means[1], mean_slope = means[2], not_local = means[3];
    // -log of the largest prediction, which softmaxes() scaled to e^0.
    values[row] = not_local + sharpness * of_old.log_sum - divergence * (mean_x + mean_y);
    const T weight = p.row_weights[row];
    const int64_t sharpest = first_of_largest(old_logits, classes, of_old.top);
    for_vectors<T>(classes, [&](int64_t i, int64_t count) {
      const Vector<T> share = load_first(old_out + i, count, T(0)) * of_old.share;
      const Vector<T> new_share = load_first(new_out + i, count, T(0)) * of_new.share;
      const Vector<T> here = load(present + i);
      const auto is_sharpest = lane_numbers<T>() == static_cast<LaneOf<T>>(sharpest - i);
      const Vector<T> of_loss =
          diversity * share * (load(slopes + i) - mean_slope) +
          sharpness * (is_sharpest ? share - T(1) : share) - not_local_old * (share - here) -
          divergence * old_slope<T>(form, share, new_share, load(x + i), mean_x);
      const Vector<T> of_new_loss =
          not_local_new * (new_share - here) +
          divergence * new_slope<T>(form, share, new_share, load(y + i), mean_y);
      store_first<T>(old_out + i, count, weight * of_loss);
      store_first<T>(new_out + i, count, -weight * of_new_loss);
    });
  }
}

#define CLFAST_RECALL_GRADIENTS_OF(T)                                                            \
  void recall_predictions(const RecallProblem<T>& problem, int64_t begin, int64_t end,           \
                          const RecallState<T>& state, T* d_old, T* d_new) {                     \
    predict_rows(problem, begin, end, state, d_old, d_new);                                      \
  }                                                                                              \
  void recall_diversity(const RecallProblem<T>& problem, int64_t begin, int64_t end,             \
                        const T* powers, const RecallState<T>& state, T* terms) {                \
    diversity_of_classes(problem, begin, end, powers, state, terms);                             \
  }                                                                                              \
  void recall_gradients(const RecallProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                        const RecallState<T>& state, T* d_old, T* d_new, T* values) {            \
    gradients_of_rows(problem, begin, end, scratch, state, d_old, d_new, values);                \
  }
CLFAST_RECALL_GRADIENTS_OF(float)
CLFAST_RECALL_GRADIENTS_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
