// Scaling to unit length, the same on every device.
#pragma once
#include <cmath>

#include "host_device.h"

namespace clfast {

// 1 / |x|, with torch.nn.functional.normalize's floor: a zero vector stays zero.
CLFAST_HD double inverse_length(double sq_norm) {
  const double length = std::sqrt(sq_norm);
  return 1.0 / (length > 1e-12 ? length : 1e-12);
}

}  // namespace clfast
