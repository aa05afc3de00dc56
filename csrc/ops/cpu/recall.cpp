#include "../recall.h"

#include <tuple>
#include <vector>

#include "../../kernels/cpu/divergence.h"
#include "../../kernels/cpu/image_prior.h"
#include "../../kernels/cpu/recall_gradients.h"
#include "../../kernels/cpu/soft_cross_entropy.h"
#include "losses.h"

namespace clfast::ops {
namespace {

// What a row counts in the mean over all copies: 1 / M, or multiplicity[i] / their sum.
template <class T>
std::vector<T> row_weights(const char* op, const std::optional<Tensor>& multiplicity,
                           int64_t rows) {
  if (!multiplicity.has_value()) {
    return std::vector<T>(rows, static_cast<T>(1.0 / static_cast<double>(rows)));
  }
  const int64_t* copies = multiplicity->const_data_ptr<int64_t>();
  double all = 0;
  for (int64_t i = 0; i < rows; ++i) {
    CLFAST_CHECK(copies[i] >= 1, op, ": multiplicity[", i, "] is ", copies[i],
                 "; a row stands for at least one copy");
    all += static_cast<double>(copies[i]);
  }
  std::vector<T> weights(rows);
  for (int64_t i = 0; i < rows; ++i) {
    weights[i] = static_cast<T>(static_cast<double>(copies[i]) / all);
  }
  return weights;
}

template <class T>
std::vector<T> shares_of_present(const char* op, const Tensor& present, int64_t classes) {
  const int64_t* listed = present.const_data_ptr<int64_t>();
  const int64_t count = present.size(0);
  std::vector<T> shares(cpu::padded_classes(classes), T(0));
  for (int64_t i = 0; i < count; ++i) {
    CLFAST_CHECK(listed[i] >= 0 && listed[i] < classes, op, ": present_classes[", i, "] is ",
                 listed[i], ", outside [0, ", classes, "), the classes");
    shares[listed[i]] += static_cast<T>(1.0 / static_cast<double>(count));
  }
  return shares;
}

std::tuple<Tensor, Tensor, Tensor> recall(const char* op, const Tensor& old_logits,
                                          const Tensor& new_logits, const Tensor& present_classes,
                                          const RecallWeights& w, const std::string& divergence,
                                          const std::optional<Tensor>& multiplicity) {
  const RecallInputs in =
      check_recall(op, old_logits, new_logits, present_classes, w, divergence, multiplicity);
  const LogitPair& z = in.logits;
  Tensor d_old = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  Tensor d_new = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  Tensor loss;
  dispatch_compute(z.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<T> weights = row_weights<T>(op, in.multiplicity, z.rows);
    const std::vector<T> present = shares_of_present<T>(op, in.present, z.classes);
    const cpu::RecallProblem<T> problem{z.first.const_data_ptr<T>(),
                                        z.second.const_data_ptr<T>(),
                                        z.rows,
                                        z.classes,
                                        weights.data(),
                                        present.data(),
                                        static_cast<T>(w.divergence),
                                        static_cast<T>(w.not_local_old),
                                        static_cast<T>(w.not_local_new),
                                        static_cast<T>(w.diversity),
                                        static_cast<T>(w.sharpness),
                                        in.divergence};
    const int64_t width = cpu::padded_classes(z.classes);
    std::vector<T> state(7 * z.rows + 2 * width);
    const cpu::RecallState<T> s{state.data(), state.data() + 6 * z.rows};
    T *terms = s.slopes + width, *values = terms + width;
    T *old_out = d_old.mutable_data_ptr<T>(), *new_out = d_new.mutable_data_ptr<T>();
    for_ranges(z.rows, z.classes, [&](int64_t begin, int64_t end) {
      cpu::recall_predictions(problem, begin, end, s, old_out, new_out);
    });
    for_ranges(z.classes, z.rows, [&](int64_t begin, int64_t end) {
      cpu::recall_diversity(problem, begin, end, old_out, s, terms);
    });
    for_ranges(z.rows, z.classes, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(cpu::recall_scratch(z.classes));
      cpu::recall_gradients(problem, begin, end, scratch.data(), s, old_out, new_out, values);
    });
    double diversity = 0;
    for (int64_t i = 0; i < z.classes; ++i) diversity += static_cast<double>(terms[i]);
    const double sum = w.divergence + w.diversity * diversity + weighted_sum<T>(weights, values);
    raise_on_nan_loss<T>(op, std::isnan(sum),
                         {{"old_logits", &z.first}, {"new_logits", &z.second}});
    loss = scalar<T>(z.first, z.dtype, sum);
  });
  return {loss, d_old, d_new};
}

