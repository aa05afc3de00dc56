// Cross-entropy of predictions under soft targets, or their divergence, and its gradient by the
// predictions' logits.
#pragma once
#include <cstdint>

#include "padded_classes.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct SoftCrossEntropyProblem {
  const T* logits;         // [M, width], of which the first C are compared
  const T* target_logits;  // [M, C]
  int64_t classes, width;  // C <= width
  const T* row_weights;    // [M], what a row counts in the mean
  T sharpening;            // 1 / temperature
  bool less_entropy;       // of the targets, which leaves KL(target || prediction)
};

// Rows [begin, end): values [M], to be summed under row_weights, and gradient [M, width].
// scratch: soft_cross_entropy_scratch() elements.
#define CLFAST_SOFT_CROSS_ENTROPY(T)                                                             \
  void soft_cross_entropy(const SoftCrossEntropyProblem<T>& problem, int64_t begin, int64_t end, \
                          T* scratch, T* values, T* gradient);
CLFAST_SOFT_CROSS_ENTROPY(float)
CLFAST_SOFT_CROSS_ENTROPY(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_SOFT_CROSS_ENTROPY(float) CLFAST_SOFT_CROSS_ENTROPY(double))

static inline int64_t soft_cross_entropy_scratch(int64_t classes) {
  return padded_classes(classes);
}

}  // namespace clfast::cpu
