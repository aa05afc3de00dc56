// What every device checks and prepares for softmax_descent and its gradients.
#pragma once
#include <cmath>
#include <tuple>

#include "check.h"

namespace clfast::ops {

// In the dtype of the arithmetic, but for the labels.
struct DescentInputs {
  ScalarType dtype;
  Tensor features, labels, weight;  // [n, d], [n], [C, d]
  std::optional<Tensor> bias;       // [C]
  int64_t samples, dim, classes;
};

inline Tensor check_like_features(const char* op, const char* name, const Tensor& t,
                                  std::initializer_list<int64_t> shape, const Tensor& features) {
  check_shape(op, name, t, shape);
  check_same_precision(op, name, t, "features", features);
  check_same_device(op, name, t, "features", features);
  return as_compute(t, compute_dtype(features));
}

inline DescentInputs check_descent(const char* op, const Tensor& features, const Tensor& labels,
                                   const Tensor& weight, const std::optional<Tensor>& bias,
                                   double lr) {
  check_dim(op, "features", features, 2);
  check_floating(op, "features", features);
  const int64_t samples = features.size(0), dim = features.size(1);
  check_dtype(op, "labels", labels, ScalarType::Long);
  check_shape(op, "labels", labels, {samples});
  check_same_device(op, "labels", labels, "features", features);
  check_dim(op, "weight", weight, 2);
  const int64_t classes = weight.size(0);
  CLFAST_CHECK(classes >= 1, op, ": weight must have at least one class");
  const ScalarType dtype = compute_dtype(features);
  DescentInputs in{dtype,
                   as_compute(features, dtype),
                   as_contiguous(labels),
                   check_like_features(op, "weight", weight, {classes, dim}, features),
                   std::nullopt,
                   samples,
                   dim,
                   classes};
  if (bias.has_value()) in.bias = check_like_features(op, "bias", *bias, {classes}, features);
  check_range(op, "lr", lr, lr >= 0 && std::isfinite(as_held(lr, dtype)), "finite and >= 0");
  return in;
}

// Gradients by the results, and the predictions [T, C, n] that came with them.
struct DescentGradients {
  Tensor weight, predictions;
  std::optional<Tensor> bias;
  int64_t steps;
};

inline DescentGradients check_descent_gradients(const char* op, const DescentInputs& in,
                                                const Tensor& weight_grad,
                                                const std::optional<Tensor>& bias_grad,
                                                const Tensor& predictions) {
  CLFAST_CHECK(bias_grad.has_value() == in.bias.has_value(), op,
               ": bias and bias_grad go together");
  check_dim(op, "predictions", predictions, 3);
  const int64_t steps = predictions.size(0);
  DescentGradients out{
      check_like_features(op, "weight_grad", weight_grad, {in.classes, in.dim}, in.features),
      check_like_features(op, "predictions", predictions, {steps, in.classes, in.samples},
                          in.features),
      std::nullopt, steps};
  if (bias_grad.has_value()) {
    out.bias = check_like_features(op, "bias_grad", *bias_grad, {in.classes}, in.features);
  }
  return out;
}

inline Tensor bias_like(const DescentInputs& in) {
  return torch::stable::new_empty(in.weight, {in.bias.has_value() ? in.classes : 0}, in.dtype);
}

template <class T>
T* data_or_null(Tensor& t, bool wanted) {
  return wanted ? t.mutable_data_ptr<T>() : nullptr;
}

}  // namespace clfast::ops
