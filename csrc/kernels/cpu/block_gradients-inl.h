// Included once per SIMD level.
#include "../common/compensation.h"
#include "block_gradients.h"
#include "exp-inl.h"
#include "reserved_lanes-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Whether of 64 elements none is reserved: then their gradients need not even be read.
inline bool all_free(const ReservedMask& reserved, int64_t i) {
  uint64_t bits[8] = {};
  if (reserved.packed) {
    memcpy(bits, reserved.marks + i / 8, 8);
  } else {
    memcpy(bits, reserved.marks + i, 64);
  }
  return (bits[0] | bits[1] | bits[2] | bits[3] | bits[4] | bits[5] | bits[6] | bits[7]) == 0;
}

template <class T>
inline void block_in_range(T* grads, const ReservedMask& reserved, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i += 64) {
    const int64_t count = end - i < 64 ? end - i : 64;
    if (count == 64 && all_free(reserved, i)) continue;
    for_vectors<T>(count, [&](int64_t j, int64_t lanes) {
      const LaneIndex<T> taken = reserved_lanes<T>(reserved, i + j, lanes);
      const Vector<T> g = load_first(grads + i + j, lanes, T(0));
      store_first(grads + i + j, lanes, taken ? Vector<T>{} : g);
    });
  }
}

// Loops with one power each: a chain of both would keep too few vectors under way.
template <class T>
inline void compensate_in_range(T* grads, const T* embedding, const Compensation<T> c,
                                int64_t begin, int64_t end) {
  constexpr int64_t panel = 256;
  T sizes[panel], steeps[panel], decays[panel], falls[panel];
  const Vector<T> most = Vector<T>{} + c.clamp;
  for (int64_t from = begin; from < end; from += panel) {
    const int64_t count = end - from < panel ? end - from : panel;
    for_vectors<T>(count, [&](int64_t i, int64_t lanes) {
      const Vector<T> e = load_first(embedding + from + i, lanes, T(0));
      const Vector<T> size = e < Vector<T>{} ? -e : e;
      const Vector<T> x = size * c.scale, steep = x < most ? x : most;
      store_first(sizes + i, lanes, size);
      store_first(steeps + i, lanes, steep);
      store_first(decays + i, lanes, exp_of_minus_size(steep < size ? steep : size));
    });
    for_vectors<T>(count, [&](int64_t i, int64_t lanes) {
      const Vector<T> size = load_first(sizes + i, lanes, T(0));
      const Vector<T> steep = load_first(steeps + i, lanes, T(0));
      store_first(falls + i, lanes, exp_of_minus_size(half_gap<T>(steep, size)));
    });
    for_vectors<T>(count, [&](int64_t i, int64_t lanes) {
      const auto of = [&](const T* p) { return load_first(p + i, lanes, T(0)); };
      store_first(grads + from + i, lanes,
                  compensated<T>(of(grads + from), of(steeps), of(sizes), of(decays), of(falls),
                                 c.factor, c.largest));
    });
  }
}

#define CLFAST_BLOCK_GRADIENTS_OF(T)                                                           \
  void block_gradients(T* grads, const ReservedMask& reserved, int64_t begin, int64_t end) {   \
    block_in_range(grads, reserved, begin, end);                                               \
  }                                                                                            \
  void compensate_gradients(T* grads, const T* embedding, const Compensation<T>& compensation, \
                            int64_t begin, int64_t end) {                                      \
    compensate_in_range(grads, embedding, compensation, begin, end);                           \
  }
CLFAST_BLOCK_GRADIENTS_OF(float)
CLFAST_BLOCK_GRADIENTS_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
