// The path integral of synaptic intelligence: what a tensor brings to it.
#pragma once

namespace clfast {

template <class T>
struct PathTensor {
  T* omega;  // omega -= grad * delta where delta is not 0, whatever the gradient is there
  const T *grad, *after, *before;  // delta = after - before; no before: zeros
};

}  // namespace clfast
