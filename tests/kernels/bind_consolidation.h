// The problems of consolidation_problems.py as the kernels' structs.
#pragma once
#include <vector>

#include "bind_problems.h"
#include "common/gradient_lists.h"

namespace clfast::bind {

// The lists of a problem, every tensor in memory of its own.
template <class T>
class Lists {
 public:
  explicit Lists(const py::object& problem) {
    const int64_t count = extent(problem.attr("ends"), 0);
    const int64_t* ends = field<int64_t>(problem, "ends", {count});
    ends_.assign(ends, ends + count);
    const T* g = field<T>(problem, "grads", {elements()});
    const T* r = field<T>(problem, "reference", {elements()});
    for (int64_t i = 0, first = 0; i < count; first = ends[i++]) {
      grads_.push_back(copy_of(g + first, ends[i] - first));
      reference_.push_back(copy_of(r + first, ends[i] - first));
    }
    for (auto& tensor : grads_) at_.push_back(tensor.data());
    for (auto& tensor : reference_) reference_at_.push_back(tensor.data());
  }

  int64_t elements() const { return ends_.back(); }
  const std::vector<int64_t>& ends() const { return ends_; }
  GradientLists<T> view() const {
    return {at_.data(), reference_at_.data(), ends_.data(), static_cast<int64_t>(ends_.size())};
  }
  void write_grads(const py::object& out) const {
    T* to = data_of<T>(out, "out", {elements()});
    int64_t first = 0;
    for (size_t i = 0; i < at_.size(); ++i) {
      std::copy_n(at_[i], ends_[i] - first, to + first);
      first = ends_[i];
    }
  }

 private:
  static Scratch<T> copy_of(const T* from, int64_t count) {
    Scratch<T> copy(count);
    std::copy_n(from, count, copy.data());
    return copy;
  }

  std::vector<int64_t> ends_;
  std::vector<Scratch<T>> grads_, reference_;
  std::vector<T*> at_;
  std::vector<const T*> reference_at_;
};

}  // namespace clfast::bind
