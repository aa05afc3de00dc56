// Included once per SIMD level.
#include "gemm-inl.h"
#include "perceptron.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline int64_t whole_vectors(int64_t count) {
  return (count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <class T>
inline void columns_of_samples(const T* x, int64_t samples, int64_t inputs, T* out) {
  transpose(x, inputs, samples, inputs, out, sample_columns(samples), whole_vectors<T>(samples));
}

template <class T>
inline void units_of_layer(const PerceptronLayer<T>& layer, const T* in, int64_t samples,
                           bool rectified, int64_t begin, int64_t end, T* out) {
  const int64_t columns = sample_columns(samples);
  // With many samples a tile's weights are read again, and are to be near.
  for (int64_t unit = begin; unit < end; unit += kTileRows) {
    const int64_t count = end - unit < kTileRows ? end - unit : kTileRows;
    gemm(layer.weight + unit * layer.inputs, layer.inputs, count, RowMajor<T>{in, columns}, samples,
         layer.inputs, [&](int64_t, int64_t height, int64_t c, int64_t width, const T* tile) {
           for (int64_t i = 0; i < height; ++i) {
             const T bias = layer.bias == nullptr ? T(0) : layer.bias[unit + i];
             for (int64_t j = 0; j < width; j += kLanes<T>) {
               Vector<T> value = load(tile + i * kTileColumns<T> + j) + bias;
               if (rectified) value = value < 0 ? Vector<T>{} : value;
               store<T>(out + (unit + i) * columns + c + j, value);
             }
           }
         });
  }
}

template <class T>
inline void gradient_of_inputs(const PerceptronLayer<T>& layer, const T* grad, int64_t samples,
                               const T* hidden, bool adds, int64_t begin, int64_t end, T* scratch,
                               T* out) {
  const int64_t inputs = layer.inputs, columns = sample_columns(samples);
  const auto multiply = [&](int64_t first, int64_t count, RowMajor<T> weight) {
    gemm(grad, layer.outputs, samples, weight, count, layer.outputs,
         [&](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
           for (int64_t i = 0; i < height; ++i) {
             const T* sums = tile + i * kTileColumns<T>;
             T* to = out + (r + i) * inputs + first + c;
             if (adds) {
               for (int64_t j = 0; j < width; ++j) to[j] += sums[j];
             } else if (hidden == nullptr) {
               for (int64_t j = 0; j < width; ++j) to[j] = sums[j];
             } else {
               const T* units = hidden + (first + c) * columns + r + i;
               for (int64_t j = 0; j < width; ++j) {
                 to[j] = units[j * columns] <= 0 ? T(0) : sums[j];
               }
             }
           }
         });
  };
  const int64_t rest = (end - begin) % kLanes<T>, whole = end - begin - rest;
  multiply(begin, whole, {layer.weight + begin, inputs});
  if (rest == 0) return;
  // A whole vector of the last row would end behind the weights.
  for (int64_t o = 0; o < layer.outputs; ++o) {
    store<T>(scratch + o * kLanes<T>, load_partial(layer.weight + o * inputs + end - rest, rest));
  }
  multiply(end - rest, rest, {scratch, kLanes<T>});
}

#define CLFAST_PERCEPTRON_OF(T)                                                                \
  void perceptron_columns(const T* x, int64_t samples, int64_t inputs, T* out) {               \
    columns_of_samples(x, samples, inputs, out);                                               \
  }                                                                                            \
  void perceptron_forward(const PerceptronLayer<T>& layer, const T* in, int64_t samples,       \
                          bool rectified, int64_t begin, int64_t end, T* out) {                \
    units_of_layer(layer, in, samples, rectified, begin, end, out);                            \
  }                                                                                            \
  void perceptron_backward(const PerceptronLayer<T>& layer, const T* grad, int64_t samples,    \
                           const T* hidden, bool adds, int64_t begin, int64_t end, T* scratch, \
                           T* out) {                                                           \
    gradient_of_inputs(layer, grad, samples, hidden, adds, begin, end, scratch, out);          \
  }
CLFAST_PERCEPTRON_OF(float)
CLFAST_PERCEPTRON_OF(double)
#undef CLFAST_PERCEPTRON_OF

}  // namespace clfast::cpu::CLFAST_LEVEL
