// The problems of mask_problems.py as the kernels' arguments, every tensor in memory of its own.
#pragma once
#include <pybind11/stl.h>

#include <vector>

#include "bind_problems.h"
#include "common/reserved_mask.h"
#include "common/soft_mask.h"

namespace clfast::bind {

// Tensors that a flat array holds behind one another.
template <class T>
class Split {
 public:
  Split(const py::object& flat, const char* name, const std::vector<int64_t>& sizes) {
    int64_t total = 0;
    for (const int64_t size : sizes) total += size;
    const T* from = data_of<const T>(flat, name, {total});
    for (const int64_t size : sizes) {
      parts_.emplace_back(size);
      std::copy_n(from, size, parts_.back().data());
      from += size;
    }
    sizes_ = sizes;
  }
  explicit Split(const std::vector<int64_t>& sizes) : sizes_(sizes) {
    for (const int64_t size : sizes) parts_.emplace_back(size);
  }
  T* operator[](size_t i) { return parts_[i].data(); }
  void write(const py::object& out) {
    int64_t total = 0;
    for (const int64_t size : sizes_) total += size;
    T* to = data_of<T>(out, "out", {total});
    for (size_t i = 0; i < parts_.size(); ++i) {
      std::copy_n(parts_[i].data(), sizes_[i], to);
      to += sizes_[i];
    }
  }

 private:
  std::vector<int64_t> sizes_;
  std::vector<Scratch<T>> parts_;
};

inline std::vector<int64_t> marks_sizes(const std::vector<int64_t>& sizes, bool packed) {
  std::vector<int64_t> bytes;
  for (const int64_t size : sizes) bytes.push_back(packed ? (size + 7) / 8 : size);
  return bytes;
}

inline std::vector<int64_t> ends_of(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> ends;
  for (const int64_t size : sizes) ends.push_back((ends.empty() ? 0 : ends.back()) + size);
  return ends;
}

// Bytes of exactly that size for a kernel, and as numbers for numpy.
class Bytes {
 public:
  explicit Bytes(int64_t size) : bytes_(size), size_(size) {}
  uint8_t* data() { return bytes_.data(); }
  void write(const py::object& out) {
    std::copy_n(bytes_.data(), size_, data_of<int64_t>(out, "out", {size_}));
  }

 private:
  Scratch<uint8_t> bytes_;
  int64_t size_;
};

// mask_problems.Layers
template <class T>
struct Layers {
  explicit Layers(const py::object& problem)
      : shapes(problem.attr("shapes").cast<std::vector<std::vector<int64_t>>>()),
        channels(column(1)),
        elements(products()),
        packed(problem.attr("packed").cast<bool>()),
        weights(problem.attr("weights"), "weights", elements),
        embeddings(problem.attr("embeddings"), "embeddings", channels),
        grads(problem.attr("grads"), "grads", elements),
        marks(problem.attr("marks"), "marks", marks_sizes(channels, packed)),
        masked(elements),
        d_weights(elements),
        d_embeddings(channels) {
    const py::object max_scale = problem.attr("max_scale");
    scales = {number<T>(problem, "scale"), T(0), !max_scale.is_none()};
    if (scales.compensated) scales.max_scale = number<T>(problem, "max_scale");
  }
  ReservedMask reserved(size_t i) { return {marks[i], packed}; }

  std::vector<std::vector<int64_t>> shapes;  // outer, channels, inner
  std::vector<int64_t> channels, elements;
  bool packed;
  Split<T> weights, embeddings, grads;
  Split<uint8_t> marks;
  Split<T> masked, d_weights, d_embeddings;
  MaskScales<T> scales;

 private:
  std::vector<int64_t> column(size_t at) const {
    std::vector<int64_t> sizes;
    for (const auto& shape : shapes) sizes.push_back(shape[at]);
    return sizes;
  }
  std::vector<int64_t> products() const {
    std::vector<int64_t> sizes;
    for (const auto& shape : shapes) sizes.push_back(shape[0] * shape[1] * shape[2]);
    return sizes;
  }
};

}  // namespace clfast::bind
