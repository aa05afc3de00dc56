// What every device checks and prepares for the recall ops.
#pragma once
#include <cmath>
#include <tuple>

#include "../kernels/common/image_prior.h"
#include "../kernels/common/recall.h"
#include "check.h"

namespace clfast::ops {

inline void check_weight(const char* op, const char* name, double value, ScalarType dtype) {
  check_range(op, name, value, std::isfinite(as_held(value, dtype)), "finite");
}

inline std::optional<Tensor> check_multiplicity(const char* op,
                                                const std::optional<Tensor>& multiplicity,
                                                const char* other_name, const Tensor& other) {
  if (!multiplicity.has_value()) return std::nullopt;
  check_dtype(op, "multiplicity", *multiplicity, ScalarType::Long);
  check_shape(op, "multiplicity", *multiplicity, {other.size(0)});
  check_same_device(op, "multiplicity", *multiplicity, other_name, other);
  return as_contiguous(*multiplicity);
}

inline Divergence check_divergence(const char* op, const char* name, const std::string& kind,
                                   bool or_cross_entropy) {
  if (kind == "ag") return Divergence::kAg;
  if (kind == "js") return Divergence::kJs;
  CLFAST_CHECK(or_cross_entropy && kind == "ce", op, ": ", name, " must be ",
               or_cross_entropy ? "ag, js or ce" : "ag or js", ", got ", kind);
  return Divergence::kCe;
}

// Two [M, C] arrays of logits, in the dtype of the arithmetic.
struct LogitPair {
  ScalarType dtype;
  Tensor first, second;
  int64_t rows, classes;
};

inline LogitPair check_logits(const char* op, const char* name, const Tensor& first,
                              const char* other_name, const Tensor& second) {
  check_dim(op, name, first, 2);
  check_floating(op, name, first);
  const int64_t rows = first.size(0), classes = first.size(1);
  CLFAST_CHECK(classes >= 1, op, ": ", name, " must have at least one class");
  check_shape(op, other_name, second, {rows, classes});
  check_same_precision(op, other_name, second, name, first);
  check_same_device(op, other_name, second, name, first);
  const ScalarType dtype = compute_dtype(first);
  return {dtype, as_compute(first, dtype), as_compute(second, dtype), rows, classes};
}

struct RecallWeights {
  double divergence, not_local_old, not_local_new, diversity, sharpness;
};

struct RecallInputs {
  LogitPair logits;
  Tensor present;
  Divergence divergence;
  std::optional<Tensor> multiplicity;
};

inline RecallInputs check_recall(const char* op, const Tensor& old_logits, const Tensor& new_logits,
                                 const Tensor& present_classes, const RecallWeights& weights,
                                 const std::string& divergence,
                                 const std::optional<Tensor>& multiplicity) {
  const LogitPair logits = check_logits(op, "old_logits", old_logits, "new_logits", new_logits);
  check_dim(op, "present_classes", present_classes, 1);
  check_dtype(op, "present_classes", present_classes, ScalarType::Long);
  CLFAST_CHECK(present_classes.size(0) >= 1, op, ": present_classes must hold at least one class");
  check_same_device(op, "present_classes", present_classes, "old_logits", old_logits);
  check_weight(op, "divergence_weight", weights.divergence, logits.dtype);
  check_weight(op, "not_local_old", weights.not_local_old, logits.dtype);
  check_weight(op, "not_local_new", weights.not_local_new, logits.dtype);
  check_weight(op, "diversity", weights.diversity, logits.dtype);
  check_weight(op, "sharpness", weights.sharpness, logits.dtype);
  return {logits, as_contiguous(present_classes),
          check_divergence(op, "divergence", divergence, true),
          check_multiplicity(op, multiplicity, "old_logits", old_logits)};
}

struct SoftTargets {
  LogitPair logits;
  std::optional<Tensor> multiplicity;
};

inline SoftTargets check_soft_targets(const char* op, const Tensor& logits,
                                      const Tensor& target_logits, double temperature,
                                      const std::optional<Tensor>& multiplicity) {
  const LogitPair pair = check_logits(op, "logits", logits, "target_logits", target_logits);
  const double held = as_held(temperature, pair.dtype);
  check_range(op, "temperature", temperature,
              held > 0 && std::isfinite(held) && std::isfinite(as_held(1 / held, pair.dtype)),
              "positive and finite");
  return {pair, check_multiplicity(op, multiplicity, "logits", logits)};
}

// Images as they lie in memory, channels first or last, and how neighbours are reached.
struct ImageInputs {
  ScalarType dtype;
  Tensor images;  // [M, Ch, H, W] or [M, H, W, Ch], contiguous
  bool channels_last;
  int64_t count, channels, height, width;
  std::optional<Tensor> multiplicity;

