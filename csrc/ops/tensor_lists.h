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

inline std::vector<Tensor> like(const std::vector<Tensor>& tensors, ScalarType dtype) {
  std::vector<Tensor> made;
  for (const Tensor& t : tensors) made.push_back(new_tensor(t, t.sizes(), dtype));
  return made;
}

// Where each ends in the row of all elements.
inline std::vector<int64_t> ends_of(const std::vector<Tensor>& tensors) {
  std::vector<int64_t> ends;
  int64_t elements = 0;
  for (const Tensor& t : tensors) ends.push_back(elements += t.numel());
  return ends;
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

struct NamedList {
  const char* name;
  const std::vector<Tensor>& tensors;
};

// Precision and device of tensors that one is compared with. The stable ABI answers by a call:
// each tensor is asked once, and what it must be like, once for all.
class Alike {
 public:
  explicit Alike(const Tensor& first)
      : first_(first), type_(first.scalar_type()), device_(first.device()) {}

  template <class Name, class OtherName>
  void check(const char* op, const Name& name, const Tensor& t, const OtherName& first_name) const {
    const ScalarType type = t.scalar_type();
    // What is said of the others is a matter of the checks that name them.
    if (type != ScalarType::Float || type != type_) {
      check_same_precision(op, name, t, first_name, first_);
    }
    if (t.device() != device_) check_same_device(op, name, t, first_name, first_);
  }

 private:
  const Tensor& first_;
  ScalarType type_;
  torch::stable::Device device_;
};

// Lists as the first one: as many tensors, of its shapes, its precision and its device.
inline void check_lists(const char* op, const NamedList& first,
                        std::initializer_list<NamedList> others) {
  for (const NamedList& list : others) {
    check_same_length(op, list.name, list.tensors.size(), first.name, first.tensors.size());
  }
  CLFAST_CHECK(!first.tensors.empty(), op, ": ", first.name, " must hold at least one tensor");
  const Entry zeroth{first.name, 0};
  const Alike alike(first.tensors[0]);
  for (size_t i = 0; i < first.tensors.size(); ++i) {
    const Entry name{first.name, i};
    alike.check(op, name, first.tensors[i], zeroth);
    for (const NamedList& list : others) {
      const Entry other{list.name, i};
      check_same_shape(op, other, list.tensors[i], name, first.tensors[i]);
      alike.check(op, other, list.tensors[i], zeroth);
    }
  }
}

// Lists that are changed in place.
inline void check_not_expanded(const char* op, const NamedList& list) {
  for (size_t i = 0; i < list.tensors.size(); ++i) {
    check_not_expanded(op, Entry{list.name, i}, list.tensors[i]);
  }
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
