#include "image_prior.h"

namespace clfast::cpu {

#define CLFAST_PICK_IMAGE_PRIOR(T)                                                               \
  void image_prior(const ImagePrior<T>& prior, const T* images, const T* weights, int64_t begin, \
                   int64_t end, T* values, T* gradient) {                                        \
    CLFAST_CALL_AT_LEVEL(image_prior(prior, images, weights, begin, end, values, gradient));     \
  }                                                                                              \
  void recall_step(const ImagePrior<T>& prior, const T* grad, const T* weights, const T* rates,  \
                   int64_t begin, int64_t end, T* scratch, T* images) {                          \
    CLFAST_CALL_AT_LEVEL(recall_step(prior, grad, weights, rates, begin, end, scratch, images)); \
  }
CLFAST_PICK_IMAGE_PRIOR(float)
CLFAST_PICK_IMAGE_PRIOR(double)

}  // namespace clfast::cpu
