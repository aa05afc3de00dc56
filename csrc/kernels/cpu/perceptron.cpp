#include "perceptron.h"

namespace clfast::cpu {

#define CLFAST_PICK_PERCEPTRON(T)                                                              \
  void perceptron_forward(const PerceptronLayer<T>& layer, const T* in, int64_t samples,       \
                          bool rectified, int64_t begin, int64_t end, T* out) {                \
    CLFAST_CALL_AT_LEVEL(perceptron_forward(layer, in, samples, rectified, begin, end, out));  \
  }                                                                                            \
  void perceptron_backward(const PerceptronLayer<T>& layer, const T* grad, int64_t samples,    \
                           const T* hidden, bool adds, int64_t begin, int64_t end, T* scratch, \
                           T* out) {                                                           \
    CLFAST_CALL_AT_LEVEL(                                                                      \
        perceptron_backward(layer, grad, samples, hidden, adds, begin, end, scratch, out));    \
  }
CLFAST_PICK_PERCEPTRON(float)
CLFAST_PICK_PERCEPTRON(double)

}  // namespace clfast::cpu
