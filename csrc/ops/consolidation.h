// What every device checks and prepares for the consolidation ops.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "../kernels/common/gradient_lists.h"
#include "check.h"

namespace clfast::ops {

// Whether both lie in memory in the same order of dimensions, their elements one behind another.
inline bool lie_alike(const Tensor& t, const Tensor& other) {
  std::vector<std::pair<int64_t, int64_t>> steps;  // stride and size of each dimension
  for (int64_t i = 0; i < t.dim(); ++i) {
    if (t.size(i) <= 1) continue;
    if (t.stride(i) != other.stride(i)) return false;
    steps.emplace_back(t.stride(i), t.size(i));
  }
  std::sort(steps.begin(), steps.end());
  int64_t elements = 1;
  for (const auto& [stride, size] : steps) {
    if (stride != elements) return false;
    elements *= size;
  }
  return true;
}

// Two lists of gradients in the dtype of the arithmetic; where the order of memory is not the same,
// or the dtype another, as contiguous copies.
struct ListInputs {
  ScalarType dtype;
  std::vector<Tensor> grads, reference;
  std::vector<int64_t> ends;

  int64_t elements() const { return ends.back(); }

  // What was changed in a copy goes back to where it came from.
  void write_back(std::vector<Tensor>& to) const {
    for (size_t i = 0; i < to.size(); ++i) {
      if (to[i].data_ptr() != grads[i].data_ptr()) torch::stable::copy_(to[i], grads[i]);
    }
  }
};

inline ListInputs check_lists(const char* op, const std::vector<Tensor>& grads,
                              const std::vector<Tensor>& reference) {
  CLFAST_CHECK(grads.size() == reference.size(), op, ": reference must hold ", grads.size(),
               " tensors, as grads does, got ", reference.size());
  CLFAST_CHECK(!grads.empty(), op, ": grads must hold at least one tensor");
  ListInputs in{compute_dtype(grads[0]), {}, {}, {}};
  int64_t elements = 0;
  for (size_t i = 0; i < grads.size(); ++i) {
    const Tensor &g = grads[i], &r = reference[i];
    const Entry first{"grads", 0}, name{"grads", i}, other{"reference", i};
    check_same_precision(op, name, g, first, grads[0]);
    check_same_device(op, name, g, first, grads[0]);
    check_not_expanded(op, name, g);
    CLFAST_CHECK(g.sizes() == r.sizes(), op, ": ", other, " must have shape ", shape_of(g), ", as ",
                 name, " has, got ", shape_of(r));
    check_same_precision(op, other, r, first, grads[0]);
    check_same_device(op, other, r, first, grads[0]);
    const bool as_they_are = g.scalar_type() == in.dtype && r.scalar_type() == in.dtype &&
                             ((g.is_contiguous() && r.is_contiguous()) || lie_alike(g, r));
    in.grads.push_back(as_they_are ? g : as_compute(g, in.dtype));
    in.reference.push_back(as_they_are ? r : as_compute(r, in.dtype));
    in.ends.push_back(elements += g.numel());
  }
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

}  // namespace clfast::ops
