// Lists of tensors that an op walks through side by side: one index, one layer or parameter.
#pragma once
#include <algorithm>
#include <vector>

#include "../kernels/common/reserved_mask.h"
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

// Replaces the tensors of one index by contiguous copies where their elements do not lie in the
// same order, and those of another dtype by copies in `dtype`. A mask keeps its dtype; bits are in
// the order of a contiguous tensor.
inline void align(ScalarType dtype, const std::vector<Tensor*>& group, Tensor* mask = nullptr) {
  const Tensor& first = *group[0];
  const bool bits = mask != nullptr && mask->scalar_type() == ScalarType::Byte;
  const bool bytes = mask != nullptr && !bits;
  const auto is_contiguous = [](const Tensor* t) { return t->is_contiguous(); };
  const auto is_like_first = [&](const Tensor* t) {
    return t->scalar_type() == dtype && lie_alike(first, *t);
  };
  const bool contiguous =
      std::all_of(group.begin(), group.end(), is_contiguous) && (!bytes || mask->is_contiguous());
  const bool alike =
      contiguous || (!bits && std::all_of(group.begin(), group.end(), is_like_first) &&
                     (!bytes || lie_alike(first, *mask)));
  for (Tensor* t : group) {
    if (!alike || t->scalar_type() != dtype) *t = as_compute(*t, dtype);
  }
  if (mask != nullptr && (bits || !alike)) *mask = as_contiguous(*mask);
}

// What was changed in a copy goes back to where it came from.
inline void write_back(std::vector<Tensor>& to, const std::vector<Tensor>& from) {
  for (size_t i = 0; i < to.size(); ++i) {
    if (to[i].data_ptr() != from[i].data_ptr()) torch::stable::copy_(to[i], from[i]);
  }
}

inline void check_same_length(const char* op, const char* name, size_t count,
                              const char* other_name, size_t other) {
  CLFAST_CHECK(count == other, op, ": ", name, " must hold ", other, " tensors, as ", other_name,
               " does, got ", count);
}

template <class Name, class OtherName>
inline void check_same_shape(const char* op, const Name& name, const Tensor& t,
                             const OtherName& other_name, const Tensor& other) {
  CLFAST_CHECK(t.sizes() == other.sizes(), op, ": ", name, " must have shape ", shape_of(other),
               ", as ", other_name, " has, got ", shape_of(t));
}

// A mask of what is reserved of `other`: bool of its shape, or packed.
template <class OtherName>
inline void check_reserved(const char* op, const Entry& name, const Tensor& mask,
                           const OtherName& other_name, const Tensor& other) {
  check_same_device(op, name, mask, other_name, other);
  if (mask.scalar_type() == ScalarType::Byte) {
    const int64_t bytes = (other.numel() + 7) / 8;
    CLFAST_CHECK(mask.dim() == 1 && mask.size(0) == bytes, op, ": ", name,
                 " is packed and must have shape [", bytes, "] for the ", other.numel(),
                 " elements of ", other_name, ", got ", shape_of(mask));
    return;
  }
  CLFAST_CHECK(mask.scalar_type() == ScalarType::Bool, op, ": ", name,
               " must be bool, or uint8 from pack_mask, got ", name_of(mask.scalar_type()));
  check_same_shape(op, name, mask, other_name, other);
}

inline ReservedMask marks_of(const Tensor& mask) {
  return {static_cast<const uint8_t*>(mask.data_ptr()), mask.scalar_type() == ScalarType::Byte};
}

}  // namespace clfast::ops
