// Total variation and norm of images, their gradient, and a step of gradient descent with it.
#pragma once
#include <cstdint>

#include "../common/image_prior.h"
#include "simd.h"

namespace clfast::cpu {

// Images [begin, end). image_prior: values [M]; gradient [M, size], of weights[i] times the value,
// or null. recall_step: images -= rates[i] (grad + weights[i] gradient of the value). scratch:
// recall_step_scratch() elements.
#define CLFAST_IMAGE_PRIOR(T)                                                                    \
  void image_prior(const ImagePrior<T>& prior, const T* images, const T* weights, int64_t begin, \
                   int64_t end, T* values, T* gradient);                                         \
  void recall_step(const ImagePrior<T>& prior, const T* grad, const T* weights, const T* rates,  \
                   int64_t begin, int64_t end, T* scratch, T* images);
CLFAST_IMAGE_PRIOR(float)
CLFAST_IMAGE_PRIOR(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_IMAGE_PRIOR(float) CLFAST_IMAGE_PRIOR(double))

template <class T>
static inline int64_t recall_step_scratch(const ImagePrior<T>& prior) {
  return 2 * prior.row;
}

}  // namespace clfast::cpu
