// What every device checks and prepares for the losses and heads of learners with exemplars.
#pragma once
#include <algorithm>
#include <cmath>

#include "check.h"
#include "product.h"

namespace clfast::ops {

struct Distillation {
  ScalarType dtype;
  Tensor student, teacher;  // [N, C], [N, Ct]
  int64_t rows, width, classes;
  double temperature, factor;  // the loss is factor times the mean over rows
};

inline Distillation check_distillation(const char* op, const Tensor& student, const Tensor& teacher,
                                       double temperature, const std::string& reduction,
                                       bool scale_t2) {
  check_dim(op, "student", student, 2);
  check_floating(op, "student", student);
  check_dim(op, "teacher", teacher, 2);
  const int64_t rows = student.size(0), width = student.size(1), classes = teacher.size(1);
  CLFAST_CHECK(teacher.size(0) == rows, op, ": teacher must have ", rows,
               " rows, as student has, got ", teacher.size(0));
  CLFAST_CHECK(classes >= 1 && classes <= width, op, ": teacher must have between 1 and ", width,
               " classes, which student has, got ", classes);
  check_same_precision(op, "teacher", teacher, "student", student);
  check_same_device(op, "teacher", teacher, "student", student);
  const ScalarType dtype = compute_dtype(student);
  const auto sound = [&](double x) {
    const double held = as_held(x, dtype);
    return held > 0 && std::isfinite(held) && std::isfinite(as_held(1 / held, dtype));
  };
  check_range(op, "temperature", temperature, sound(temperature), "positive and finite");
  const double square = scale_t2 ? temperature * temperature : 1;
  check_range(op, "temperature", temperature, sound(square),
              "positive and finite, and so its square for scale_t2");
  CLFAST_CHECK(reduction == "batchmean" || reduction == "mean" || reduction == "sum", op,
               ": reduction must be batchmean, mean or sum, got ", reduction);
  const double share = reduction == "sum"    ? static_cast<double>(rows)
                       : reduction == "mean" ? 1.0 / static_cast<double>(classes)
                                             : 1.0;
  return {dtype,
          as_compute(student, dtype),
          as_compute(teacher, dtype),
          rows,
          width,
          classes,
          temperature,
          square * share};
}

inline Tensor check_new_classes(const char* op, const Tensor& new_classes, const char* other_name,
                                const Tensor& other) {
  check_dim(op, "new_classes", new_classes, 1);
  check_dtype(op, "new_classes", new_classes, ScalarType::Long);
  check_same_device(op, "new_classes", new_classes, other_name, other);
  return as_contiguous(new_classes);
}

inline void check_rows_of_classes(const char* op, const char* name, const Tensor& t) {
  check_dim(op, name, t, 2);
  check_floating(op, name, t);
  CLFAST_CHECK(t.size(1) >= 1, op, ": ", name, " must have at least one class");
}

struct MarginRanking {
  ScalarType dtype;
  Tensor cosines, labels, new_classes;  // [N, C], [N], [P]
  int64_t rows, classes, new_count, ranked;
};

inline MarginRanking check_margin_ranking(const char* op, const Tensor& cosines,
                                          const Tensor& labels, const Tensor& new_classes,
                                          double margin, int64_t k) {
  check_rows_of_classes(op, "cosines", cosines);
  check_dtype(op, "labels", labels, ScalarType::Long);
  check_shape(op, "labels", labels, {cosines.size(0)});
  check_same_device(op, "labels", labels, "cosines", cosines);
  const Tensor listed = check_new_classes(op, new_classes, "cosines", cosines);
  const ScalarType dtype = compute_dtype(cosines);
  check_range(op, "margin", margin, std::isfinite(as_held(margin, dtype)), "finite");
  CLFAST_CHECK(k >= 1, op, ": k must be at least 1, got ", k);
  const int64_t count = listed.size(0);
  return {dtype,
          as_compute(cosines, dtype),
          as_contiguous(labels),
          listed,
          cosines.size(0),
          cosines.size(1),
          count,
          std::min(k, count)};
}

// A number that may be learnt: of no dimension.
inline Tensor check_scalar(const char* op, const char* name, const Tensor& t,
                           const char* other_name, const Tensor& other) {
  check_dim(op, name, t, 0);
  check_same_precision(op, name, t, other_name, other);
  check_same_device(op, name, t, other_name, other);
  return as_compute(t, compute_dtype(other));
}

struct CosineInputs {
  ScalarType dtype;
  Tensor features, weight, scale;  // [N, d], [C, d], []
  int64_t rows, classes, dim;
};

inline CosineInputs check_cosine_logits(const char* op, const Tensor& features,
                                        const Tensor& weight, const Tensor& scale) {
  check_dim(op, "features", features, 2);
  check_floating(op, "features", features);
  check_dim(op, "weight", weight, 2);
  CLFAST_CHECK(weight.size(1) == features.size(1), op, ": features have ", features.size(1),
               " columns but weight has ", weight.size(1));
  check_same_precision(op, "weight", weight, "features", features);
  check_same_device(op, "weight", weight, "features", features);
  const ScalarType dtype = compute_dtype(features);
  return {dtype,
          as_compute(features, dtype),
          as_compute(weight, dtype),
          check_scalar(op, "scale", scale, "features", features),
          features.size(0),
          weight.size(0),
          features.size(1)};
}

// What the gradients take of the forward pass, beside its inputs.
struct CosineState {
  Tensor scaled_features, unit_weight;  // scale x / |x|, w / |w|
  Tensor inverse_lengths;               // [N + C], of both

  CosineState(const CosineInputs& in)
      : scaled_features(new_tensor(in.features, {in.rows, in.dim})),
        unit_weight(new_tensor(in.weight, {in.classes, in.dim})),
        inverse_lengths(new_tensor(in.features, {in.rows + in.classes})) {}
  CosineState(Tensor scaled, Tensor unit, Tensor inverse)
      : scaled_features(std::move(scaled)),
        unit_weight(std::move(unit)),
        inverse_lengths(std::move(inverse)) {}
};

// Of the logits by what stands in the product.
struct CosineSlopes {
  Tensor by_unit_features, by_unit_weight;  // [N, d], by scaled_features; [C, d]

  CosineSlopes(const Tensor& grad, const CosineState& state)
      : by_unit_features(matrix_product(grad, state.unit_weight)),
        by_unit_weight(matrix_product(transposed(grad), state.scaled_features)) {}
};

struct BiasCorrection {
  ScalarType dtype;
  Tensor logits, new_classes, scale;  // [N, C], [P], []
  int64_t rows, classes, new_count;
};

inline BiasCorrection check_bias_correct(const char* op, const Tensor& logits,
                                         const Tensor& new_classes, const Tensor& scale) {
  check_rows_of_classes(op, "logits", logits);
  const Tensor listed = check_new_classes(op, new_classes, "logits", logits);
  const ScalarType dtype = compute_dtype(logits);
  return {dtype,          as_compute(logits, dtype),
          listed,         check_scalar(op, "scale", scale, "logits", logits),
          logits.size(0), logits.size(1),
          listed.size(0)};
}

}  // namespace clfast::ops
