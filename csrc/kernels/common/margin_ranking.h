// LUCIR's margin ranking: which scores rank first, and what they cost.
#pragma once
#include <cstdint>

#include "host_device.h"

namespace clfast {

// The larger score ranks first, and NaN before all numbers.
template <class T>
CLFAST_HD bool ranks_before(T a, T b) {
  return a > b || (a != a && b == b);
}

// max(0, x), and NaN for NaN.
template <class T>
CLFAST_HD T hinge(T x) {
  return x <= T(0) ? T(0) : x;
}

}  // namespace clfast
