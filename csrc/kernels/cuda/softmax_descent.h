// The launchers of softmax_descent, for the glue and for the emulator's bindings. Include what
// defines cudaError_t and cudaStream_t first. All pointers are device pointers.
#pragma once
#include <cstdint>

namespace clfast::cuda {

template <class T>
struct DescentProblem {
  const T* features;       // [n, dim]
  const int64_t* labels;   // [n]
  const T *weight, *bias;  // [C, dim] and [C], of the first step; bias may be null
  int64_t samples, dim, classes, steps;
  T lr;

  int64_t columns() const { return dim + (bias != nullptr ? 1 : 0); }
};

// Elements of T that descend() and ascend() need.
template <class T>
int64_t descent_scratch(const DescentProblem<T>& p) {
  return (p.samples + p.classes) * p.columns() + p.classes * p.samples;
}
template <class T>
int64_t ascent_scratch(const DescentProblem<T>& p) {
  return 2 * (p.samples + p.classes) * p.columns() + 2 * p.classes * p.samples;
}

// predictions [T, C, n]; bias_out is not written without a bias.
template <class T>
cudaError_t descend(const DescentProblem<T>& problem, T* scratch, T* predictions, T* weight_out,
                    T* bias_out, cudaStream_t stream);

// From the gradients by what descend() gave to those by what it was given.
template <class T>
cudaError_t ascend(const DescentProblem<T>& problem, const T* predictions, const T* weight_grad,
                   const T* bias_grad, T* scratch, T* features_out, T* weight_out, T* bias_out,
                   cudaStream_t stream);

}  // namespace clfast::cuda
