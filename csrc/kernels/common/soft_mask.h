// Soft masks m = sigmoid(scale e) and their derivatives (DGM, Eq. 1; HAT, Eq. 1 and 7), of numbers
// and of vectors F of them.
#pragma once
#include "host_device.h"

namespace clfast {

// sigmoid(x), with decay = exp(-|x|): exactly 0 and 1 where decay is 0.
template <class F>
CLFAST_HD F soft_mask(F x, F decay) {
  const F one = F{} + 1;
  return (x < F{} ? decay : one) / (one + decay);
}

// sigmoid'(x). Unlike m (1 - m) it loses nothing where m rounds to 1.
template <class F>
CLFAST_HD F soft_mask_slope(F decay) {
  const F sum = F{} + 1 + decay;
  return decay / (sum * sum);
}

template <class T>
struct MaskScales {
  T scale;
  T max_scale;
  bool compensated;  // d m / d e is taken for max_scale sigmoid'(e), not scale sigmoid'(scale e)
};

}  // namespace clfast
