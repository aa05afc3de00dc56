// The recall loss of ARM (Eq. 8 and 9) and its gradients by the logits of both networks.
#pragma once
#include <cstdint>

#include "../common/recall.h"
#include "padded_classes.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct RecallProblem {
  const T *old_logits, *new_logits;  // [M, C]
  int64_t rows, classes;
  const T* row_weights;  // [M], what a row counts in a mean
  const T* present;      // [padded_classes(C)], each class's share in the present ones, else 0
  T divergence_weight, not_local_old, not_local_new, diversity, sharpness;
  Divergence divergence;
};

template <class T>
struct RecallState {
  T* softmaxes;  // [M, 6]: largest logit, log of the sum and its inverse, of old and new logits
  T* slopes;     // [padded_classes(C)], of the diversity by the mean prediction; 0 behind
};

// Three passes, each over a range. recall_predictions: rows of d_old and d_new become e^(logit -
// largest), of which predictions are a multiple. recall_diversity: classes; terms [C] sum to the
// diversity, the mean prediction's negative entropy. recall_gradients: rows; d_old and d_new become
// the gradients, values [M] the other terms, whose mean under row_weights lacks the constant
// divergence_weight. scratch: recall_scratch() elements.
#define CLFAST_RECALL_GRADIENTS(T)                                                               \
  void recall_predictions(const RecallProblem<T>& problem, int64_t begin, int64_t end,           \
                          const RecallState<T>& state, T* d_old, T* d_new);                      \
  void recall_diversity(const RecallProblem<T>& problem, int64_t begin, int64_t end,             \
                        const T* powers, const RecallState<T>& state, T* terms);                 \
  void recall_gradients(const RecallProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                        const RecallState<T>& state, T* d_old, T* d_new, T* values);
CLFAST_RECALL_GRADIENTS(float)
CLFAST_RECALL_GRADIENTS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_RECALL_GRADIENTS(float) CLFAST_RECALL_GRADIENTS(double))

static inline int64_t recall_scratch(int64_t classes) { return 2 * padded_classes(classes); }

}  // namespace clfast::cpu
