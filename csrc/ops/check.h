// Argument checks that every op shares. A message names the op and the argument and says what came.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "../kernels/common/scalar.h"

namespace clfast::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message << "clfast::";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// CLFAST_CHECK(k > 0, "knn: k must be ...") raises RuntimeError("clfast::knn: k must be ...").
#define CLFAST_CHECK(condition, ...)                    \
  do {                                                  \
    if (!(condition)) ::clfast::ops::fail(__VA_ARGS__); \
  } while (false)

// The name of an entry of a list of tensors, put together when a message needs it.
struct Entry {
  const char* list;
  size_t index;
};
inline std::ostream& operator<<(std::ostream& out, const Entry& entry) {
  return out << entry.list << "[" << entry.index << "]";
}

// The dtype as Python spells it.
inline std::string name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "torch.float32";
    case ScalarType::Double:
      return "torch.float64";
    case ScalarType::Half:
      return "torch.float16";
    case ScalarType::BFloat16:
      return "torch.bfloat16";
    case ScalarType::Int:
      return "torch.int32";
    case ScalarType::Long:
      return "torch.int64";
    case ScalarType::Byte:
      return "torch.uint8";
    case ScalarType::Bool:
      return "torch.bool";
    default:
      return torch::headeronly::toString(type);
  }
}

inline std::string shape_of(const Tensor& t) {
  std::string text = "[";
  for (int64_t i = 0; i < t.dim(); ++i) {
    text += (i ? ", " : "") + std::to_string(t.size(i));
  }
  return text + "]";
}

inline void check_dim(const char* op, const char* name, const Tensor& t, int64_t dim) {
  CLFAST_CHECK(t.dim() == dim, op, ": ", name, " must be ", dim, "-D, got ", t.dim(), "-D");
}

inline void check_shape(const char* op, const char* name, const Tensor& t,
                        std::initializer_list<int64_t> shape) {
  bool same = t.dim() == static_cast<int64_t>(shape.size());
  std::string wanted = "[";
  int64_t i = 0;
  for (const int64_t size : shape) {
    same = same && t.size(i) == size;
    wanted += (i ? ", " : "") + std::to_string(size);
    ++i;
  }
  CLFAST_CHECK(same, op, ": ", name, " must have shape ", wanted, "], got ", shape_of(t));
}

inline void check_dtype(const char* op, const char* name, const Tensor& t, ScalarType wanted) {
  CLFAST_CHECK(t.scalar_type() == wanted, op, ": ", name, " must be of dtype ", name_of(wanted),
               ", got ", name_of(t.scalar_type()));
}

inline bool is_float64(const Tensor& t) { return t.scalar_type() == ScalarType::Double; }

template <class Name>
inline void check_floating(const char* op, const Name& name, const Tensor& t) {
  const ScalarType type = t.scalar_type();
  CLFAST_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                   type == ScalarType::Half || type == ScalarType::BFloat16,
               op, ": ", name, " must be float16, bfloat16, float32 or float64, got ",
               name_of(type));
}

// 16-bit and 32-bit arguments mix (all arithmetic is in float32); float64 mixes with nothing.
template <class Name, class OtherName>
inline void check_same_precision(const char* op, const Name& name, const Tensor& t,
                                 const OtherName& other_name, const Tensor& other) {
  check_floating(op, name, t);
  CLFAST_CHECK(is_float64(t) == is_float64(other), op, ": ", name, " is ", name_of(t.scalar_type()),
               " but ", other_name, " is ", name_of(other.scalar_type()),
               "; float64 does not mix with other dtypes");
}

template <class Name, class OtherName>
inline void check_same_device(const char* op, const Name& name, const Tensor& t,
                              const OtherName& other_name, const Tensor& other) {
  CLFAST_CHECK(t.device() == other.device(), op, ": ", name, " and ", other_name,
               " are on different devices");
}

