#include "../exemplar_losses.h"

#include <tuple>

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/exemplar_losses.h"
#include "../../kernels/cuda/recall.h"

namespace clfast::ops {
namespace {

using Tensors = std::tuple<Tensor, Tensor>;
using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;

Tensors distillation_loss(const Tensor& student, const Tensor& teacher, double temperature,
                          std::string reduction, bool scale_t2) {
  const char* op = "distillation_loss";
  const Distillation in =
      check_distillation(op, student, teacher, temperature, reduction, scale_t2);
  const DeviceStream stream(in.student);
  Tensor loss = new_tensor(in.student, {}, in.dtype);
  Tensor gradient = new_tensor(in.student, {in.rows, in.width}, in.dtype);
  const Tensor state = scratch_like(in.student, 2 * in.rows, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* weights = state.mutable_data_ptr<T>();
    check_launch(op, cuda::soft_cross_entropy<T>(
                         {in.student.const_data_ptr<T>(), in.teacher.const_data_ptr<T>(), in.rows,
                          in.classes, in.width, nullptr, static_cast<T>(1 / temperature), true,
                          static_cast<T>(in.factor)},
                         weights, weights + in.rows, loss.mutable_data_ptr<T>(),
                         gradient.mutable_data_ptr<T>(), stream));
  });
  return {loss, gradient};
}

Tensors margin_ranking_loss(const Tensor& cosines, const Tensor& labels, const Tensor& new_classes,
                            double margin, int64_t k) {
  const char* op = "margin_ranking_loss";
  const MarginRanking in = check_margin_ranking(op, cosines, labels, new_classes, margin, k);
  const DeviceStream stream(in.cosines);
  Tensor loss = new_tensor(in.cosines, {}, in.dtype);
  Tensor gradient = new_tensor(in.cosines, {in.rows, in.classes}, in.dtype);
  const Tensor is_new = scratch_like(in.cosines, in.classes, ScalarType::Byte);
  const Tensor state = scratch_like(in.cosines, 2 * in.rows, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* weights = state.mutable_data_ptr<T>();
    check_launch(op, cuda::margin_ranking<T>(
                         {in.cosines.const_data_ptr<T>(), in.labels.const_data_ptr<int64_t>(),
                          in.new_classes.const_data_ptr<int64_t>(), in.rows, in.classes,
                          in.new_count, in.ranked, static_cast<T>(margin)},
                         is_new.mutable_data_ptr<uint8_t>(), weights, weights + in.rows,
                         loss.mutable_data_ptr<T>(), gradient.mutable_data_ptr<T>(), stream));
  });
  return {loss, gradient};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cosine_logits(const Tensor& features,
                                                         const Tensor& weight,
                                                         const Tensor& scale) {
  const char* op = "cosine_logits";
  const CosineInputs in = check_cosine_logits(op, features, weight, scale);
  const DeviceStream stream(in.features);
  const CosineState state(in);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* inverse = state.inverse_lengths.mutable_data_ptr<T>();
    check_launch(op,
                 cuda::unit_rows<T>(in.features.const_data_ptr<T>(), in.rows, in.dim,
                                    in.scale.const_data_ptr<T>(),
                                    state.scaled_features.mutable_data_ptr<T>(), inverse, stream));
    check_launch(
        op, cuda::unit_rows<T>(in.weight.const_data_ptr<T>(), in.classes, in.dim, nullptr,
                               state.unit_weight.mutable_data_ptr<T>(), inverse + in.rows, stream));
  });
  const Tensor logits = matrix_product(state.scaled_features, transposed(state.unit_weight));
  return {logits, state.scaled_features, state.unit_weight, state.inverse_lengths};
}

