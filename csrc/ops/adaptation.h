// What every device checks and prepares for the adaptation ops.
#pragma once
#include <cmath>

#include "../kernels/common/neighbourhood.h"
#include "../kernels/common/optimizer_step.h"
#include "check.h"
#include "product.h"

namespace clfast::ops {

// keys, labels and neighbours of a batch of queries, contiguous and in the dtype of the arithmetic.
struct NeighbourInputs {
  ScalarType dtype;
  Tensor keys, labels, sq_distances, indices;
  int64_t batch, neighbours, memory_size, dim;
  std::optional<Tensor> closeness;  // [B, K], of another kernel than Eq. 2's

  template <class T>
  Neighbourhood<T> view(int64_t num_classes, double eps) const {
    return {{keys.const_data_ptr(), kind_of(keys)},
            labels.const_data_ptr<int64_t>(),
            sq_distances.const_data_ptr<T>(),
            indices.const_data_ptr<int64_t>(),
            memory_size,
            dim,
            neighbours,
            num_classes,
            static_cast<T>(eps),
            data_or_null<T>(closeness)};
  }
};

// A floating argument of the given shape on the device of the keys, in the arithmetic's dtype.
inline Tensor check_floats(const char* op, const char* name, const Tensor& t,
                           std::initializer_list<int64_t> shape, const NeighbourInputs& in) {
  check_shape(op, name, t, shape);
  check_same_precision(op, name, t, "keys", in.keys);
  check_same_device(op, name, t, "keys", in.keys);
  return as_compute(t, in.dtype);
}

inline std::optional<Tensor> check_floats(const char* op, const char* name,
                                          const std::optional<Tensor>& t,
                                          std::initializer_list<int64_t> shape,
                                          const NeighbourInputs& in) {
  if (!t.has_value()) return std::nullopt;
  return check_floats(op, name, *t, shape, in);
}

inline NeighbourInputs check_neighbours(const char* op, const Tensor& keys, const Tensor& labels,
                                        const Tensor& sq_distances, const Tensor& indices,
                                        const std::optional<Tensor>& closeness) {
  check_dim(op, "keys", keys, 2);
  check_floating(op, "keys", keys);
  check_dtype(op, "labels", labels, ScalarType::Long);
  check_shape(op, "labels", labels, {keys.size(0)});
  check_same_device(op, "labels", labels, "keys", keys);
  check_dim(op, "neighbors.sq_distances", sq_distances, 2);
  check_same_precision(op, "neighbors.sq_distances", sq_distances, "keys", keys);
  check_same_device(op, "neighbors.sq_distances", sq_distances, "keys", keys);
  CLFAST_CHECK(sq_distances.size(1) >= 1, op,
               ": neighbors must hold at least one neighbour a query");
  check_dtype(op, "neighbors.indices", indices, ScalarType::Long);
  check_shape(op, "neighbors.indices", indices, {sq_distances.size(0), sq_distances.size(1)});
  check_same_device(op, "neighbors.indices", indices, "keys", keys);
  const ScalarType dtype = compute_dtype(keys);
  NeighbourInputs in{dtype,
                     as_contiguous(keys),
                     as_contiguous(labels),
                     as_compute(sq_distances, dtype),
                     as_contiguous(indices),
                     sq_distances.size(0),
                     sq_distances.size(1),
                     keys.size(0),
                     keys.size(1),
                     std::nullopt};
  in.closeness = check_floats(op, "closeness", closeness, {in.batch, in.neighbours}, in);
  return in;
}

inline std::optional<Tensor> check_select(const char* op, const std::optional<Tensor>& select,
                                          int64_t num_classes, const Tensor& keys) {
  if (!select.has_value()) return std::nullopt;
  check_dtype(op, "select", *select, ScalarType::Bool);
  check_shape(op, "select", *select, {num_classes});
  check_same_device(op, "select", *select, "keys", keys);
  return as_contiguous(*select);
}

inline void check_eps(const char* op, double eps, ScalarType dtype) {
  const double held = as_held(eps, dtype);
  check_range(op, "eps", eps, held > 0 && std::isfinite(held), "positive and finite");
}

inline Optimizer check_optimizer(const char* op, const std::string& name) {
  if (name == "rmsprop") return Optimizer::kRmsprop;
  if (name == "rmsprop_tf") return Optimizer::kRmspropTf;
  CLFAST_CHECK(name == "sgd", op, ": optimizer must be rmsprop, rmsprop_tf or sgd, got ", name);
  return Optimizer::kSgd;
}

inline void check_steps(const char* op, int64_t steps, double lr, ScalarType dtype) {
  CLFAST_CHECK(steps >= 0, op, ": steps must be >= 0, got ", steps);
  check_range(op, "lr", lr, lr >= 0 && std::isfinite(as_held(lr, dtype)), "finite and >= 0");
}

// The output layer: weight [C, d] and bias [C], both in the arithmetic's dtype.
struct LayerInputs {
  Tensor weight;
  std::optional<Tensor> bias;
  int64_t num_classes;
};

inline LayerInputs check_layer(const char* op, const Tensor& weight,
                               const std::optional<Tensor>& bias, const NeighbourInputs& in) {
  check_dim(op, "weight", weight, 2);
  const int64_t num_classes = weight.size(0);
  CLFAST_CHECK(num_classes >= 1, op, ": weight must have at least one class");
  return {check_floats(op, "weight", weight, {num_classes, in.dim}, in),
          check_floats(op, "bias", bias, {num_classes}, in), num_classes};
}

// hebb_logits: everything but the neighbours.
struct HebbInputs {
  LayerInputs layer;
  Optimizer optimizer;
  Tensor queries;        // [B, d]
  Tensor interpolation;  // [C]
  std::optional<Tensor> select, key_sq_norms;
  Tensor base_logits;    // [B, C]
  bool base_lacks_bias;  // base_logits were formed here, as queries W^T
};

inline HebbInputs check_hebb(const char* op, const NeighbourInputs& in, const Tensor& queries,
                             const Tensor& weight, const std::optional<Tensor>& bias,
                             const Tensor& interpolation, double eta, int64_t steps, double lr,
                             const std::string& optimizer, double eps,
                             const std::optional<Tensor>& select,
                             const std::optional<Tensor>& key_sq_norms,
                             const std::optional<Tensor>& base_logits) {
  HebbInputs out;
  out.queries = check_floats(op, "queries", queries, {in.batch, in.dim}, in);
  out.layer = check_layer(op, weight, bias, in);
  const int64_t num_classes = out.layer.num_classes;
  // E is a table of C values that is computed once: any floating dtype will do.
  check_floating(op, "interpolation", interpolation);
  check_shape(op, "interpolation", interpolation, {num_classes});
  check_same_device(op, "interpolation", interpolation, "keys", in.keys);
  out.interpolation = as_compute(interpolation, in.dtype);
  check_range(op, "eta", eta, std::isfinite(as_held(eta, in.dtype)), "finite");
  check_steps(op, steps, lr, in.dtype);
  out.optimizer = check_optimizer(op, optimizer);
  check_eps(op, eps, in.dtype);
  out.select = check_select(op, select, num_classes, in.keys);
  out.key_sq_norms = check_floats(op, "key_sq_norms", key_sq_norms, {in.memory_size}, in);
  out.base_lacks_bias = !base_logits.has_value();
  out.base_logits = base_logits.has_value()
                        ? check_floats(op, "base_logits", *base_logits, {in.batch, num_classes}, in)
                        : matrix_product(out.queries, transposed(out.layer.weight));
  return out;
}

// mixture_log_probs: everything but the neighbours.
struct MixtureInputs {
  int64_t num_classes;
  Tensor logits, queries;
  std::optional<Tensor> key_sq_norms;
  bool joint;
};

inline MixtureInputs check_mixture(const char* op, const NeighbourInputs& in, const Tensor& logits,
                                   const Tensor& queries, double theta, double gamma,
                                   const std::string& form,
                                   const std::optional<Tensor>& key_sq_norms) {
  check_dim(op, "logits", logits, 2);
  const int64_t num_classes = logits.size(1);
  CLFAST_CHECK(num_classes >= 1, op, ": logits must have at least one class");
  check_range(op, "theta", theta, std::isfinite(as_held(theta, in.dtype)), "finite");
  check_range(op, "gamma", gamma, gamma >= 0 && gamma <= 1, "in [0, 1]");
  CLFAST_CHECK(form == "normalized" || form == "joint", op,
               ": form must be normalized or joint, got ", form);
  return {num_classes, check_floats(op, "logits", logits, {in.batch, num_classes}, in),
          check_floats(op, "queries", queries, {in.batch, in.dim}, in),
          check_floats(op, "key_sq_norms", key_sq_norms, {in.memory_size}, in), form == "joint"};
}

inline Tensor check_interpolation(const Tensor& counts, double beta, ScalarType dtype) {
  const char* op = "interpolation_weights";
  check_dim(op, "counts", counts, 1);
  check_dtype(op, "counts", counts, ScalarType::Long);
  check_range(op, "beta", beta, beta >= 0 && beta < 1, "in [0, 1)");
  CLFAST_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, op,
               ": dtype must be float32 or float64, got ", name_of(dtype));
  return as_contiguous(counts);
}

inline void raise_on(const char* op, const Finding& finding, const NeighbourInputs& in,
                     int64_t num_classes) {
  if (finding.fault == Fault::kNone) return;
  const int64_t at = finding.query * in.neighbours + finding.neighbour;
  const std::string place =
      "[" + std::to_string(finding.query) + ", " + std::to_string(finding.neighbour) + "]";
  const int64_t row = in.indices.const_data_ptr<int64_t>()[at];
  switch (finding.fault) {
    case Fault::kIndex:
      CLFAST_CHECK(false, op, ": neighbors.indices", place, " is ", row, ", outside the ",
                   in.memory_size, " rows of keys");
      break;
    case Fault::kDistance:
      CLFAST_CHECK(false, op, ": neighbors.sq_distances", place,
                   " is negative or NaN; squared distances must be >= 0");
      break;
    case Fault::kCloseness:
      CLFAST_CHECK(false, op, ": closeness", place,
                   " is negative, infinite or NaN; closenesses must be finite and >= 0");
      break;
    default:
      CLFAST_CHECK(false, op, ": labels[", row, "] is ", in.labels.const_data_ptr<int64_t>()[row],
                   ", outside [0, ", num_classes, "), the classes");
  }
}

}  // namespace clfast::ops
