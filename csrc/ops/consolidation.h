// What every device checks and prepares for the consolidation ops.
#pragma once
#include <cmath>
#include <optional>
#include <vector>

#include "../kernels/common/gradient_lists.h"
#include "../kernels/common/path_integral.h"
#include "../kernels/common/quadratic_penalty.h"
#include "tensor_lists.h"

namespace clfast::ops {

// Two lists of gradients in the dtype of the arithmetic; where the order of memory is not the same,
// or the dtype another, as contiguous copies.
struct ListInputs {
  ScalarType dtype;
  std::vector<Tensor> grads, reference;
  std::vector<int64_t> ends;

  int64_t elements() const { return ends.back(); }
};

inline ListInputs check_projection(const char* op, const std::vector<Tensor>& grads,
                                   const std::vector<Tensor>& reference) {
  check_lists(op, {"grads", grads}, {{"reference", reference}});
  check_not_expanded(op, {"grads", grads});
  ListInputs in{compute_dtype(grads[0]), grads, reference, ends_of(grads)};
  for (size_t i = 0; i < grads.size(); ++i) align(in.dtype, {&in.grads[i], &in.reference[i]});
  return in;
}

// Where the elements of the lists are.
template <class T>
class ListPointers {
 public:
  explicit ListPointers(const ListInputs& in) : ends_(in.ends) {
    for (const Tensor& g : in.grads) grads_.push_back(g.mutable_data_ptr<T>());
    for (const Tensor& r : in.reference) reference_.push_back(r.const_data_ptr<T>());
  }
  GradientLists<T> view() const {
    return {grads_.data(), reference_.data(), ends_.data(), static_cast<int64_t>(ends_.size())};
  }

 private:
  std::vector<T*> grads_;
  std::vector<const T*> reference_;
  const std::vector<int64_t>& ends_;
};

// gem_project, in the dtype of the arithmetic.
struct GemInputs {
  ScalarType dtype;
  Tensor grad;          // [P]
  Tensor memory_grads;  // [T, P]
  int64_t tasks, columns;
};

inline GemInputs check_gem(const char* op, const Tensor& grad, const Tensor& memory_grads,
                           double margin) {
  check_dim(op, "grad", grad, 1);
  check_floating(op, "grad", grad);
  check_dim(op, "memory_grads", memory_grads, 2);
  check_shape(op, "memory_grads", memory_grads, {memory_grads.size(0), grad.size(0)});
  check_same_precision(op, "memory_grads", memory_grads, "grad", grad);
  check_same_device(op, "memory_grads", memory_grads, "grad", grad);
  check_range(op, "margin", margin, margin >= 0 && std::isfinite(margin), "finite and >= 0");
  const ScalarType dtype = compute_dtype(grad);
  return {dtype, as_compute(grad, dtype), as_compute(memory_grads, dtype), memory_grads.size(0),
          grad.size(0)};
}

// EWC's penalty, in the dtype of the arithmetic; the tensors of an index lie alike.
struct PenaltyInputs {
  ScalarType dtype;
  std::vector<Tensor> grads;  // empty where only the value matters
  std::vector<Tensor> params, anchors, importances;

  template <class T>
  std::vector<PenaltyTensor<T>> tensors() const {
    std::vector<PenaltyTensor<T>> found;
    for (size_t i = 0; i < params.size(); ++i) {
      found.push_back({grads.empty() ? nullptr : grads[i].mutable_data_ptr<T>(),
                       params[i].const_data_ptr<T>(), anchors[i].const_data_ptr<T>(),
                       importances[i].const_data_ptr<T>()});
    }
    return found;
  }
};

// What both devices do around their part: the sum, with the gradients where there is room for them,
// and what is added to gradients.
using Penalty = Tensor(const char*, const PenaltyInputs&);
using AddPenalty = void(const char*, const PenaltyInputs&, double);

template <Penalty* penalty>
std::tuple<Tensor, std::vector<Tensor>> quadratic_penalty(std::vector<Tensor> params,
                                                          std::vector<Tensor> anchors,
                                                          std::vector<Tensor> importances,
                                                          bool with_gradient) {
  const char* op = "quadratic_penalty";
  check_lists(op, {"params", params}, {{"anchors", anchors}, {"importances", importances}});
  PenaltyInputs in{compute_dtype(params[0]), {}, params, anchors, importances};
  for (auto* list : {&in.params, &in.anchors, &in.importances}) {
    for (Tensor& t : *list) t = as_compute(t, in.dtype);
  }
  if (with_gradient) in.grads = like(params, in.dtype);
  return {penalty(op, in), in.grads};
}

template <AddPenalty* add_penalty>
void add_penalty_gradients_(std::vector<Tensor> grads, std::vector<Tensor> params,
                            std::vector<Tensor> anchors, std::vector<Tensor> importances,
                            double strength) {
  const char* op = "add_penalty_gradients_";
  check_lists(op, {"grads", grads},
              {{"params", params}, {"anchors", anchors}, {"importances", importances}});
  check_not_expanded(op, {"grads", grads});
  PenaltyInputs in{compute_dtype(grads[0]), grads, params, anchors, importances};
  const double held = as_held(strength, in.dtype);
  check_range(op, "strength", strength, held >= 0 && std::isfinite(held), "finite and >= 0");
  if (held == 0) return;
  for (size_t i = 0; i < grads.size(); ++i) {
    align(in.dtype, {&in.grads[i], &in.params[i], &in.anchors[i], &in.importances[i]});
  }
  add_penalty(op, in, strength);
  write_back(grads, in.grads);
}

// SI's path integral, in the dtype of the arithmetic; the tensors of an index lie alike.
struct PathInputs {
  ScalarType dtype;
  std::vector<Tensor> omegas, grads, deltas;
  std::vector<Tensor> before;  // empty where deltas are given as they are

  template <class T>
  std::vector<PathTensor<T>> tensors() const {
    std::vector<PathTensor<T>> found;
    for (size_t i = 0; i < omegas.size(); ++i) {
      found.push_back({omegas[i].mutable_data_ptr<T>(), grads[i].const_data_ptr<T>(),
                       deltas[i].const_data_ptr<T>(),
                       before.empty() ? nullptr : before[i].const_data_ptr<T>()});
    }
    return found;
  }
};

using PathIntegral = void(const char*, const PathInputs&);

template <PathIntegral* path_integral>
void path_integral_(std::vector<Tensor> omegas, std::vector<Tensor> grads,
                    std::vector<Tensor> deltas, std::optional<std::vector<Tensor>> before) {
  const char* op = "path_integral_";
  check_lists(op, {"omegas", omegas}, {{"grads", grads}, {"deltas", deltas}});
  if (before.has_value()) check_lists(op, {"omegas", omegas}, {{"before", *before}});
  check_not_expanded(op, {"omegas", omegas});
  PathInputs in{compute_dtype(omegas[0]), omegas, grads, deltas,
                before.value_or(std::vector<Tensor>{})};
  for (size_t i = 0; i < omegas.size(); ++i) {
    std::vector<Tensor*> tensors = {&in.omegas[i], &in.grads[i], &in.deltas[i]};
    if (before.has_value()) tensors.push_back(&in.before[i]);
    align(in.dtype, tensors);
  }
  path_integral(op, in);
  write_back(omegas, in.omegas);
}

}  // namespace clfast::ops
