// The problems of optimizer_problems.py as the kernels' structs.
#pragma once
#include <vector>

#include "bind_problems.h"
#include "common/masked_step.h"

namespace clfast::bind {

// The tensors of a problem, every list of every tensor in memory of its own.
template <class T>
class MaskedTensors {
 public:
  explicit MaskedTensors(const py::object& problem) : problem_(problem) {
    tensors_ = extent(problem.attr("ends"), 0);
    const int64_t* ends = field<int64_t>(problem, "ends", {tensors_});
    ends_.assign(ends, ends + tensors_);
    const int64_t* layouts = field<int64_t>(problem, "layouts", {tensors_});
    const bool* reserved = field<bool>(problem, "reserved", {elements()});
    for (int64_t i = 0; i < tensors_; ++i) {
      masks_.push_back(mask_of(reserved + begin(i), ends_[i] - begin(i), layouts[i]));
      marks_.push_back({layouts[i] == kNone ? nullptr : masks_.back().data(), layouts[i] == kBits});
    }
    if (!problem.attr("clip").is_none()) clip_ = {number<T>(problem, "clip")};
  }

  // A list of the problem, row by row; empty where it has none.
  std::vector<T*> list(const char* name) {
    if (problem_.attr(name).is_none()) return std::vector<T*>(tensors_, nullptr);
    const T* from = field<T>(problem_, name, {elements()});
    std::vector<T*> at;
    for (int64_t i = 0; i < tensors_; ++i) {
      lists_.emplace_back(ends_[i] - begin(i));
      std::copy_n(from + begin(i), ends_[i] - begin(i), lists_.back().data());
      at.push_back(lists_.back().data());
    }
    return at;
  }

  void write(const std::vector<T*>& list, const py::object& out) const {
    T* to = data_of<T>(out, "out", {elements()});
    for (int64_t i = 0; i < tensors_; ++i) std::copy_n(list[i], ends_[i] - begin(i), to + begin(i));
  }

  std::vector<SgdTensor<T>> sgd(const std::vector<T*>& params, const std::vector<T*>& buffers) {
    const std::vector<T*> grads = list("grads");
    std::vector<SgdTensor<T>> tensors;
    for (int64_t i = 0; i < tensors_; ++i) {
      tensors.push_back({params[i], grads[i], buffers[i], marks_[i]});
    }
    return tensors;
  }
  SgdStep<T> sgd_step() const {
    return {clip(),
            number<T>(problem_, "sign"),
            number<T>(problem_, "weight_decay"),
            number<T>(problem_, "lr"),
            number<T>(problem_, "momentum"),
            number<T>(problem_, "gain"),
            problem_.attr("nesterov").cast<bool>()};
  }

  std::vector<AdamTensor<T>> adam(const std::vector<T*>& params, const std::vector<T*>& first,
                                  const std::vector<T*>& second, const std::vector<T*>& largest) {
    const std::vector<T*> grads = list("grads");
    const T* rates = field<T>(problem_, "rates", {tensors_});
    const T* eps = field<T>(problem_, "eps", {tensors_});
    std::vector<AdamTensor<T>> tensors;
    for (int64_t i = 0; i < tensors_; ++i) {
      tensors.push_back(
          {params[i], grads[i], first[i], second[i], largest[i], marks_[i], rates[i], eps[i]});
    }
    return tensors;
  }
  AdamStep<T> adam_step() const {
    const double beta1 = problem_.attr("beta1").cast<double>();
    const double beta2 = problem_.attr("beta2").cast<double>();
    return {clip(),
            number<T>(problem_, "sign"),
            number<T>(problem_, "weight_decay"),
            number<T>(problem_, "keep"),
            static_cast<T>(beta1),
            static_cast<T>(1 - beta1),
            static_cast<T>(beta2),
            static_cast<T>(1 - beta2)};
  }

  std::vector<MaskedGrad<T>> grads() {
    const std::vector<T*> grads = list("grads");
    std::vector<MaskedGrad<T>> tensors;
    for (int64_t i = 0; i < tensors_; ++i) tensors.push_back({grads[i], marks_[i]});
    return tensors;
  }

  int64_t tensors() const { return tensors_; }
  int64_t elements() const { return ends_.back(); }
  int64_t begin(int64_t i) const { return i > 0 ? ends_[i - 1] : 0; }
  const std::vector<int64_t>& ends() const { return ends_; }

 private:
  static constexpr int64_t kNone = 0, kBits = 2;  // 1: bytes

  static Scratch<uint8_t> mask_of(const bool* reserved, int64_t count, int64_t layout) {
    Scratch<uint8_t> mask(layout == kNone ? 0 : layout == kBits ? (count + 7) / 8 : count, 0);
    for (int64_t i = 0; i < count && layout != kNone; ++i) {
      if (layout == kBits) {
        mask.data()[i / 8] |= static_cast<uint8_t>(reserved[i] << (i % 8));
      } else {
        mask.data()[i] = reserved[i];
      }
    }
    return mask;
  }
  const T* clip() const { return clip_.empty() ? nullptr : clip_.data(); }

  py::object problem_;
  int64_t tensors_;
  std::vector<int64_t> ends_;
  std::vector<Scratch<uint8_t>> masks_;
  std::vector<ReservedMask> marks_;
  std::vector<Scratch<T>> lists_;
  std::vector<T> clip_;
};

}  // namespace clfast::bind
