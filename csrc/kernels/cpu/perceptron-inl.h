// Included once per SIMD level.
#include "gemm-inl.h"
#include "perceptron.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Products of rows along their length, a vector each: so many leave registers for the rows.
#if defined(__AVX512F__)
constexpr int kRowProducts = 24;
#else
constexpr int kRowProducts = 12;
#endif
constexpr int kMostSamples = 6;

// sums[h][s] = <held_h, streamed_s>. A product has one order of its terms, whatever tile it is in.
template <int kHeld, int kStreamed, class T>
__attribute__((noinline)) void products_of_rows(const T* held, const T* streamed, int64_t length,
                                                T* sums) {
  Vector<T> products[kHeld * kStreamed] = {};
  const auto add = [&](int64_t j, const auto& load_row) {
    Vector<T> rows[kHeld];
#pragma GCC unroll 6
    for (int h = 0; h < kHeld; ++h) rows[h] = load_row(held + h * length + j);
#pragma GCC unroll 24
    for (int s = 0; s < kStreamed; ++s) {
      const Vector<T> row = load_row(streamed + s * length + j);
#pragma GCC unroll 6
      for (int h = 0; h < kHeld; ++h) products[h * kStreamed + s] += rows[h] * row;
    }
  };
  int64_t j = 0;
  for (; j + kLanes<T> <= length; j += kLanes<T>) {
    add(j, [](const T* at) { return load(at); });
  }
  if (j < length) {
    const int64_t left = length - j;
    add(j, [&](const T* at) { return load_partial(at, left); });
  }
  constexpr int kTogether = 4, kWhole = kHeld * kStreamed / kTogether * kTogether;
#pragma GCC unroll 6
  for (int i = 0; i < kWhole; i += kTogether) {
    const Vector<T> some[kTogether] = {products[i], products[i + 1], products[i + 2],
                                       products[i + 3]};
    sum_lanes<T, kTogether>(some, sums + i);
  }
#pragma GCC unroll 3
  for (int i = kWhole; i < kHeld * kStreamed; ++i) sums[i] = sum_lanes<T>(products[i]);
}

// finish(unit, sample, <weight_unit, x_sample>) for kUnits x kSamples.
template <int kUnits, int kSamples, class T, class Finish>
inline void products_of_tile(const T* weight, const T* x, int64_t inputs, const Finish& finish) {
  constexpr bool kWeightsHeld = kUnits < kSamples;  // the fewer, for want of registers
  T sums[kUnits * kSamples];
  if constexpr (kWeightsHeld) {
    products_of_rows<kUnits, kSamples>(weight, x, inputs, sums);
  } else {
    products_of_rows<kSamples, kUnits>(x, weight, inputs, sums);
  }
  for (int u = 0; u < kUnits; ++u) {
    for (int s = 0; s < kSamples; ++s) {
      finish(u, s, sums[kWeightsHeld ? u * kSamples + s : s * kUnits + u]);
    }
  }
}

// Units [begin, end) of `samples` samples, of which there are kSamples at most.
template <int kSamples = kMostSamples, class T>
inline void units_of_samples(const PerceptronLayer<T>& layer, const T* in, int64_t samples,
                             bool rectified, int64_t begin, int64_t end, T* out) {
  if constexpr (kSamples > 1) {
    if (samples < kSamples) {
      return units_of_samples<kSamples - 1>(layer, in, samples, rectified, begin, end, out);
    }
  }
  constexpr int kUnits = kRowProducts / kSamples < 12 ? kRowProducts / kSamples : 12;
  const int64_t inputs = layer.inputs, outputs = layer.outputs;
  int64_t first = begin;
  const auto finish = [&](int u, int s, T product) { out[s * outputs + first + u] = product; };
  for (; first + kUnits <= end; first += kUnits) {
    products_of_tile<kUnits, kSamples>(layer.weight + first * inputs, in, inputs, finish);
  }
  for (; first < end; ++first) {
    products_of_tile<1, kSamples>(layer.weight + first * inputs, in, inputs, finish);
  }
  for (int64_t s = 0; s < samples; ++s) {
    T* const units = out + s * outputs;
    for (int64_t o = begin; o < end && layer.bias != nullptr; ++o) units[o] += layer.bias[o];
    for (int64_t o = begin; o < end && rectified; ++o) units[o] = units[o] < 0 ? T(0) : units[o];
  }
}

template <class T>
inline void units_of_layer(const PerceptronLayer<T>& layer, const T* in, int64_t samples,
                           bool rectified, int64_t begin, int64_t end, T* out) {
  int64_t tiles = (samples + kMostSamples - 1) / kMostSamples;  // that are left
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
