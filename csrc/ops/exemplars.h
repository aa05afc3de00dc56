// What every device checks and prepares for the exemplar ops.
#pragma once
#include "check.h"

namespace clfast::ops {

// ---- herding ----

struct HerdingInputs {
  ScalarType dtype;
  Tensor features;  // [N, d] in dtype
  Tensor labels;    // [N]
  int64_t samples, dim;
};

inline HerdingInputs check_herding(const Tensor& features, const Tensor& labels, int64_t m) {
  const char* op = "herding";
  check_dim(op, "features", features, 2);
  check_floating(op, "features", features);
  check_dtype(op, "labels", labels, ScalarType::Long);
  check_shape(op, "labels", labels, {features.size(0)});
  check_same_device(op, "labels", labels, "features", features);
  CLFAST_CHECK(m >= 1, op, ": m must be >= 1, got ", m);
  const ScalarType dtype = compute_dtype(features);
  return {dtype, as_compute(features, dtype), as_contiguous(labels), features.size(0),
          features.size(1)};
}

}  // namespace clfast::ops
