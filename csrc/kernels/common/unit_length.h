// Scaling to unit length, the same on every device.
#pragma once
#include <cmath>

#include "host_device.h"

namespace clfast {

constexpr double kShortestLength = 1e-12;

// 1 / |x|, with torch.nn.functional.normalize's floor: a zero vector stays zero.
CLFAST_HD double inverse_length(double sq_norm) {
  const double length = std::sqrt(sq_norm);
  return 1.0 / (length > kShortestLength ? length : kShortestLength);
}

// Whether an inverse length is the floor's: then it does not hang on the vector.
template <class T>
CLFAST_HD bool is_floor(T inverse) {
  return inverse >= static_cast<T>(1.0 / kShortestLength);
}

}  // namespace clfast
