// Included once per SIMD level.
#include <cmath>

#include "mixture_log_probs.h"
#include "neighbour_dots-inl.h"
#include "softmax-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Of values whose largest is about 0.
template <class T>
inline T log_sum_exp(const T* x, int64_t count) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += exp_of(x[i]);
  return std::log(sum);
}

template <class T>
inline T log_add_exp(T a, T b) {
  const T high = a > b ? a : b, low = a > b ? b : a;
  return low == -INFINITY ? high : high + std::log1p(std::exp(low - high));
}

template <class T>
inline Finding mix_queries(const MixtureProblem<T>& p, int64_t begin, int64_t end, T* scratch,
                           T* out) {
  const Neighbourhood<T>& n = p.neighbourhood;
  const int64_t classes = n.num_classes;
  T *row = scratch, *score = row + n.dim, *maximum = score + n.neighbours, *sum = maximum + classes;
  int32_t* labels = as_labels(sum + classes);
  // As they are left by every query.
  for (int64_t i = 0; i < classes; ++i) {
    maximum[i] = -INFINITY;
    sum[i] = T(0);
  }
  for (int64_t query = begin; query < end; ++query) {
    const Finding finding =
        neighbour_dots(n, query, p.queries + query * n.dim, p.key_sq_norms, row, score, labels);
    if (finding.fault != Fault::kNone) return finding;
    const T* logits = p.logits + query * classes;
    T* result = out + query * classes;
    for (int64_t k = 0; k < n.neighbours; ++k) score[k] *= p.theta;
    // Large numbers are taken away first, while their difference is still exact: the largest score
    // and the largest logit, or, where both stand in one sum, the larger of the two.
    T score_shift = largest(score, n.neighbours), logit_shift = largest(logits, classes);
    if (p.joint) {
      score_shift = logit_shift = score_shift > logit_shift ? score_shift : logit_shift;
    }
    for (int64_t k = 0; k < n.neighbours; ++k) score[k] -= score_shift;
    for (int64_t i = 0; i < classes; ++i) result[i] = logits[i] - logit_shift;
    const T memory_norm = p.joint ? T(0) : log_sum_exp(score, n.neighbours);
    const T logits_norm = p.joint ? T(0) : log_sum_exp(result, classes);

    // The neighbours' mass of every class, each class with its own maximum.
    for (int64_t k = 0; k < n.neighbours; ++k) {
      T& m = maximum[labels[k]];
      m = score[k] > m ? score[k] : m;
    }
    for (int64_t k = 0; k < n.neighbours; ++k) score[k] -= maximum[labels[k]];
#pragma omp simd
    for (int64_t k = 0; k < n.neighbours; ++k) score[k] = exp_of(score[k]);
    for (int64_t k = 0; k < n.neighbours; ++k) sum[labels[k]] += score[k];
    const T shift = p.log_rest - logits_norm;
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i) result[i] += shift;
    // Only classes with neighbours have more: at the first of a class's neighbours all is added.
    for (int64_t k = 0; k < n.neighbours; ++k) {
      const int64_t i = labels[k];
      if (sum[i] == T(0)) continue;
      const T near = p.log_gamma + maximum[i] + std::log(sum[i]) - memory_norm;
      result[i] = log_add_exp(result[i], near);
      maximum[i] = -INFINITY;
      sum[i] = T(0);
    }
    if (p.joint) {
      const T top = largest(result, classes);
      for (int64_t i = 0; i < classes; ++i) result[i] -= top;
      const T norm = log_sum_exp(result, classes);
      for (int64_t i = 0; i < classes; ++i) result[i] -= norm;
    }
  }
  return {};
}

Finding mixture_log_probs(const MixtureProblem<float>& p, int64_t begin, int64_t end,
                          float* scratch, float* out) {
  return mix_queries(p, begin, end, scratch, out);
}
Finding mixture_log_probs(const MixtureProblem<double>& p, int64_t begin, int64_t end,
                          double* scratch, double* out) {
  return mix_queries(p, begin, end, scratch, out);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
