// What every device checks and prepares for the consolidation ops.
#pragma once
#include <cmath>
#include <vector>

#include "../kernels/common/gradient_lists.h"
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

inline ListInputs check_lists(const char* op, const std::vector<Tensor>& grads,
                              const std::vector<Tensor>& reference) {
  check_same_length(op, "reference", reference.size(), "grads", grads.size());
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
    in.grads.push_back(g);
    in.reference.push_back(r);
    align(in.dtype, {&in.grads[i], &in.reference[i]});
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
