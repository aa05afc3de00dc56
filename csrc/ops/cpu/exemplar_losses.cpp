#include "../exemplar_losses.h"

#include <tuple>
#include <vector>

#include "../../kernels/cpu/bias_correct.h"
#include "../../kernels/cpu/cosine_logits.h"
#include "../../kernels/cpu/margin_ranking.h"
#include "../../kernels/cpu/soft_cross_entropy.h"
#include "losses.h"

namespace clfast::ops {
namespace {

using Tensors = std::tuple<Tensor, Tensor>;
using ThreeTensors = std::tuple<Tensor, Tensor, Tensor>;

Tensors distillation_loss(const Tensor& student, const Tensor& teacher, double temperature,
                          std::string reduction, bool scale_t2) {
  const char* op = "distillation_loss";
  const Distillation in =
      check_distillation(op, student, teacher, temperature, reduction, scale_t2);
  Tensor gradient = new_tensor(in.student, {in.rows, in.width}, in.dtype);
  Tensor loss;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const double share = in.factor / static_cast<double>(in.rows);
    const std::vector<T> weights(in.rows, static_cast<T>(share));
    const cpu::SoftCrossEntropyProblem<T> problem{in.student.const_data_ptr<T>(),
                                                  in.teacher.const_data_ptr<T>(),
                                                  in.classes,
                                                  in.width,
                                                  weights.data(),
                                                  static_cast<T>(1 / temperature),
                                                  true};
    std::vector<T> values(in.rows);
    T* out = gradient.mutable_data_ptr<T>();
    for_ranges(in.rows, in.width, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(cpu::soft_cross_entropy_scratch(in.classes));
      cpu::soft_cross_entropy(problem, begin, end, scratch.data(), values.data(), out);
    });
    const double sum = weighted_sum<T>(weights, values.data());
    raise_on_nan_loss<T>(op, std::isnan(sum), {{"student", &in.student}, {"teacher", &in.teacher}});
    loss = scalar<T>(in.student, in.dtype, sum);
  });
  return {loss, gradient};
}

// marks[c] = 1 of the new classes.
template <class T>
void mark_new_classes(const char* op, const Tensor& new_classes, std::vector<T>& marks) {
  const int64_t* listed = new_classes.const_data_ptr<int64_t>();
  const int64_t count = new_classes.size(0), classes = static_cast<int64_t>(marks.size());
  for (int64_t i = 0; i < count; ++i) {
    CLFAST_CHECK(listed[i] >= 0 && listed[i] < classes, op, ": new_classes[", i, "] is ", listed[i],
                 ", outside [0, ", classes, "), the classes");
    marks[listed[i]] = T(1);
  }
}

