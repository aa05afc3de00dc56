// One step of the optimisers that MbPA runs on its local copy of the output layer.
#pragma once
#include <cmath>

#include "host_device.h"

namespace clfast {

enum class Optimizer : int { kRmsprop, kRmspropTf, kSgd };

// v_0: torch starts its running mean of squares at 0, TensorFlow 1 at 1.
CLFAST_HD constexpr double initial_square_average(Optimizer optimizer) {
  return optimizer == Optimizer::kRmspropTf ? 1.0 : 0.0;
}

// torch.optim.RMSprop with its defaults: alpha 0.99, eps 1e-8 outside the root.
template <class T>
CLFAST_HD void rmsprop_step(T& weight, T& square_average, T gradient, T lr) {
  square_average = T(0.99) * square_average + T(0.01) * gradient * gradient;
  weight -= lr * gradient / (std::sqrt(square_average) + T(1e-8));
}

// tf.train.RMSPropOptimizer of TensorFlow 1: decay 0.9, eps 1e-10 inside the root.
template <class T>
CLFAST_HD void rmsprop_tf_step(T& weight, T& square_average, T gradient, T lr) {
  square_average = T(0.9) * square_average + T(0.1) * gradient * gradient;
  weight -= lr * gradient / std::sqrt(square_average + T(1e-10));
}

}  // namespace clfast
