// How far |k|^2 + |q|^2 - 2<q,k> may be from the true squared distance.
#pragma once
#include <cstdint>

#include "host_device.h"

namespace clfast {

// With the three terms summed in T in any order, the error is at most
// relative (|k|^2 + |q|^2) + absolute.
template <class T>
struct DistanceError {
  T relative, absolute;
};

// With u = epsilon / 2, a sum of d products rounds by at most d u / (1 - d u) of |q||k|, and twice
// |q||k| is at most |q|^2 + |k|^2; a norm rounds by as much of itself. To these 2 d u come 32 u for
// the additions that join them (10 u at most), for the rounding of an offset taken from both
// vectors (4 u) and for that of the bounds themselves. `absolute` covers products below the normal
// range.
template <class T>
CLFAST_HD DistanceError<T> distance_error(int64_t dim) {
  const T epsilon = sizeof(T) == sizeof(float) ? T(0x1p-23) : T(0x1p-52);
  const T smallest_normal = sizeof(T) == sizeof(float) ? T(0x1p-126) : T(0x1p-1022);
  const T all = static_cast<T>(dim + 16) * epsilon;
  const T units = all < T(0.5) ? all : T(0.5);
  return {units / (1 - units), static_cast<T>(2 * dim + 16) * smallest_normal};
}

}  // namespace clfast