Tensors margin_ranking_loss(const Tensor& cosines, const Tensor& labels, const Tensor& new_classes,
                            double margin, int64_t k) {
  const char* op = "margin_ranking_loss";
  const MarginRanking in = check_margin_ranking(op, cosines, labels, new_classes, margin, k);
  std::vector<uint8_t> is_new(in.classes, 0);
  mark_new_classes(op, in.new_classes, is_new);
  const int64_t* of_rows = in.labels.const_data_ptr<int64_t>();
  int64_t old = 0;
  for (int64_t i = 0; i < in.rows; ++i) {
    CLFAST_CHECK(of_rows[i] >= 0 && of_rows[i] < in.classes, op, ": labels[", i, "] is ",
                 of_rows[i], ", outside [0, ", in.classes, "), the classes");
    old += is_new[of_rows[i]] == 0;
  }
  const double terms = static_cast<double>(old) * static_cast<double>(in.ranked);
  const double share = terms > 0 ? 1 / terms : 0;
  Tensor gradient = new_tensor(in.cosines, {in.rows, in.classes}, in.dtype);
  Tensor loss;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    CLFAST_CHECK(!holds_nan<T>(in.cosines), op, ": cosines holds NaN");
    const cpu::MarginRankingProblem<T> problem{in.cosines.const_data_ptr<T>(),
                                               of_rows,
                                               in.new_classes.const_data_ptr<int64_t>(),
                                               is_new.data(),
                                               in.classes,
                                               in.new_count,
                                               in.ranked,
                                               static_cast<T>(margin),
                                               static_cast<T>(share)};
    std::vector<T> values(in.rows);
    T* out = gradient.mutable_data_ptr<T>();
    for_ranges(in.rows, in.classes, [&](int64_t begin, int64_t end) {
      std::vector<int64_t> ranking(in.ranked);
      cpu::margin_ranking(problem, begin, end, ranking.data(), values.data(), out);
    });
    double sum = 0;
    for (const T value : values) sum += static_cast<double>(value);
    CLFAST_CHECK(!std::isnan(share * sum), op, ": cosines holds infinities that cancel");
    loss = scalar<T>(in.cosines, in.dtype, share * sum);
  });
  return {loss, gradient};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cosine_logits(const Tensor& features,
                                                         const Tensor& weight,
                                                         const Tensor& scale) {
  const char* op = "cosine_logits";
  const CosineInputs in = check_cosine_logits(op, features, weight, scale);
  const CosineState state(in);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T factor = *in.scale.const_data_ptr<T>();
    check_range(op, "scale", factor, std::isfinite(factor), "finite");
    T* inverse = state.inverse_lengths.mutable_data_ptr<T>();
    const auto unit_rows = [&](const Tensor& rows, int64_t count, T by, const Tensor& out, T* to) {
      for_ranges(count, in.dim, [&](int64_t begin, int64_t end) {
        cpu::unit_rows(rows.const_data_ptr<T>(), in.dim, begin, end, by, out.mutable_data_ptr<T>(),
                       to);
      });
    };
    unit_rows(in.features, in.rows, factor, state.scaled_features, inverse);
    unit_rows(in.weight, in.classes, T(1), state.unit_weight, inverse + in.rows);
  });
  const Tensor logits = matrix_product(state.scaled_features, transposed(state.unit_weight));
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    raise_on_nan_loss<T>(op, holds_nan<T>(logits),
                         {{"features", &in.features}, {"weight", &in.weight}});
  });
  return {logits, state.scaled_features, state.unit_weight, state.inverse_lengths};
}

ThreeTensors cosine_logits_backward(const Tensor& grad, const Tensor& features,
                                    const Tensor& weight, const Tensor& scale,
                                    const Tensor& scaled_features, const Tensor& unit_weight,
                                    const Tensor& inverse_lengths) {
  const CosineInputs in = check_cosine_logits("cosine_logits_backward", features, weight, scale);
  const CosineState state(scaled_features, unit_weight, inverse_lengths);
  const CosineSlopes slopes(as_compute(grad, in.dtype), state);
  Tensor d_features = new_tensor(in.features, {in.rows, in.dim});
  Tensor d_weight = new_tensor(in.weight, {in.classes, in.dim});
  Tensor d_scale;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* inverse = state.inverse_lengths.const_data_ptr<T>();
    std::vector<T> dots(in.rows + in.classes);
    const auto gradient = [&](const Tensor& rows, int64_t first, int64_t count, const Tensor& of,
                              T factor, Tensor& out) {
      for_ranges(count, in.dim, [&](int64_t begin, int64_t end) {
        cpu::unit_rows_gradient(rows.const_data_ptr<T>(), inverse + first, of.const_data_ptr<T>(),
                                in.dim, begin, end, factor, out.mutable_data_ptr<T>(),
                                dots.data() + first);
      });
    };
    gradient(in.features, 0, in.rows, slopes.by_unit_features, *in.scale.const_data_ptr<T>(),
             d_features);
    gradient(in.weight, in.rows, in.classes, slopes.by_unit_weight, T(1), d_weight);
    double sum = 0;
    for (int64_t i = 0; i < in.rows; ++i) sum += static_cast<double>(dots[i]);
    d_scale = scalar<T>(in.features, in.dtype, sum);
  });
  return {d_features, d_weight, d_scale};
}

