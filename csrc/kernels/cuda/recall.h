// Launchers of the recall kernels, for the glue and for the emulator's bindings. Include what
// defines cudaError_t and cudaStream_t first. All pointers are device pointers. `multiplicity` [M]
// may be null, and counts as 1 where it is smaller.
#pragma once
#include <cstdint>

#include "../common/image_prior.h"
#include "../common/recall.h"

namespace clfast::cuda {

template <class T>
struct RecallProblem {
  const T *old_logits, *new_logits;  // [M, C]
  int64_t rows, classes;
  const int64_t* multiplicity;  // [M], or null
  const int64_t* present;       // [P]; a class outside [0, C) is left out
  int64_t present_count;        // P
  T divergence_weight, not_local_old, not_local_new, diversity, sharpness;
  Divergence divergence;
};

template <class T>
struct RecallScratch {
  T *weights, *values;  // [M]
  T* log_sums;          // [M, 4], tops and log sums of both networks
  T *slopes, *terms;    // [C]
  int32_t* counts;      // [C]
  int64_t* sharpest;    // [M], the first class with the largest old logit
};

// loss: one element; d_old and d_new: [M, C].
template <class T>
cudaError_t recall_gradients(const RecallProblem<T>& problem, const RecallScratch<T>& scratch,
                             T* loss, T* d_old, T* d_new, cudaStream_t stream);

// values [M]; d_p and d_q [M, C].
template <class T>
cudaError_t divergence(const T* p_logits, const T* q_logits, int64_t rows, int64_t classes,
                       Divergence kind, T* values, T* d_p, T* d_q, cudaStream_t stream);

template <class T>
struct SoftCrossEntropyProblem {
  const T* logits;               // [M, width], of which the first C are compared
  const T* target_logits;        // [M, C]
  int64_t rows, classes, width;  // M, C <= width
  const int64_t* multiplicity;   // [M], or null
  T sharpening;                  // 1 / temperature
  bool less_entropy;             // of the targets, which leaves KL(target || prediction)
  T factor;                      // of the mean over all copies
};

// weights and values: [M] of scratch. loss: one element; gradient: [M, width].
template <class T>
cudaError_t soft_cross_entropy(const SoftCrossEntropyProblem<T>& problem, T* weights, T* values,
                               T* loss, T* gradient, cudaStream_t stream);

template <class T>
struct ImagePriorScratch {
  T *weights, *norms, *values;  // [M]
  double* sums;                 // [M, parts_of_image(size), 2]
};

// How many blocks share an image's sums.
inline int64_t parts_of_image(int64_t size) {
  const int64_t parts = (size + 4095) / 4096;
  return parts < 1 ? 1 : parts < 256 ? parts : 256;
}

// value: one element; gradient: [M, size] or null.
template <class T>
cudaError_t image_prior(const ImagePrior<T>& prior, const T* images, int64_t count,
                        const int64_t* multiplicity, const ImagePriorScratch<T>& scratch, T* value,
                        T* gradient, cudaStream_t stream);

// images -= lr (grad + gradient of the value), divided by multiplicity[i] with `per_copy`. before:
// [M, size] of scratch, the images as they were.
template <class T>
cudaError_t recall_step(const ImagePrior<T>& prior, const T* grad, int64_t count, T lr,
                        const int64_t* multiplicity, bool per_copy,
                        const ImagePriorScratch<T>& scratch, T* before, T* images,
                        cudaStream_t stream);

}  // namespace clfast::cuda
