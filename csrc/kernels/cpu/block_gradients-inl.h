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

template <class T>
inline void compensate_in_range(T* grads, const T* embedding, const Compensation<T>& c,
                                int64_t begin, int64_t end) {
  for_vectors<T>(end - begin, [&](int64_t i, int64_t lanes) {
    const Vector<T> g = load_first(grads + begin + i, lanes, T(0));
    const Vector<T> e = load_first(embedding + begin + i, lanes, T(0));
    const Vector<T> size = e < Vector<T>{} ? -e : e, most = Vector<T>{} + c.clamp;
    const Vector<T> x = size * c.scale, steep = x < most ? x : most;
    const Vector<T> half = exp_of(half_exponent<T>(steep, size));
    store_first(grads + begin + i, lanes,
                compensated<T>(g, half, exp_of(-steep), exp_of(-size), c.factor, c.largest));
  });
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