// factors[c] of the logits: the scale of the new classes, and 1 of the others.
template <class T>
std::vector<T> factors_of(const std::vector<T>& is_new, T scale) {
  std::vector<T> factors(is_new.size());
  for (size_t c = 0; c < is_new.size(); ++c) factors[c] = is_new[c] != 0 ? scale : T(1);
  return factors;
}

Tensor bias_correct(const Tensor& logits, const Tensor& new_classes, const Tensor& scale,
                    const Tensor& shift) {
  const char* op = "bias_correct";
  const BiasCorrection in = check_bias_correct(op, logits, new_classes, scale);
  const Tensor added = check_scalar(op, "shift", shift, "logits", logits);
  Tensor out = new_tensor(in.logits, {in.rows, in.classes});
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T factor = *in.scale.const_data_ptr<T>(), offset = *added.const_data_ptr<T>();
    check_range(op, "scale", factor, std::isfinite(factor), "finite");
    check_range(op, "shift", offset, std::isfinite(offset), "finite");
    std::vector<T> is_new(in.classes, T(0)), offsets(in.classes);
    mark_new_classes(op, in.new_classes, is_new);
    const std::vector<T> factors = factors_of(is_new, factor);
    // z - 0 is z also where z is -0.
    for (int64_t c = 0; c < in.classes; ++c) offsets[c] = is_new[c] != 0 ? offset : T(-0.0);
    const T* given = in.logits.const_data_ptr<T>();
    T* to = out.mutable_data_ptr<T>();
    for_ranges(in.rows, in.classes, [&](int64_t begin, int64_t end) {
      cpu::bias_correct(given, factors.data(), offsets.data(), in.classes, begin, end, to);
    });
    raise_on_nan_loss<T>(op, holds_nan<T>(out), {{"logits", &in.logits}});
  });
  return out;
}

ThreeTensors bias_correct_backward(const Tensor& grad, const Tensor& logits,
                                   const Tensor& new_classes, const Tensor& scale) {
  const char* op = "bias_correct_backward";
  const BiasCorrection in = check_bias_correct(op, logits, new_classes, scale);
  const Tensor slopes = as_compute(grad, in.dtype);
  Tensor d_logits = new_tensor(in.logits, {in.rows, in.classes});
  Tensor d_scale, d_shift;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    std::vector<T> is_new(in.classes, T(0)), sums(2 * in.rows);
    mark_new_classes(op, in.new_classes, is_new);
    const std::vector<T> factors = factors_of(is_new, *in.scale.const_data_ptr<T>());
    const T *g = slopes.const_data_ptr<T>(), *z = in.logits.const_data_ptr<T>();
    T* to = d_logits.mutable_data_ptr<T>();
    for_ranges(in.rows, in.classes, [&](int64_t begin, int64_t end) {
      cpu::bias_correct_gradients(g, z, factors.data(), is_new.data(), in.classes, begin, end, to,
                                  sums.data());
    });
    double of_scale = 0, of_shift = 0;
    for (int64_t i = 0; i < in.rows; ++i) {
      of_scale += static_cast<double>(sums[2 * i]),
          of_shift += static_cast<double>(sums[2 * i + 1]);
    }
    d_scale = scalar<T>(in.logits, in.dtype, of_scale);
    d_shift = scalar<T>(in.logits, in.dtype, of_shift);
  });
  return {d_logits, d_scale, d_shift};
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("distillation_loss", TORCH_BOX(&clfast::ops::distillation_loss));
  m.impl("margin_ranking_loss", TORCH_BOX(&clfast::ops::margin_ranking_loss));
  m.impl("cosine_logits", TORCH_BOX(&clfast::ops::cosine_logits));
  m.impl("cosine_logits_backward", TORCH_BOX(&clfast::ops::cosine_logits_backward));
  m.impl("bias_correct", TORCH_BOX(&clfast::ops::bias_correct));
  m.impl("bias_correct_backward", TORCH_BOX(&clfast::ops::bias_correct_backward));
}