  int64_t planes() const { return channels_last ? 1 : channels; }
  int64_t row() const { return channels_last ? width * channels : width; }
  int64_t lag() const { return channels_last ? channels : 1; }
  // 2 / the number of neighbours along either side: 0 where there is none.
  double share_down() const { return share((height - 1) * width); }
  double share_right() const { return share(height * (width - 1)); }

 private:
  double share(int64_t neighbours) const {
    const double all = static_cast<double>(channels) * static_cast<double>(neighbours);
    return all > 0 ? 2 / all : 0;
  }
};

inline Tensor channels_behind(const Tensor& images) {
  return torch::stable::transpose(torch::stable::transpose(images, 1, 2), 2, 3);
}
inline Tensor channels_in_front(const Tensor& images) {
  return torch::stable::transpose(torch::stable::transpose(images, 2, 3), 1, 2);
}

// The images in either order of memory, contiguous.
inline Tensor in_order(const Tensor& images, bool channels_last, ScalarType dtype) {
  return as_compute(channels_last ? channels_behind(images) : images, dtype);
}

inline ImageInputs check_images(const char* op, const Tensor& images,
                                const std::optional<Tensor>& multiplicity) {
  check_dim(op, "images", images, 4);
  check_floating(op, "images", images);
  const ScalarType dtype = compute_dtype(images);
  const bool channels_last = !images.is_contiguous() && channels_behind(images).is_contiguous();
  return {dtype,          in_order(images, channels_last, dtype),
          channels_last,  images.size(0),
          images.size(1), images.size(2),
          images.size(3), check_multiplicity(op, multiplicity, "images", images)};
}

template <class T>
inline ImagePrior<T> prior_of(const ImageInputs& in, double tv_weight, double l2_weight,
                              bool absolute) {
  const double pixels = static_cast<double>(in.channels) * static_cast<double>(in.height) *
                        static_cast<double>(in.width);
  return {in.planes(),
          in.height,
          in.row(),
          in.lag(),
          static_cast<T>(tv_weight * in.share_down()),
          static_cast<T>(tv_weight * in.share_right()),
          static_cast<T>(pixels > 0 ? l2_weight / pixels : 0),
          absolute};
}

// What the gradient of a prior is written to, in the order of the images' memory; empty without.
inline Tensor gradient_like(const ImageInputs& in, bool with_gradient) {
  const Tensor& x = in.images;
  if (!with_gradient) return new_tensor(x, {0}, in.dtype);
  return new_tensor(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, in.dtype);
}

inline bool check_norm(const char* op, const std::string& norm) {
  CLFAST_CHECK(norm == "squared" || norm == "abs", op, ": norm must be squared or abs, got ", norm);
  return norm == "abs";
}

// recall_step_: images that are changed where they are, and the gradient in their order.
struct StepInputs {
  ImageInputs in;
  Tensor grad;
};

inline StepInputs check_step(const char* op, const Tensor& images, const Tensor& grad, double lr,
                             double tv_weight, double l2_weight,
                             const std::optional<Tensor>& multiplicity) {
  const ImageInputs in = check_images(op, images, multiplicity);
  const ScalarType type = images.scalar_type();
  CLFAST_CHECK(type == ScalarType::Float || type == ScalarType::Double, op,
               ": images must be float32 or float64, got ", name_of(type));
  check_not_expanded(op, "images", images);
  check_shape(op, "grad", grad, {in.count, in.channels, in.height, in.width});
  check_same_precision(op, "grad", grad, "images", images);
  check_same_device(op, "grad", grad, "images", images);
  check_weight(op, "lr", lr, in.dtype);
  check_weight(op, "tv_weight", tv_weight, in.dtype);
  check_weight(op, "l2_weight", l2_weight, in.dtype);
  return {in, in_order(grad, in.channels_last, in.dtype)};
}

// What both devices do before and after their part, which is `recall`, `prior` or `step`. Two names
// of one function are told apart in its messages.
using Recall = std::tuple<Tensor, Tensor, Tensor>(const char*, const Tensor&, const Tensor&,
                                                  const Tensor&, const RecallWeights&,
                                                  const std::string&, const std::optional<Tensor>&);
using Prior = std::tuple<Tensor, Tensor>(const char*, const ImageInputs&, double, double, bool,
                                         bool);
using Step = void(const char*, const StepInputs&, double, double, double, bool);

template <Recall* recall>
std::tuple<Tensor, Tensor, Tensor> recall_loss(const Tensor& old_logits, const Tensor& new_logits,
                                               const Tensor& present_classes,
                                               double divergence_weight, double not_local_old,
                                               double not_local_new, double diversity,
                                               double sharpness, std::string divergence,
                                               const std::optional<Tensor>& multiplicity) {
  return recall("recall_loss", old_logits, new_logits, present_classes,
                {divergence_weight, not_local_old, not_local_new, diversity, sharpness}, divergence,
                multiplicity);
}

template <Recall* recall>
std::tuple<Tensor, Tensor, Tensor> recall_gradients(
    const Tensor& old_logits, const Tensor& new_logits, const Tensor& present_classes,
    double divergence_weight, double not_local_old, double not_local_new, double diversity,
    double sharpness, std::string divergence, const std::optional<Tensor>& multiplicity) {
  return recall("recall_gradients", old_logits, new_logits, present_classes,
                {divergence_weight, not_local_old, not_local_new, diversity, sharpness}, divergence,
                multiplicity);
}

template <Prior* prior>
std::tuple<Tensor, Tensor> image_prior(const Tensor& images, double tv_weight, double l2_weight,
                                       const std::optional<Tensor>& multiplicity,
                                       bool with_gradient) {
  const char* op = "image_prior";
  const ImageInputs in = check_images(op, images, multiplicity);
  check_weight(op, "tv_weight", tv_weight, in.dtype);
  check_weight(op, "l2_weight", l2_weight, in.dtype);
  return prior(op, in, tv_weight, l2_weight, false, with_gradient);
}

template <Prior* prior>
std::tuple<Tensor, Tensor> total_variation(const Tensor& images, std::string norm,
                                           bool with_gradient) {
  const char* op = "total_variation";
  const ImageInputs in = check_images(op, images, std::nullopt);
  return prior(op, in, 1, 0, check_norm(op, norm), with_gradient);
}

template <Step* step>
void recall_step_(Tensor images, const Tensor& grad, double lr, double tv_weight, double l2_weight,
                  const std::optional<Tensor>& multiplicity, bool per_copy) {
  const char* op = "recall_step_";
  const StepInputs inputs = check_step(op, images, grad, lr, tv_weight, l2_weight, multiplicity);
  step(op, inputs, lr, tv_weight, l2_weight, per_copy);
  // Images in neither order of memory were copied.
  if (!images.is_contiguous() && !inputs.in.channels_last) {
    torch::stable::copy_(images, inputs.in.images);
  }
}

}  // namespace clfast::ops
