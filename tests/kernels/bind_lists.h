// Lists of tensors, which a problem has behind one another: `ends[i]` is where tensor i ends.
#pragma once
#include <vector>

#include "bind_problems.h"

namespace clfast::bind {

// Every tensor of every list is in memory of its own.
template <class T>
class TensorLists {
 public:
  explicit TensorLists(const py::object& problem) : problem_(problem) {
    const int64_t count = extent(problem.attr("ends"), 0);
    const int64_t* ends = field<int64_t>(problem, "ends", {count});
    ends_.assign(ends, ends + count);
  }

  // A list of the problem; null for each tensor where it has none.
  std::vector<T*> list(const char* name) {
    if (problem_.attr(name).is_none()) return std::vector<T*>(tensors(), nullptr);
    const T* from = field<T>(problem_, name, {elements()});
    std::vector<T*> at = room();
    for (int64_t i = 0; i < tensors(); ++i) std::copy_n(from + begin(i), size(i), at[i]);
    return at;
  }

  // A list that nothing was written to.
  std::vector<T*> room() {
    std::vector<T*> at;
    for (int64_t i = 0; i < tensors(); ++i) {
      memory_.emplace_back(size(i));
      at.push_back(memory_.back().data());
    }
    return at;
  }

  void write(const std::vector<T*>& list, const py::object& out) const {
    T* to = data_of<T>(out, "out", {elements()});
    for (int64_t i = 0; i < tensors(); ++i) std::copy_n(list[i], size(i), to + begin(i));
  }

  // f(tensor, begin, end), `part` elements at a time.
  template <class F>
  void for_parts(int64_t part, const F& f) const {
    for (int64_t i = 0; i < tensors(); ++i) {
      for (int64_t first = 0; first < size(i); first += part) {
        f(i, first, std::min(size(i), first + part));
      }
    }
  }

  int64_t tensors() const { return static_cast<int64_t>(ends_.size()); }
  int64_t elements() const { return ends_.back(); }
  int64_t begin(int64_t i) const { return i > 0 ? ends_[i - 1] : 0; }
  int64_t size(int64_t i) const { return ends_[i] - begin(i); }
  const std::vector<int64_t>& ends() const { return ends_; }

 private:
  py::object problem_;
  std::vector<int64_t> ends_;
  std::vector<Scratch<T>> memory_;
};

}  // namespace clfast::bind