std::tuple<Tensor, Tensor, Tensor> divergence(const Tensor& p_logits, const Tensor& q_logits,
                                              std::string kind) {
  const char* op = "divergence";
  const LogitPair z = check_logits(op, "p_logits", p_logits, "q_logits", q_logits);
  const Divergence form = check_divergence(op, "kind", kind, false);
  Tensor out = new_tensor(z.first, {z.rows}, z.dtype);
  Tensor d_p = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  Tensor d_q = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  dispatch_compute(z.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *p = z.first.const_data_ptr<T>(), *q = z.second.const_data_ptr<T>();
    T *values = out.mutable_data_ptr<T>(), *p_out = d_p.mutable_data_ptr<T>(),
      *q_out = d_q.mutable_data_ptr<T>();
    for_ranges(z.rows, z.classes, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(cpu::divergence_scratch(z.classes));
      cpu::divergence(p, q, z.classes, form, begin, end, scratch.data(), values, p_out, q_out);
    });
    raise_on_nan_loss<T>(op, holds_nan<T>(out), {{"p_logits", &z.first}, {"q_logits", &z.second}});
  });
  return {out, d_p, d_q};
}

std::tuple<Tensor, Tensor> soft_cross_entropy(const Tensor& logits, const Tensor& target_logits,
                                              double temperature,
                                              const std::optional<Tensor>& multiplicity) {
  const char* op = "soft_cross_entropy";
  const SoftTargets in = check_soft_targets(op, logits, target_logits, temperature, multiplicity);
  const LogitPair& z = in.logits;
  Tensor gradient = new_tensor(z.first, {z.rows, z.classes}, z.dtype);
  Tensor loss;
  dispatch_compute(z.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<T> weights = row_weights<T>(op, in.multiplicity, z.rows);
    const cpu::SoftCrossEntropyProblem<T> problem{z.first.const_data_ptr<T>(),
                                                  z.second.const_data_ptr<T>(),
                                                  z.classes,
                                                  z.classes,
                                                  weights.data(),
                                                  static_cast<T>(1 / temperature),
                                                  false};
    std::vector<T> values(z.rows);
    T* out = gradient.mutable_data_ptr<T>();
    for_ranges(z.rows, z.classes, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(cpu::soft_cross_entropy_scratch(z.classes));
      cpu::soft_cross_entropy(problem, begin, end, scratch.data(), values.data(), out);
    });
    const double sum = weighted_sum<T>(weights, values.data());
    raise_on_nan_loss<T>(op, std::isnan(sum), {{"logits", &z.first}, {"target_logits", &z.second}});
    loss = scalar<T>(z.first, z.dtype, sum);
  });
  return {loss, gradient};
}

std::tuple<Tensor, Tensor> prior(const char* op, const ImageInputs& in, double tv_weight,
                                 double l2_weight, bool absolute, bool with_gradient) {
  Tensor gradient = gradient_like(in, with_gradient);
  Tensor value;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const ImagePrior<T> p = prior_of<T>(in, tv_weight, l2_weight, absolute);
    const std::vector<T> weights = row_weights<T>(op, in.multiplicity, in.count);
    std::vector<T> values(in.count);
    const T* images = in.images.const_data_ptr<T>();
    T* out = with_gradient ? gradient.mutable_data_ptr<T>() : nullptr;
    for_ranges(size_of(p) > 0 ? in.count : 0, size_of(p), [&](int64_t begin, int64_t end) {
      cpu::image_prior(p, images, weights.data(), begin, end, values.data(), out);
    });
    const double sum = weighted_sum<T>(weights, values.data());
    raise_on_nan_loss<T>(op, std::isnan(sum), {{"images", &in.images}});
    value = scalar<T>(in.images, in.dtype, sum);
  });
  return {value, with_gradient && in.channels_last ? channels_in_front(gradient) : gradient};
}

void step(const char* op, const StepInputs& inputs, double lr, double tv_weight, double l2_weight,
          bool per_copy) {
  const ImageInputs& in = inputs.in;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const ImagePrior<T> p = prior_of<T>(in, tv_weight, l2_weight, false);
    const std::vector<T> weights = row_weights<T>(op, in.multiplicity, in.count);
    std::vector<T> rates(in.count, static_cast<T>(lr));
    for (int64_t i = 0; per_copy && in.multiplicity.has_value() && i < in.count; ++i) {
      rates[i] /= static_cast<T>(in.multiplicity->const_data_ptr<int64_t>()[i]);
    }
    const T* given = inputs.grad.const_data_ptr<T>();
    T* out = in.images.mutable_data_ptr<T>();
    for_ranges(size_of(p) > 0 ? in.count : 0, size_of(p), [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(cpu::recall_step_scratch(p));
      cpu::recall_step(p, given, weights.data(), rates.data(), begin, end, scratch.data(), out);
    });
  });
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("recall_loss", TORCH_BOX(&clfast::ops::recall_loss<clfast::ops::recall>));
  m.impl("recall_gradients", TORCH_BOX(&clfast::ops::recall_gradients<clfast::ops::recall>));
  m.impl("divergence", TORCH_BOX(&clfast::ops::divergence));
  m.impl("soft_cross_entropy", TORCH_BOX(&clfast::ops::soft_cross_entropy));
  m.impl("image_prior", TORCH_BOX(&clfast::ops::image_prior<clfast::ops::prior>));
  m.impl("total_variation", TORCH_BOX(&clfast::ops::total_variation<clfast::ops::prior>));
  m.impl("recall_step_", TORCH_BOX(&clfast::ops::recall_step_<clfast::ops::step>));
}
