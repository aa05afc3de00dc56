// Total variation and norm of images, their gradient, and a step of gradient descent with it.
#pragma once
#include <cstdint>

#include "simd.h"

namespace clfast::cpu {

// An image is `planes` planes of `height` rows of `row` elements in one piece, in which neighbours
// along the width are `lag` apart: with channels first a plane is a channel and lag is 1, with
// channels last there is one plane, and lag is the number of channels.
template <class T>
struct ImagePrior {
  int64_t planes, height, row, lag;
  T down, right;  // what a squared or absolute difference of neighbours counts, along either side
  T norm;         // what an image's Euclidean norm counts
  bool absolute;  // differences count as they are, not squared

  inline int64_t size() const { return planes * height * row; }
};

// Images [begin, end). image_prior: values [M]; gradient [M, size], of weights[i] times the value,
// or null. recall_step: images -= rates[i] (grad + weights[i] gradient of the value). scratch:
// image_prior_scratch() elements.
#define CLFAST_IMAGE_PRIOR(T)                                                                    \
  void image_prior(const ImagePrior<T>& prior, const T* images, const T* weights, int64_t begin, \
                   int64_t end, T* scratch, T* values, T* gradient);                             \
  void recall_step(const ImagePrior<T>& prior, const T* grad, const T* weights, const T* rates,  \
                   int64_t begin, int64_t end, T* scratch, T* images);
CLFAST_IMAGE_PRIOR(float)
CLFAST_IMAGE_PRIOR(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_IMAGE_PRIOR(float) CLFAST_IMAGE_PRIOR(double))

// Three rows with their ends repeated.
template <class T>
static inline int64_t image_prior_scratch(const ImagePrior<T>& prior) {
  return 3 * (prior.row + 2 * prior.lag);
}

}  // namespace clfast::cpu
