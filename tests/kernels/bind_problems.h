// The problems of kernel_problems.py as the kernels' structs. A kernel gets numpy's own memory or
// an exception: nothing is converted and nothing is copied.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>

#include "common/neighbourhood.h"
#include "common/optimizer_step.h"

namespace clfast::bind {

namespace py = pybind11;
using Shape = std::initializer_list<int64_t>;

#ifdef CLFAST_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// The elements of a C-ordered array of exactly this dtype and shape; not const: a writable one.
template <class T>
T* data_of(const py::object& object, const std::string& name, Shape shape) {
  using Array = py::array_t<std::remove_const_t<T>, py::array::c_style>;
  if (!py::isinstance<Array>(object)) {
    throw py::type_error(name + " must be a C-ordered array of " +
                         std::string(py::str(py::dtype::of<std::remove_const_t<T>>())));
  }
  Array array = py::reinterpret_borrow<Array>(object);
  if (!std::equal(shape.begin(), shape.end(), array.shape(), array.shape() + array.ndim())) {
    throw py::value_error(name + " has the wrong shape");
  }
  if constexpr (std::is_const_v<T>) {
    return array.data();
  } else {
    return array.mutable_data();
  }
}

// Rows of any element type; uint16 holds the bits of bfloat16.
inline Rows rows_of(const py::object& object, const std::string& name) {
  const py::array array = object.cast<py::array>();
  const std::map<std::string, ScalarKind> kinds = {{"float32", ScalarKind::kFloat32},
                                                   {"float64", ScalarKind::kFloat64},
                                                   {"float16", ScalarKind::kFloat16},
                                                   {"uint16", ScalarKind::kBFloat16}};
  const auto kind = kinds.find(py::str(array.dtype()));
  if (kind == kinds.end() || array.ndim() != 2 || !(array.flags() & py::array::c_style)) {
    throw py::type_error(name + " must be a C-ordered matrix of a floating type");
  }
  return {array.data(), kind->second};
}

inline int64_t extent(const py::object& object, int axis) {
  return object.cast<py::array>().shape(axis);
}

// Calls f with a value of the C++ type that `object`, an array, holds.
template <class F>
auto with_type_of(const py::object& object, F&& f) {
  return py::isinstance<py::array_t<double>>(object) ? f(double{}) : f(float{});
}

// Exactly as many elements as a kernel may use, on the heap, where the address sanitizer sees the
// end. By default all bits are set: a number that is read before it was written is NaN.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count, int byte = 0xff) : data_(new T[static_cast<size_t>(count)]) {
    std::memset(data_.get(), byte, static_cast<size_t>(count) * sizeof(T));
  }
  T* data() { return data_.get(); }

 private:
  std::unique_ptr<T[]> data_;
};

// ---- Fields of a problem, which owns its arrays ----

template <class T>
const T* field(const py::object& problem, const char* name, Shape shape) {
  return data_of<const T>(problem.attr(name), name, shape);
}

template <class T>
const T* field_or_null(const py::object& problem, const char* name, Shape shape) {
  return problem.attr(name).is_none() ? nullptr : field<T>(problem, name, shape);
}

template <class T>
T number(const py::object& problem, const char* name) {
  return static_cast<T>(problem.attr(name).cast<double>());
}

inline int64_t batch_of(const py::object& problem) { return extent(problem.attr("indices"), 0); }

template <class T>
Neighbourhood<T> neighbourhood_of(const py::object& problem) {
  const py::object keys = problem.attr("keys"), indices = problem.attr("indices");
  const int64_t rows = extent(keys, 0), batch = extent(indices, 0), k = extent(indices, 1);
  return {rows_of(keys, "keys"),
          field<int64_t>(problem, "labels", {rows}),
          field<T>(problem, "sq_distances", {batch, k}),
          field<int64_t>(problem, "indices", {batch, k}),
          rows,
          extent(keys, 1),
          k,
          problem.attr("num_classes").cast<int64_t>(),
          number<T>(problem, "eps"),
          field_or_null<T>(problem, "closeness", {batch, k})};
}

inline Optimizer optimizer_of(const py::object& problem) {
  const std::map<std::string, Optimizer> optimizers = {{"rmsprop", Optimizer::kRmsprop},
                                                       {"rmsprop_tf", Optimizer::kRmspropTf},
                                                       {"sgd", Optimizer::kSgd}};
  return optimizers.at(problem.attr("optimizer").cast<std::string>());
}

}  // namespace clfast::bind