// A tensor that is changed in place has every element once.
template <class Name>
inline void check_not_expanded(const char* op, const Name& name, const Tensor& t) {
  for (int64_t i = 0; i < t.dim(); ++i) {
    CLFAST_CHECK(t.size(i) <= 1 || t.stride(i) != 0, op, ": ", name,
                 " must not be expanded: an element would be changed more than once");
  }
}

// The tensor in the dtype of the arithmetic, contiguous; the very tensor when it is so already.
inline Tensor as_compute(const Tensor& t, ScalarType dtype) {
  const Tensor converted = t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
  return converted.is_contiguous() ? converted : torch::stable::contiguous(converted);
}

inline Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// A tensor on the device of another, contiguous and not initialised. torch::stable::new_empty looks
// its operator up by name in every call, which takes longer than many a kernel.
inline Tensor new_tensor(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes,
                         ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t elements = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = elements;
    elements *= std::max<int64_t>(1, sizes[i]);
  }
  int32_t type, index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &index));
  AtenTensorHandle made;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), type, index, &made));
  return Tensor(made);
}
inline Tensor new_tensor(const Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  return new_tensor(like, sizes, like.scalar_type());
}

inline ScalarType compute_dtype(const Tensor& t) {
  return is_float64(t) ? ScalarType::Double : ScalarType::Float;
}

inline ScalarKind kind_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Double:
      return ScalarKind::kFloat64;
    case ScalarType::Half:
      return ScalarKind::kFloat16;
    case ScalarType::BFloat16:
      return ScalarKind::kBFloat16;
    default:
      return ScalarKind::kFloat32;
  }
}

template <class T>
inline const T* data_or_null(const std::optional<Tensor>& t) {
  return t.has_value() ? t->const_data_ptr<T>() : nullptr;
}

template <class T>
inline bool holds_nan(const T* data, int64_t count) {
  int found = 0;
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {  // a known number at a time vectorises
    for (int j = 0; j < 16; ++j) found |= data[i + j] != data[i + j];
  }
  for (; i < count; ++i) found |= data[i] != data[i];
  return found != 0;
}

// Whether a contiguous CPU tensor of type T holds a NaN.
template <class T>
inline bool holds_nan(const Tensor& t) {
  return holds_nan(t.const_data_ptr<T>(), t.numel());
}

// Results are much smaller than inputs, and a NaN among the first comes from the second: so results
// are looked through, and inputs only to name the culprit; `otherwise` it is something else.
template <class T>
inline void raise_on_nan(
    const char* op, const Tensor& result,
    std::initializer_list<std::pair<const char*, const Tensor*>> inputs,
    const char* otherwise = "keys or another input hold NaN, or infinities that cancel") {
  if (!holds_nan<T>(result)) return;
  for (const auto& [name, tensor] : inputs) {
    CLFAST_CHECK(!holds_nan<T>(*tensor), op, ": ", name, " holds NaN");
  }
  CLFAST_CHECK(false, op, ": ", otherwise);
}

// A number as the arithmetic sees it: what float32 cannot hold becomes 0 or infinite there.
inline double as_held(double value, ScalarType dtype) {
  return dtype == ScalarType::Double ? value : static_cast<double>(static_cast<float>(value));
}

inline void check_range(const char* op, const char* name, double value, bool ok,
                        const char* wanted) {
  CLFAST_CHECK(ok, op, ": ", name, " must be ", wanted, ", got ", value);
}

// Calls f with a value of the C++ type of the arithmetic.
template <class F>
inline void dispatch_compute(ScalarType dtype, F&& f) {
  if (dtype == ScalarType::Double) {
    f(double{});
  } else {
    f(float{});
  }
}

// Results have a row a class: what is far beyond any memory is told apart from what is too small.
inline void check_num_classes(const char* op, int64_t num_classes) {
  CLFAST_CHECK(num_classes >= 1 && num_classes < int64_t{1} << 31, op,
               ": num_classes must be in [1, 2**31), got ", num_classes);
}

}  // namespace clfast::ops
