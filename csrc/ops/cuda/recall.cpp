#include "../recall.h"

#include <tuple>

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/recall.h"

namespace clfast::ops {
namespace {

const int64_t* copies_or_null(const std::optional<Tensor>& multiplicity) {
  return data_or_null<int64_t>(multiplicity);
}

std::tuple<Tensor, Tensor, Tensor> recall(const char* op, const Tensor& old_logits,
                                          const Tensor& new_logits, const Tensor& present_classes,
                                          const RecallWeights& w, const std::string& divergence,
                                          const std::optional<Tensor>& multiplicity) {
  const RecallInputs in =
      check_recall(op, old_logits, new_logits, present_classes, w, divergence, multiplicity);
  const LogitPair& z = in.logits;
  const DeviceStream stream(z.first);
  Tensor loss = new_tensor(z.first, {}, z.dtype);
  Tensor d_old = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  Tensor d_new = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  const Tensor state = scratch_like(z.first, 6 * z.rows + 2 * z.classes, z.dtype);
  const Tensor counts = scratch_like(z.first, z.classes, ScalarType::Int);
  const Tensor sharpest = scratch_like(z.first, z.rows, ScalarType::Long);
  dispatch_compute(z.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* weights = state.mutable_data_ptr<T>();
    T *values = weights + z.rows, *log_sums = values + z.rows, *slopes = log_sums + 4 * z.rows;
    check_launch(
        op, cuda::recall_gradients<T>(
                {z.first.const_data_ptr<T>(), z.second.const_data_ptr<T>(), z.rows, z.classes,
                 copies_or_null(in.multiplicity), in.present.const_data_ptr<int64_t>(),
                 in.present.size(0), static_cast<T>(w.divergence), static_cast<T>(w.not_local_old),
                 static_cast<T>(w.not_local_new), static_cast<T>(w.diversity),
                 static_cast<T>(w.sharpness), in.divergence},
                {weights, values, log_sums, slopes, slopes + z.classes,
                 counts.mutable_data_ptr<int32_t>(), sharpest.mutable_data_ptr<int64_t>()},
                loss.mutable_data_ptr<T>(), d_old.mutable_data_ptr<T>(),
                d_new.mutable_data_ptr<T>(), stream));
  });
  return {loss, d_old, d_new};
}

std::tuple<Tensor, Tensor, Tensor> divergence(const Tensor& p_logits, const Tensor& q_logits,
                                              std::string kind) {
  const char* op = "divergence";
  const LogitPair z = check_logits(op, "p_logits", p_logits, "q_logits", q_logits);
  const Divergence form = check_divergence(op, "kind", kind, false);
  const DeviceStream stream(z.first);
  Tensor values = new_tensor(z.first, {z.rows}, z.dtype);
  Tensor d_p = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  Tensor d_q = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  dispatch_compute(z.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch(
        op, cuda::divergence<T>(z.first.const_data_ptr<T>(), z.second.const_data_ptr<T>(), z.rows,
                                z.classes, form, values.mutable_data_ptr<T>(),
                                d_p.mutable_data_ptr<T>(), d_q.mutable_data_ptr<T>(), stream));
  });
  return {values, d_p, d_q};
}

std::tuple<Tensor, Tensor> soft_cross_entropy(const Tensor& logits, const Tensor& target_logits,
                                              double temperature,
                                              const std::optional<Tensor>& multiplicity) {
  const char* op = "soft_cross_entropy";
  const SoftTargets in = check_soft_targets(op, logits, target_logits, temperature, multiplicity);
  const LogitPair& z = in.logits;
  const DeviceStream stream(z.first);
  Tensor loss = new_tensor(z.first, {}, z.dtype);
  Tensor gradient = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  const Tensor state = scratch_like(z.first, 2 * z.rows, z.dtype);
  dispatch_compute(z.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* weights = state.mutable_data_ptr<T>();
    check_launch(op, cuda::soft_cross_entropy<T>(
                         {z.first.const_data_ptr<T>(), z.second.const_data_ptr<T>(), z.rows,
                          z.classes, z.classes, copies_or_null(in.multiplicity),
                          static_cast<T>(1 / temperature), false, T(1)},
                         weights, weights + z.rows, loss.mutable_data_ptr<T>(),
                         gradient.mutable_data_ptr<T>(), stream));
  });
  return {loss, gradient};
}

struct PriorScratch {
  Tensor rows, sums;

  PriorScratch(const ImageInputs& in)
      : rows(scratch_like(in.images, 3 * in.count, in.dtype)),
        sums(scratch_like(in.images,
                          2 * in.count * cuda::parts_of_image(in.planes() * in.height * in.row()),
                          ScalarType::Double)) {}

  template <class T>
  cuda::ImagePriorScratch<T> view(int64_t count) const {
    T* first = rows.mutable_data_ptr<T>();
    return {first, first + count, first + 2 * count, sums.mutable_data_ptr<double>()};
  }
};

std::tuple<Tensor, Tensor> prior(const char* op, const ImageInputs& in, double tv_weight,
                                 double l2_weight, bool absolute, bool with_gradient) {
  const DeviceStream stream(in.images);
  Tensor value = new_tensor(in.images, {}, in.dtype);
  Tensor gradient = gradient_like(in, with_gradient);
  const PriorScratch scratch(in);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch(op, cuda::image_prior<T>(
                         prior_of<T>(in, tv_weight, l2_weight, absolute),
                         in.images.const_data_ptr<T>(), in.count, copies_or_null(in.multiplicity),
                         scratch.view<T>(in.count), value.mutable_data_ptr<T>(),
                         with_gradient ? gradient.mutable_data_ptr<T>() : nullptr, stream));
  });
  return {value, with_gradient && in.channels_last ? channels_in_front(gradient) : gradient};
}

void step(const char* op, const StepInputs& inputs, double lr, double tv_weight, double l2_weight,
          bool per_copy) {
  const ImageInputs& in = inputs.in;
  const DeviceStream stream(in.images);
  const PriorScratch scratch(in);
  const Tensor before = scratch_like(in.images, in.images.numel(), in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch(op, cuda::recall_step<T>(
                         prior_of<T>(in, tv_weight, l2_weight, false),
                         inputs.grad.const_data_ptr<T>(), in.count, static_cast<T>(lr),
                         copies_or_null(in.multiplicity), per_copy, scratch.view<T>(in.count),
                         before.mutable_data_ptr<T>(), in.images.mutable_data_ptr<T>(), stream));
  });
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) {
  m.impl("recall_loss", TORCH_BOX(&clfast::ops::recall_loss<clfast::ops::recall>));
  m.impl("recall_gradients", TORCH_BOX(&clfast::ops::recall_gradients<clfast::ops::recall>));
  m.impl("divergence", TORCH_BOX(&clfast::ops::divergence));
  m.impl("soft_cross_entropy", TORCH_BOX(&clfast::ops::soft_cross_entropy));
  m.impl("image_prior", TORCH_BOX(&clfast::ops::image_prior<clfast::ops::prior>));
  m.impl("total_variation", TORCH_BOX(&clfast::ops::total_variation<clfast::ops::prior>));
  m.impl("recall_step_", TORCH_BOX(&clfast::ops::recall_step_<clfast::ops::step>));
}
