// Included once per SIMD level.
#include "exp-inl.h"
#include "masked_weight.h"
#include "reserved_lanes-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Channels at a time: their masks stay in the first cache while rows of weights pass by, and sums
// of them are in T, then in double.
constexpr int64_t kMaskPanel = 256;

template <class T>
struct MaskPanel {
  int64_t from, count;
  T masks[kMaskPanel];
};

// body(panel) for channels [begin, end).
template <class T, class Body>
inline __attribute__((always_inline)) void for_panels(int64_t begin, int64_t end,
                                                      const Body& body) {
  MaskPanel<T> panel;
  for (panel.from = begin; panel.from < end; panel.from += kMaskPanel) {
    panel.count = end - panel.from < kMaskPanel ? end - panel.from : kMaskPanel;
    body(panel);
  }
}

template <class T>
inline void add_masks(const MaskedWeight<T> layer, T scale, MaskPanel<T>& panel, MaskSums& sums) {
  Vector<T> used = {}, whole = {};
  LaneIndex<T> free = {};
  for_vectors<T>(panel.count, [&](int64_t i, int64_t lanes) {
    const int64_t c = panel.from + i;
    const Vector<T> x = load_first(layer.embedding + c, lanes, T(0)) * scale;
    const Vector<T> m = soft_mask(x, exp_of_minus_size(x));
    LaneIndex<T> taken = reserved_lanes<T>(layer.reserved, c, lanes);
    if (lanes < kLanes<T>) taken |= lane_numbers<T>() >= static_cast<LaneOf<T>>(lanes);
    used += taken ? Vector<T>{} : m;
    whole += m;
    free += taken + 1;  // a lane is 0, or -1 where taken
    store_first(panel.masks + i, lanes, m);
  });
  sums.used += sum_lanes<T>(used);
  sums.whole += sum_lanes<T>(whole);
  for (int i = 0; i < kLanes<T>; ++i) sums.free += free[i];
}

// body(at, i, lanes, mask) for the vectors of the weights of a panel: elements at the place `at` of
// channels from i of the panel on, or of channel i alone.
template <class T, class Body>
inline __attribute__((always_inline)) void for_weights(const MaskedWeight<T>& layer,
                                                       const MaskPanel<T>& panel,
                                                       const Body& body) {
  const int64_t outer = layer.outer, channels = layer.channels, inner = layer.inner;
  if (inner == 1) {
    for_vectors<T>(panel.count, [&](int64_t i, int64_t lanes) {
      const Vector<T> mask = load_first(panel.masks + i, lanes, T(0));
      for (int64_t o = 0; o < outer; ++o) body(o * channels + panel.from + i, i, lanes, mask);
    });
    return;
  }
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < panel.count; ++i) {
      const int64_t run = (o * channels + panel.from + i) * inner;
      const Vector<T> mask = Vector<T>{} + panel.masks[i];
      for_vectors<T>(inner, [&](int64_t j, int64_t lanes) { body(run + j, i, lanes, mask); });
    }
  }
}

template <class T>
inline MaskSums mask_layer(const MaskedWeight<T> layer, T scale, int64_t begin, int64_t end,
                           T* masked) {
  MaskSums sums{0, 0, 0};
  for_panels<T>(begin, end, [&](MaskPanel<T>& panel) {
    add_masks(layer, scale, panel, sums);
    if (masked == nullptr) return;
    for_weights(layer, panel, [&](int64_t at, int64_t, int64_t lanes, Vector<T> m) {
      store_first(masked + at, lanes, load_first(layer.weight + at, lanes, T(0)) * m);
    });
  });
  return sums;
}

// d_weight, and sums[i] = the sum of grad times weight of channel i of the panel.
template <class T>
inline void weight_gradients(const MaskedWeight<T> layer, const T* grad, const MaskPanel<T>& panel,
                             T* d_weight, T* sums) {
  Vector<T> parts[kMaskPanel];
  const int64_t vectors =
      layer.inner == 1 ? (panel.count + kLanes<T> - 1) / kLanes<T> : panel.count;
  for (int64_t i = 0; i < vectors; ++i) parts[i] = Vector<T>{};
  for_weights(layer, panel, [&](int64_t at, int64_t i, int64_t lanes, Vector<T> m) {
    Vector<T>& part = parts[layer.inner == 1 ? i / kLanes<T> : i];
    const Vector<T> g = load_first(grad + at, lanes, T(0));
    part = multiply_add<T>(g, load_first(layer.weight + at, lanes, T(0)), part);
    store_first(d_weight + at, lanes, g * m);
  });
  if (layer.inner == 1) {
    for_vectors<T>(panel.count, [&](int64_t i, int64_t lanes) {
      store_first(sums + i, lanes, parts[i / kLanes<T>]);
    });
  } else {
    for (int64_t i = 0; i < panel.count; ++i) sums[i] = sum_lanes<T>(parts[i]);
  }
}

template <class T>
inline void mask_layer_backward(const MaskedWeight<T> layer, const MaskScales<T> scales,
                                const T* grad, T share, int64_t begin, int64_t end, T* d_weight,
                                T* d_embedding) {
  T slopes[kMaskPanel], sums[kMaskPanel] = {};
  for_panels<T>(begin, end, [&](MaskPanel<T>& panel) {
    const T* embedding = layer.embedding + panel.from;
    for_vectors<T>(panel.count, [&](int64_t i, int64_t lanes) {
      const Vector<T> e = load_first(embedding + i, lanes, T(0)), x = e * scales.scale;
      const Vector<T> decay = exp_of_minus_size(x);
      store_first(panel.masks + i, lanes, soft_mask(x, decay));
      store_first(slopes + i, lanes,
                  scales.compensated ? scales.max_scale * soft_mask_slope(exp_of_minus_size(e))
                                     : scales.scale * soft_mask_slope(decay));
    });
    if (grad != nullptr) weight_gradients(layer, grad, panel, d_weight, sums);
    const Vector<T> shares = Vector<T>{} + share;
    for_vectors<T>(panel.count, [&](int64_t i, int64_t lanes) {
      const int64_t c = panel.from + i;
      const LaneIndex<T> taken = reserved_lanes<T>(layer.reserved, c, lanes);
      const Vector<T> sum = load_first(sums + i, lanes, T(0)) + (taken ? Vector<T>{} : shares);
      store_first(d_embedding + c, lanes, load_first(slopes + i, lanes, T(0)) * sum);
    });
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
