// Included once per SIMD level.
#include "exp-inl.h"
#include "masked_weight.h"
#include "reserved_lanes-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline Vector<T> decay_of(Vector<T> x) {
  return exp_of(x < Vector<T>{} ? x : -x);
}

// Sums of masks: so many vectors in T, then in double.
constexpr int64_t kMaskPanel = 64;

template <class T>
inline MaskSums mask_layer(const MaskedWeight<T>& layer, T scale, int64_t begin, int64_t end,
                           T* masked) {
  MaskSums sums{0, 0, 0};
  for (int64_t from = begin; from < end; from += kMaskPanel * kLanes<T>) {
    const int64_t stop = from + kMaskPanel * kLanes<T>;
    const int64_t count = (stop < end ? stop : end) - from;
    Vector<T> used = {}, whole = {};
    LaneIndex<T> free = {};
    for_vectors<T>(count, [&](int64_t i, int64_t lanes) {
      const int64_t c = from + i;
      const Vector<T> x = load_first(layer.embedding + c, lanes, T(0)) * scale;
      const Vector<T> m = soft_mask(x, decay_of<T>(x));
      LaneIndex<T> taken = reserved_lanes<T>(layer.reserved, c, lanes);
      if (lanes < kLanes<T>) taken |= lane_numbers<T>() >= static_cast<LaneOf<T>>(lanes);
      used += taken ? Vector<T>{} : m;
      whole += m;
      free += taken + 1;  // a lane is 0, or -1 where taken
      if (masked == nullptr) return;
      if (layer.inner == 1) {
        for (int64_t o = 0; o < layer.outer; ++o) {
          const int64_t at = o * layer.channels + c;
          store_first(masked + at, lanes, load_first(layer.weight + at, lanes, T(0)) * m);
        }
        return;
      }
      for (int64_t o = 0; o < layer.outer; ++o) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const Vector<T> of_channel = Vector<T>{} + m[lane];
          const int64_t run = (o * layer.channels + c + lane) * layer.inner;
          for_vectors<T>(layer.inner, [&](int64_t j, int64_t rest) {
            const Vector<T> w = load_first(layer.weight + run + j, rest, T(0));
            store_first(masked + run + j, rest, w * of_channel);
          });
        }
      }
    });
    sums.used += sum_lanes<T>(used);
    sums.whole += sum_lanes<T>(whole);
    for (int i = 0; i < kLanes<T>; ++i) sums.free += free[i];
  }
  return sums;
}

// d_weight of a vector of elements; sum: gains grad times weight.
template <class T>
inline __attribute__((always_inline)) void grad_of_vector(const MaskedWeight<T>& layer,
                                                          const T* grad, int64_t at, int64_t lanes,
                                                          Vector<T> m, T* d_weight,
                                                          Vector<T>& sum) {
  const Vector<T> g = load_first(grad + at, lanes, T(0));
  sum = multiply_add<T>(g, load_first(layer.weight + at, lanes, T(0)), sum);
  store_first(d_weight + at, lanes, g * m);
}

template <class T>
inline void mask_layer_backward(const MaskedWeight<T>& layer, const MaskScales<T>& scales,
                                const T* grad, T share, int64_t begin, int64_t end, T* d_weight,
                                T* d_embedding) {
  for_vectors<T>(end - begin, [&](int64_t i, int64_t lanes) {
    const int64_t c = begin + i;
    const Vector<T> e = load_first(layer.embedding + c, lanes, T(0)), x = e * scales.scale;
    const Vector<T> decay = decay_of<T>(x);
    const Vector<T> slope = scales.compensated ? scales.max_scale * soft_mask_slope(decay_of<T>(e))
                                               : scales.scale * soft_mask_slope(decay);
    Vector<T> sums = {};
    if (grad != nullptr) {
      const Vector<T> m = soft_mask(x, decay);
      if (layer.inner == 1) {
        for (int64_t o = 0; o < layer.outer; ++o) {
          grad_of_vector(layer, grad, o * layer.channels + c, lanes, m, d_weight, sums);
        }
      } else {
        Vector<T> sum_of[kLanes<T>] = {};
        for (int64_t o = 0; o < layer.outer; ++o) {
          for (int64_t lane = 0; lane < lanes; ++lane) {
            const Vector<T> of_channel = Vector<T>{} + m[lane];
            const int64_t run = (o * layer.channels + c + lane) * layer.inner;
            Vector<T> sum = sum_of[lane];
            for_vectors<T>(layer.inner, [&](int64_t j, int64_t rest) {
              grad_of_vector(layer, grad, run + j, rest, of_channel, d_weight, sum);
            });
            sum_of[lane] = sum;
          }
        }
        for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] = sum_lanes<T>(sum_of[lane]);
      }
    }
    const LaneIndex<T> taken = reserved_lanes<T>(layer.reserved, c, lanes);
    const Vector<T> shares = Vector<T>{} + share;
    store_first(d_embedding + c, lanes, slope * (sums + (taken ? Vector<T>{} : shares)));
  });
}

#define CLFAST_MASKED_WEIGHT_OF(T)                                                            \
  MaskSums mask_weights(const MaskedWeight<T>& layer, T scale, int64_t begin, int64_t end,    \
                        T* masked) {                                                          \
    return mask_layer(layer, scale, begin, end, masked);                                      \
  }                                                                                           \
  void mask_weights_backward(const MaskedWeight<T>& layer, const MaskScales<T>& scales,       \
                             const T* grad, T share, int64_t begin, int64_t end, T* d_weight, \
                             T* d_embedding) {                                                \
    mask_layer_backward(layer, scales, grad, share, begin, end, d_weight, d_embedding);       \
  }
CLFAST_MASKED_WEIGHT_OF(float)
CLFAST_MASKED_WEIGHT_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
