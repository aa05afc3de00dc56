// Launchers of the losses and heads of learners with exemplars, for the glue and for the emulator's
// bindings; distillation is soft_cross_entropy of recall.h. Include what defines cudaError_t and
// cudaStream_t first. All pointers are device pointers. A class outside [0, C) is left out.
#pragma once
#include <cstdint>

namespace clfast::cuda {

template <class T>
struct MarginRankingProblem {
  const T* cosines;            // [N, C]
  const int64_t* labels;       // [N]
  const int64_t* new_classes;  // [P]
  int64_t rows, classes, new_count;
  int64_t ranked;  // how many of the new classes count, at most P
  T margin;
};

// is_new [C], weights and values [N] of scratch. loss: one element; gradient: [N, C].
template <class T>
cudaError_t margin_ranking(const MarginRankingProblem<T>& problem, uint8_t* is_new, T* weights,
                           T* values, T* loss, T* gradient, cudaStream_t stream);

// factor x / |x| of all rows x into out, and inverse_lengths [N]; a null factor is 1.
template <class T>
cudaError_t unit_rows(const T* rows, int64_t count, int64_t dim, const T* factor, T* out,
                      T* inverse_lengths, cudaStream_t stream);

// Of slopes h by x / |x|: factor times the gradient by x into out, and into dots_sum, unless it is
// null, the sum of dots [N] = <h, x / |x|>.
template <class T>
cudaError_t unit_rows_gradient(const T* rows, const T* inverse_lengths, const T* slopes,
                               int64_t count, int64_t dim, const T* factor, T* out, T* dots,
                               T* dots_sum, cudaStream_t stream);

template <class T>
struct BiasCorrectProblem {
  const T* logits;             // [N, C]
  const int64_t* new_classes;  // [P]
  int64_t rows, classes, new_count;
  const T* scale;  // one element
};

// is_new [C] of scratch; shift: one element; out [N, C].
template <class T>
cudaError_t bias_correct(const BiasCorrectProblem<T>& problem, const T* shift, uint8_t* is_new,
                         T* out, cudaStream_t stream);

// is_new [C] and sums [2, N] of scratch; d_logits [N, C], d_scale and d_shift one element each.
template <class T>
cudaError_t bias_correct_gradients(const BiasCorrectProblem<T>& problem, const T* grad,
                                   uint8_t* is_new, T* sums, T* d_logits, T* d_scale, T* d_shift,
                                   cudaStream_t stream);

}  // namespace clfast::cuda
