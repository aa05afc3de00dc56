// Hebb paper, Eq. 7: E_i = (1 - beta) / (1 - beta^n_i), the weight of the Hebbian update.
#pragma once
#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace clfast {

// E = 1 for a class never seen (n = 0), where the paper's formula divides by zero.
// 1 - beta^n is formed by expm1, which keeps its digits when beta is close to 1.
// log_beta is taken once for all classes; that of beta = 0 is -inf.
CLFAST_HD double interpolation_weight(int64_t count, double beta, double log_beta) {
  if (count <= 1) return 1.0;
  return (1.0 - beta) / -std::expm1(static_cast<double>(count) * log_beta);
}

}  // namespace clfast
