#include "../softmax_descent.h"

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/softmax_descent.h"

namespace clfast::ops {
namespace {

template <class T>
cuda::DescentProblem<T> problem_of(const DescentInputs& in, int64_t steps, double lr) {
  return {in.features.const_data_ptr<T>(),
          in.labels.const_data_ptr<int64_t>(),
          in.weight.const_data_ptr<T>(),
          data_or_null<T>(in.bias),
          in.samples,
          in.dim,
          in.classes,
          steps,
          static_cast<T>(lr)};
}

std::tuple<Tensor, Tensor, Tensor> softmax_descent(const Tensor& features, const Tensor& labels,
                                                   const Tensor& weight,
                                                   const std::optional<Tensor>& bias, int64_t steps,
                                                   double lr) {
  const char* op = "softmax_descent";
  const DescentInputs in = check_descent(op, features, labels, weight, bias, lr);
  CLFAST_CHECK(steps >= 0, op, ": steps must be >= 0, got ", steps);
  const DeviceStream stream(in.features);
  Tensor weight_out = torch::stable::new_empty(in.weight, {in.classes, in.dim}, in.dtype);
  Tensor bias_out = bias_like(in);
  Tensor predictions =
      torch::stable::new_empty(in.weight, {steps, in.classes, in.samples}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const cuda::DescentProblem<T> problem = problem_of<T>(in, steps, lr);
    const Tensor scratch = scratch_like(in.weight, cuda::descent_scratch(problem), in.dtype);
    check_launch(
        op, cuda::descend(problem, scratch.mutable_data_ptr<T>(), predictions.mutable_data_ptr<T>(),
                          weight_out.mutable_data_ptr<T>(),
                          data_or_null<T>(bias_out, in.bias.has_value()), stream));
  });
  return {weight_out, bias_out, predictions};
}

std::tuple<Tensor, Tensor, Tensor> softmax_descent_backward(
    const Tensor& weight_grad, const std::optional<Tensor>& bias_grad, const Tensor& features,
    const Tensor& labels, const Tensor& weight, const std::optional<Tensor>& bias,
    const Tensor& predictions, double lr) {
  const char* op = "softmax_descent_backward";
  const DescentInputs in = check_descent(op, features, labels, weight, bias, lr);
  const DescentGradients given =
      check_descent_gradients(op, in, weight_grad, bias_grad, predictions);
  const DeviceStream stream(in.features);
  Tensor features_out = torch::stable::new_empty(in.weight, {in.samples, in.dim}, in.dtype);
  Tensor weight_out = torch::stable::new_empty(in.weight, {in.classes, in.dim}, in.dtype);
  Tensor bias_out = bias_like(in);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const cuda::DescentProblem<T> problem = problem_of<T>(in, given.steps, lr);
    const Tensor scratch = scratch_like(in.weight, cuda::ascent_scratch(problem), in.dtype);
    check_launch(op, cuda::ascend(problem, given.predictions.const_data_ptr<T>(),
                                  given.weight.const_data_ptr<T>(), data_or_null<T>(given.bias),
                                  scratch.mutable_data_ptr<T>(), features_out.mutable_data_ptr<T>(),
                                  weight_out.mutable_data_ptr<T>(),
                                  data_or_null<T>(bias_out, in.bias.has_value()), stream));
  });
  return {features_out, weight_out, bias_out};
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) {
  m.impl("softmax_descent", TORCH_BOX(&clfast::ops::softmax_descent));
  m.impl("softmax_descent_backward", TORCH_BOX(&clfast::ops::softmax_descent_backward));
}
