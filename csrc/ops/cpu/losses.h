// What the losses share on the CPU: threads over their rows, sums over rows, and NaN in a value.
#pragma once
#include <vector>

#include "../check.h"

namespace clfast::ops {

// So many elements take about as long as a thread takes to start.
constexpr int64_t kElementsOfAThread = 4096;

// kernel(begin, end) over ranges of `count` things of `size` elements.
template <class Kernel>
inline void for_ranges(int64_t count, int64_t size, const Kernel& kernel) {
  const int64_t grain = kElementsOfAThread / (size > 0 ? size : 1);
  torch::stable::parallel_for(0, count, grain > 0 ? grain : 1, kernel);
}

template <class T>
inline double weighted_sum(const std::vector<T>& weights, const T* values) {
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    sum += static_cast<double>(weights[i]) * static_cast<double>(values[i]);
  }
  return sum;
}

template <class T>
inline Tensor scalar(const Tensor& like, ScalarType dtype, double value) {
  Tensor out = new_tensor(like, {}, dtype);
  *out.mutable_data_ptr<T>() = static_cast<T>(value);
  return out;
}

// A loss that is NaN comes from an input that is, or from infinities.
template <class T>
inline void raise_on_nan_loss(const char* op, bool is_nan,
                              std::initializer_list<std::pair<const char*, const Tensor*>> inputs) {
  if (!is_nan) return;
  for (const auto& [name, tensor] : inputs) {
    CLFAST_CHECK(!holds_nan<T>(*tensor), op, ": ", name, " holds NaN");
  }
  CLFAST_CHECK(false, op, ": ", inputs.begin()->first,
               " or another input holds infinities that cancel");
}

}  // namespace clfast::ops
