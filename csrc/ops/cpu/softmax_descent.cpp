#include "../softmax_descent.h"

#include <algorithm>

#include "../../kernels/cpu/softmax_descent_steps.h"

namespace clfast::ops {
namespace {

constexpr int64_t kProductsOfAThread = 1 << 16;

void check_labels(const char* op, const DescentInputs& in) {
  const int64_t* labels = in.labels.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < in.samples; ++i) {
    CLFAST_CHECK(labels[i] >= 0 && labels[i] < in.classes, op, ": labels[", i, "] is ", labels[i],
                 ", outside [0, ", in.classes, "), the classes");
  }
}

// f(the descent) with what runs its parts on torch's threads.
template <class T, class F>
void with_descent(const DescentInputs& in, int64_t steps, double lr, const F& f) {
  const cpu::DescentProblem<T> problem{{in.labels.const_data_ptr<int64_t>(), in.samples, in.classes,
                                        static_cast<T>(-lr / static_cast<double>(in.samples))},
                                       in.features.const_data_ptr<T>(),
                                       in.weight.const_data_ptr<T>(),
                                       data_or_null<T>(in.bias),
                                       in.dim,
                                       steps};
  const auto for_each = [](int64_t count, int64_t products, const auto& work) {
    torch::stable::parallel_for(0, count, 1 + kProductsOfAThread / (products + 1), work);
  };
  f(cpu::Descent(problem, for_each));
}

std::tuple<Tensor, Tensor, Tensor> softmax_descent(const Tensor& features, const Tensor& labels,
                                                   const Tensor& weight,
                                                   const std::optional<Tensor>& bias, int64_t steps,
                                                   double lr) {
  const char* op = "softmax_descent";
  const DescentInputs in = check_descent(op, features, labels, weight, bias, lr);
  CLFAST_CHECK(steps >= 0, op, ": steps must be >= 0, got ", steps);
  check_labels(op, in);
  Tensor weight_out = torch::stable::new_empty(in.weight, {in.classes, in.dim}, in.dtype);
  Tensor bias_out = bias_like(in);
  Tensor predictions =
      torch::stable::new_empty(in.weight, {steps, in.classes, in.samples}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    with_descent<T>(in, steps, lr, [&](auto descent) {
      descent.forward(predictions.mutable_data_ptr<T>(), weight_out.mutable_data_ptr<T>(),
                      data_or_null<T>(bias_out, in.bias.has_value()));
    });
    const Tensor& shift = in.bias.has_value() ? *in.bias : in.weight;
    for (const Tensor& result : {weight_out, bias_out}) {
      raise_on_nan<T>(op, result,
                      {{"features", &in.features}, {"weight", &in.weight}, {"bias", &shift}},
                      "the steps diverge: lr is too large for these features, or they hold Inf");
    }
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
  check_labels(op, in);
  Tensor features_out = torch::stable::new_empty(in.weight, {in.samples, in.dim}, in.dtype);
  Tensor weight_out = torch::stable::new_empty(in.weight, {in.classes, in.dim}, in.dtype);
  Tensor bias_out = bias_like(in);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    with_descent<T>(in, given.steps, lr, [&](auto descent) {
      descent.backward(given.predictions.const_data_ptr<T>(), given.weight.const_data_ptr<T>(),
                       data_or_null<T>(given.bias), features_out.mutable_data_ptr<T>(),
                       weight_out.mutable_data_ptr<T>(),
                       data_or_null<T>(bias_out, in.bias.has_value()));
    });
  });
  return {features_out, weight_out, bias_out};
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("softmax_descent", TORCH_BOX(&clfast::ops::softmax_descent));
  m.impl("softmax_descent_backward", TORCH_BOX(&clfast::ops::softmax_descent_backward));
}
