// Included once per SIMD level.
#include <cmath>

#include "gemm-inl.h"
#include "perceptron.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Products of rows along their length, a vector each: so many leave registers for the rows.
#if defined(__AVX512F__)
constexpr int kRowProducts = 24;
#else
constexpr int kRowProducts = 12;
#endif
constexpr int kTileSamples = 6;

// sums[s][u] = <x_s, weight_u>. A product has one order of its terms, whatever tile it is in.
template <int kUnits, int kSamples, class T>
__attribute__((noinline)) void products_of_rows(const T* weight, const T* x, int64_t inputs,
                                                T* sums) {
  constexpr int kCount = kUnits * kSamples;
  // The fewer stay in registers while the others pass.
  constexpr bool kHoldsWeights = kUnits < kSamples;
  constexpr int kHeld = kHoldsWeights ? kUnits : kSamples, kPassing = kCount / kHeld;
  const T *held = kHoldsWeights ? weight : x, *passing = kHoldsWeights ? x : weight;
  Vector<T> products[kCount] = {};
  const auto add = [&](int64_t j, const auto& read) {
    Vector<T> rows[kHeld];
#pragma GCC unroll 4
    for (int h = 0; h < kHeld; ++h) rows[h] = read(held + h * inputs + j);
#pragma GCC unroll 12
    for (int i = 0; i < kPassing; ++i) {
      const Vector<T> row = read(passing + i * inputs + j);
#pragma GCC unroll 4
      for (int h = 0; h < kHeld; ++h) {
        Vector<T>& product = products[kHoldsWeights ? i * kUnits + h : h * kUnits + i];
        product = multiply_add<T>(rows[h], row, product);
      }
    }
  };
  int64_t j = 0;
  for (; j + kLanes<T> <= inputs; j += kLanes<T>) {
    add(j, [](const T* at) { return load(at); });
  }
  if (j < inputs) {
    const int64_t left = inputs - j;
    add(j, [&](const T* at) { return load_partial(at, left); });
  }
  constexpr int kTogether = 4, kWhole = kCount / kTogether * kTogether;
#pragma GCC unroll 6
  for (int i = 0; i < kWhole; i += kTogether) {
    const Vector<T> some[kTogether] = {products[i], products[i + 1], products[i + 2],
                                       products[i + 3]};
    sum_lanes<T, kTogether>(some, sums + i);
  }
#pragma GCC unroll 3
  for (int i = kWhole; i < kCount; ++i) sums[i] = sum_lanes<T>(products[i]);
}

template <int kUnits, int kSamples, class T>
inline void units_in_tiles(const PerceptronLayer<T>& layer, const T* in, bool rectified,
                           int64_t begin, int64_t end, T* out) {
  const T lowest = rectified ? T(0) : T(-INFINITY);
  int64_t first = begin;
  for (; first + kUnits <= end; first += kUnits) {
    T sums[kUnits * kSamples], bias[kUnits] = {};
    products_of_rows<kUnits, kSamples>(layer.weight + first * layer.inputs, in, layer.inputs, sums);
    if (layer.bias != nullptr) memcpy(bias, layer.bias + first, sizeof bias);
    for (int s = 0; s < kSamples; ++s) {
      T* to = out + s * layer.outputs + first;
#pragma omp simd
      for (int u = 0; u < kUnits; ++u) {
        const T value = sums[s * kUnits + u] + bias[u];
        to[u] = value < lowest ? lowest : value;
      }
    }
  }
  if constexpr (kUnits > 1) {
    units_in_tiles<kUnits / 2, kSamples>(layer, in, rectified, first, end, out);
  }
}

// Units [begin, end) of `samples` samples, of which there are kSamples at most.
template <int kSamples = kTileSamples, class T>
inline void units_of_samples(const PerceptronLayer<T>& layer, const T* in, int64_t samples,
                             bool rectified, int64_t begin, int64_t end, T* out) {
  if constexpr (kSamples > 1) {
    if (samples < kSamples) {
      return units_of_samples<kSamples - 1>(layer, in, samples, rectified, begin, end, out);
    }
  }
  constexpr int kMost = 12, kFitting = kRowProducts / kSamples;
  constexpr int kUnits = kFitting < kMost ? kFitting : kMost;
  static_assert(kPerceptronOutputs % kUnits == 0);
  units_in_tiles<kUnits, kSamples>(layer, in, rectified, begin, end, out);
}

template <class T>
inline void units_of_layer(const PerceptronLayer<T>& layer, const T* in, int64_t samples,
                           bool rectified, int64_t begin, int64_t end, T* out) {
  int64_t tiles = (samples + kTileSamples - 1) / kTileSamples;  // that are left
  for (int64_t sample = 0; tiles > 0; --tiles) {
    const int64_t count = (samples - sample + tiles - 1) / tiles;
    units_of_samples(layer, in + sample * layer.inputs, count, rectified, begin, end,
                     out + sample * layer.outputs);
    sample += count;
  }
}

template <class T>
inline void gradient_of_inputs(const PerceptronLayer<T>& layer, const T* grad, int64_t samples,
                               const T* hidden, bool adds, int64_t begin, int64_t end, T* scratch,
                               T* out) {
  const int64_t inputs = layer.inputs;
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
               const T* units = hidden + (r + i) * inputs + first + c;
               for (int64_t j = 0; j < width; ++j) to[j] = units[j] <= 0 ? T(0) : sums[j];
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
