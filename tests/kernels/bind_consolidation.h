// The problems of consolidation_problems.py as the kernels' structs.
#pragma once
#include <vector>

#include "bind_lists.h"
#include "common/gradient_lists.h"
#include "common/path_integral.h"
#include "common/quadratic_penalty.h"

namespace clfast::bind {

template <class T>
class Lists : public TensorLists<T> {
 public:
  explicit Lists(const py::object& problem)
      : TensorLists<T>(problem), grads_(this->list("grads")), reference_(this->list("reference")) {}

  GradientLists<T> view() const {
    return {grads_.data(), reference_.data(), this->ends().data(), this->tensors()};
  }
  void write_grads(const py::object& out) const { this->write(grads_, out); }

 private:
  std::vector<T*> grads_, reference_;
};

template <class T>
class PenaltyTensors : public TensorLists<T> {
 public:
  using TensorLists<T>::TensorLists;

  // grads: of the penalty, what they are added to, or null for each tensor.
  std::vector<PenaltyTensor<T>> with(const std::vector<T*>& grads) {
    const std::vector<T*> params = this->list("params"), anchors = this->list("anchors");
    const std::vector<T*> importances = this->list("importances");
    std::vector<PenaltyTensor<T>> tensors;
    for (int64_t i = 0; i < this->tensors(); ++i) {
      tensors.push_back({grads[i], params[i], anchors[i], importances[i]});
    }
    return tensors;
  }
  std::vector<PenaltyTensor<T>> without() {
    return with(std::vector<T*>(this->tensors(), nullptr));
  }
};

template <class T>
class PathTensors : public TensorLists<T> {
 public:
  using TensorLists<T>::TensorLists;

  std::vector<PathTensor<T>> of(const std::vector<T*>& omegas) {
    const std::vector<T*> grads = this->list("grads"), after = this->list("after");
    const std::vector<T*> before = this->list("before");
    std::vector<PathTensor<T>> tensors;
    for (int64_t i = 0; i < this->tensors(); ++i) {
      tensors.push_back({omegas[i], grads[i], after[i], before[i]});
    }
    return tensors;
  }
};

}  // namespace clfast::bind
