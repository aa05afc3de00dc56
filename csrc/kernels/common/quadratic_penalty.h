// EWC's penalty sum F (theta - theta*)^2: what a tensor brings to it, and the formulas, of numbers
// and of vectors V of them.
#pragma once
#include <cstdint>

#include "host_device.h"

namespace clfast {

template <class T>
struct PenaltyTensor {
  T* grad;  // of the penalty, or what that is added to; null where only the value matters
  const T *param, *anchor, *importance;
};

// distance = theta - theta*
template <class V>
CLFAST_HD V penalty_term(V distance, V importance) {
  return importance * distance * distance;
}

template <class V>
CLFAST_HD V penalty_slope(V distance, V importance) {
  return importance * (distance + distance);
}

}  // namespace clfast
