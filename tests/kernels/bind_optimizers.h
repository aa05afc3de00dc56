// The problems of optimizer_problems.py as the kernels' structs.
#pragma once
#include <vector>

#include "bind_lists.h"
#include "common/masked_step.h"

namespace clfast::bind {

template <class T>
class MaskedTensors : public TensorLists<T> {
 public:
  explicit MaskedTensors(const py::object& problem) : TensorLists<T>(problem), problem_(problem) {
    const int64_t* layouts = field<int64_t>(problem, "layouts", {this->tensors()});
    const bool* reserved = field<bool>(problem, "reserved", {this->elements()});
    for (int64_t i = 0; i < this->tensors(); ++i) {
      masks_.push_back(mask_of(reserved + this->begin(i), this->size(i), layouts[i]));
      marks_.push_back({layouts[i] == kNone ? nullptr : masks_.back().data(), layouts[i] == kBits});
    }
    if (!problem.attr("clip").is_none()) clip_ = {number<T>(problem, "clip")};
  }

  std::vector<SgdTensor<T>> sgd(const std::vector<T*>& params, const std::vector<T*>& buffers) {
    const std::vector<T*> grads = this->list("grads");
    std::vector<SgdTensor<T>> tensors;
    for (int64_t i = 0; i < this->tensors(); ++i) {
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
    const std::vector<T*> grads = this->list("grads");
    const T* rates = field<T>(problem_, "rates", {this->tensors()});
    const T* eps = field<T>(problem_, "eps", {this->tensors()});
    std::vector<AdamTensor<T>> tensors;
    for (int64_t i = 0; i < this->tensors(); ++i) {
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
    const std::vector<T*> grads = this->list("grads");
    std::vector<MaskedGrad<T>> tensors;
    for (int64_t i = 0; i < this->tensors(); ++i) tensors.push_back({grads[i], marks_[i]});
    return tensors;
  }

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
  std::vector<Scratch<uint8_t>> masks_;
  std::vector<ReservedMask> marks_;
  std::vector<T> clip_;
};

}  // namespace clfast::bind
