// Rows become columns, in registers: a block of kLanes rows and kLanes columns at a time.
#pragma once
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// In log2(kLanes) rounds; round `half` swaps the off-diagonal squares of side `half` in every
// square of side 2 half.
template <class T>
inline void transpose_lanes(Vector<T> (&rows)[kLanes<T>]) {
  typename LaneIndexOf<T>::type lane;
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
#pragma GCC unroll 4
  for (int half = 1; half < kLanes<T>; half *= 2) {
    const auto in_upper = (lane & half) != 0;  // all bits set, or none
    // Lanes of the second operand count from kLanes.
    const auto upper = in_upper ? lane - half + kLanes<T> : lane;
    const auto lower = in_upper ? lane + kLanes<T> : lane + half;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) {
      if ((i & half) != 0) continue;
      const Vector<T> a = rows[i], b = rows[i + half];
      rows[i] = __builtin_shuffle(a, b, upper);
      rows[i + half] = __builtin_shuffle(a, b, lower);
    }
  }
}

// out [dim, width] = rows [count, dim] transposed, with zeros from column `count` on.
// `width` is a multiple of kLanes, the strides lead from row to row.
template <class T>
inline void transpose(const T* rows, int64_t stride, int64_t count, int64_t dim, T* out,
                      int64_t out_stride, int64_t width) {
  constexpr int64_t lanes = kLanes<T>;
  for (int64_t j = 0; j < dim; j += lanes) {
    const int64_t rest = dim - j < lanes ? dim - j : lanes;
    for (int64_t c = 0; c < width; c += lanes) {
      Vector<T> block[lanes];
      for (int64_t i = 0; i < lanes; ++i) {
        if (c + i >= count) {
          block[i] = Vector<T>{};
          continue;
        }
        const T* row = rows + (c + i) * stride + j;
        block[i] = rest == lanes ? load(row) : load_partial(row, rest);
      }
      transpose_lanes<T>(block);
      for (int64_t i = 0; i < rest; ++i) {
        store<T>(out + (j + i) * out_stride + c, block[i]);
      }
    }
  }
}

}  // namespace clfast::cpu::CLFAST_LEVEL