ThreeTensors cosine_logits_backward(const Tensor& grad, const Tensor& features,
                                    const Tensor& weight, const Tensor& scale,
                                    const Tensor& scaled_features, const Tensor& unit_weight,
                                    const Tensor& inverse_lengths) {
  const char* op = "cosine_logits_backward";
  const CosineInputs in = check_cosine_logits(op, features, weight, scale);
  const DeviceStream stream(in.features);
  const CosineState state(scaled_features, unit_weight, inverse_lengths);
  const CosineSlopes slopes(as_compute(grad, in.dtype), state);
  Tensor d_features = new_tensor(in.features, {in.rows, in.dim});
  Tensor d_weight = new_tensor(in.weight, {in.classes, in.dim});
  Tensor d_scale = new_tensor(in.features, {}, in.dtype);
  const Tensor dots = scratch_like(in.features, in.rows + in.classes, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* inverse = state.inverse_lengths.const_data_ptr<T>();
    T* of_rows = dots.mutable_data_ptr<T>();
    check_launch(op, cuda::unit_rows_gradient<T>(in.features.const_data_ptr<T>(), inverse,
                                                 slopes.by_unit_features.const_data_ptr<T>(),
                                                 in.rows, in.dim, in.scale.const_data_ptr<T>(),
                                                 d_features.mutable_data_ptr<T>(), of_rows,
                                                 d_scale.mutable_data_ptr<T>(), stream));
    check_launch(op, cuda::unit_rows_gradient<T>(
                         in.weight.const_data_ptr<T>(), inverse + in.rows,
                         slopes.by_unit_weight.const_data_ptr<T>(), in.classes, in.dim, nullptr,
                         d_weight.mutable_data_ptr<T>(), of_rows + in.rows, nullptr, stream));
  });
  return {d_features, d_weight, d_scale};
}

template <class T>
cuda::BiasCorrectProblem<T> problem_of(const BiasCorrection& in) {
  return {in.logits.const_data_ptr<T>(),
          in.new_classes.const_data_ptr<int64_t>(),
          in.rows,
          in.classes,
          in.new_count,
          in.scale.const_data_ptr<T>()};
}

Tensor bias_correct(const Tensor& logits, const Tensor& new_classes, const Tensor& scale,
                    const Tensor& shift) {
  const char* op = "bias_correct";
  const BiasCorrection in = check_bias_correct(op, logits, new_classes, scale);
  const Tensor added = check_scalar(op, "shift", shift, "logits", logits);
  const DeviceStream stream(in.logits);
  Tensor out = new_tensor(in.logits, {in.rows, in.classes});
  const Tensor is_new = scratch_like(in.logits, in.classes, ScalarType::Byte);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch(op, cuda::bias_correct<T>(problem_of<T>(in), added.const_data_ptr<T>(),
                                           is_new.mutable_data_ptr<uint8_t>(),
                                           out.mutable_data_ptr<T>(), stream));
  });
  return out;
}

ThreeTensors bias_correct_backward(const Tensor& grad, const Tensor& logits,
                                   const Tensor& new_classes, const Tensor& scale) {
  const char* op = "bias_correct_backward";
  const BiasCorrection in = check_bias_correct(op, logits, new_classes, scale);
  const Tensor slopes = as_compute(grad, in.dtype);
  const DeviceStream stream(in.logits);
  Tensor d_logits = new_tensor(in.logits, {in.rows, in.classes});
  Tensor d_scale = new_tensor(in.logits, {}, in.dtype);
  Tensor d_shift = new_tensor(in.logits, {}, in.dtype);
  const Tensor is_new = scratch_like(in.logits, in.classes, ScalarType::Byte);
  const Tensor sums = scratch_like(in.logits, 2 * in.rows, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch(
        op, cuda::bias_correct_gradients<T>(
                problem_of<T>(in), slopes.const_data_ptr<T>(), is_new.mutable_data_ptr<uint8_t>(),
                sums.mutable_data_ptr<T>(), d_logits.mutable_data_ptr<T>(),
                d_scale.mutable_data_ptr<T>(), d_shift.mutable_data_ptr<T>(), stream));
  });
  return {d_logits, d_scale, d_shift};
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) {
  m.impl("distillation_loss", TORCH_BOX(&clfast::ops::distillation_loss));
  m.impl("margin_ranking_loss", TORCH_BOX(&clfast::ops::margin_ranking_loss));
  m.impl("cosine_logits", TORCH_BOX(&clfast::ops::cosine_logits));
  m.impl("cosine_logits_backward", TORCH_BOX(&clfast::ops::cosine_logits_backward));
  m.impl("bias_correct", TORCH_BOX(&clfast::ops::bias_correct));
  m.impl("bias_correct_backward", TORCH_BOX(&clfast::ops::bias_correct_backward));
}
