// Layers of perceptrons on few samples, a product of which takes hardly longer than its weights
// take to come from the cache: they are read where they lie, once for every six samples.
#pragma once
#include <cstdint>

#include "simd.h"

namespace clfast::cpu {

template <class T>
struct PerceptronLayer {
  const T* weight;  // [outputs, inputs]
  const T* bias;    // [outputs], or null
  int64_t inputs, outputs;
};

// Whole tiles of every level.
constexpr int64_t kPerceptronOutputs = 24, kPerceptronInputs = 32;

// perceptron_forward: units [begin, end) of out [samples, outputs] = in [samples, inputs] W^T +
// bias, without what is below 0 where `rectified`.
// perceptron_backward: inputs [begin, end) of out [samples, inputs] = grad [samples, outputs] W,
// but 0 where the unit in `hidden` [samples, inputs] is off; without `hidden`, which is null then,
// `adds` adds to out. scratch: 16 outputs elements, if end - begin is no multiple of 16.
#define CLFAST_PERCEPTRON(T)                                                                   \
  void perceptron_forward(const PerceptronLayer<T>& layer, const T* in, int64_t samples,       \
                          bool rectified, int64_t begin, int64_t end, T* out);                 \
  void perceptron_backward(const PerceptronLayer<T>& layer, const T* grad, int64_t samples,    \
                           const T* hidden, bool adds, int64_t begin, int64_t end, T* scratch, \
                           T* out);
CLFAST_PERCEPTRON(float)
CLFAST_PERCEPTRON(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_PERCEPTRON(float) CLFAST_PERCEPTRON(double))

}  // namespace clfast::cpu
