// The path integral of synaptic intelligence over a part of a tensor.
#pragma once
#include <cstdint>

#include "../common/path_integral.h"
#include "simd.h"

namespace clfast::cpu {

// omega -= grad * delta for elements [begin, end), where delta is not 0.
#define CLFAST_PATH_INTEGRAL(T) \
  void path_integral(const PathTensor<T>& tensor, int64_t begin, int64_t end);
CLFAST_PATH_INTEGRAL(float)
CLFAST_PATH_INTEGRAL(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_PATH_INTEGRAL(float) CLFAST_PATH_INTEGRAL(double))

}  // namespace clfast::cpu
