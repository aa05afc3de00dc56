// What every device checks and prepares for the steps of masked optimisers.
#pragma once
#include <cmath>
#include <optional>
#include <vector>

#include "../kernels/common/masked_step.h"
#include "tensor_lists.h"

namespace clfast::ops {

using Masks = std::vector<std::optional<Tensor>>;

// Lists as the kernels walk them: the tensors of an index lie alike. `state` has the lists of
// moments, none of them where the optimiser keeps none.
struct MaskedLists {
  ScalarType dtype;
  std::vector<Tensor> params, grads;
  std::vector<std::vector<Tensor>> states;
  std::vector<Tensor> masks;  // kept alive for the marks
  std::vector<ReservedMask> reserved;
  std::optional<Tensor> clip;
};

struct StateList {
  const char* name;
  std::vector<Tensor>* tensors;
};

inline void check_steppable(const char* op, const Entry& name, const Tensor& t) {
  const ScalarType type = t.scalar_type();
  CLFAST_CHECK(type == ScalarType::Float || type == ScalarType::Double, op, ": ", name,
               " must be float32 or float64, got ", name_of(type));
}

// Of the shape, dtype and device of another.
inline void check_alike(const char* op, const Entry& name, const Tensor& t, const Entry& other_name,
                        const Tensor& other) {
  check_same_device(op, name, t, other_name, other);
  check_same_shape(op, name, t, other_name, other);
  CLFAST_CHECK(t.scalar_type() == other.scalar_type(), op, ": ", name, " must be of dtype ",
               name_of(other.scalar_type()), ", as ", other_name, " is, got ",
               name_of(t.scalar_type()));
}

// `first` is the list that names dtype, device and shapes: parameters, or gradients alone.
inline void check_first(const char* op, const char* list, const std::vector<Tensor>& first,
                        const Masks& reserved) {
  CLFAST_CHECK(!first.empty(), op, ": ", list, " must hold at least one tensor");
  check_same_length(op, "reserved", reserved.size(), list, first.size());
  const Entry zeroth{list, 0};
  for (size_t i = 0; i < first.size(); ++i) {
    const Entry name{list, i};
    check_steppable(op, name, first[i]);
    check_same_precision(op, name, first[i], zeroth, first[0]);
    check_same_device(op, name, first[i], zeroth, first[0]);
    if (reserved[i].has_value()) {
      check_reserved(op, {"reserved", i}, *reserved[i], name, first[i]);
    }
  }
}

inline MaskedLists check_masked_step(const char* op, const std::vector<Tensor>& params,
                                     const std::vector<Tensor>& grads,
                                     std::initializer_list<StateList> states, const Masks& reserved,
                                     const std::optional<Tensor>& clip) {
  check_same_length(op, "grads", grads.size(), "params", params.size());
  for (const StateList& state : states) {
    check_same_length(op, state.name, state.tensors->size(), "params", params.size());
  }
  check_first(op, "params", params, reserved);
  for (size_t i = 0; i < params.size(); ++i) {
    const Entry name{"params", i};
    check_not_expanded(op, name, params[i]);
    check_alike(op, {"grads", i}, grads[i], name, params[i]);
    for (const StateList& state : states) {
      check_alike(op, {state.name, i}, (*state.tensors)[i], name, params[i]);
      check_not_expanded(op, Entry{state.name, i}, (*state.tensors)[i]);
    }
  }
  MaskedLists in{compute_dtype(params[0]), params, grads, {}, {}, {}, {}};
  if (clip.has_value()) {
    check_dim(op, "clip", *clip, 0);
    check_floating(op, "clip", *clip);
    check_same_device(op, "clip", *clip, "params[0]", params[0]);
    in.clip = as_compute(*clip, in.dtype);
  }
  for (const StateList& state : states) in.states.push_back(*state.tensors);
  for (size_t i = 0; i < params.size(); ++i) {
    std::vector<Tensor*> group{&in.params[i], &in.grads[i]};
    for (auto& state : in.states) group.push_back(&state[i]);
    in.masks.push_back(reserved[i].value_or(Tensor()));
    align(in.dtype, group, reserved[i].has_value() ? &in.masks.back() : nullptr);
    in.reserved.push_back(reserved[i].has_value() ? marks_of(in.masks.back())
                                                  : ReservedMask{nullptr, false});
  }
  return in;
}

inline void check_not_negative(const char* op, const char* name, double value) {
  check_range(op, name, value, value >= 0 && std::isfinite(value), "finite and >= 0");
}

inline void check_beta(const char* op, const char* name, double value) {
  check_range(op, name, value, value >= 0 && value < 1, "in [0, 1)");
}

struct SgdOptions {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize;

  void check(const char* op) const {
    check_not_negative(op, "lr", lr);
    check_not_negative(op, "momentum", momentum);
    check_range(op, "dampening", dampening, std::isfinite(dampening), "finite");
    check_not_negative(op, "weight_decay", weight_decay);
    CLFAST_CHECK(!nesterov || (momentum > 0 && dampening == 0), op,
                 ": nesterov must come with momentum > 0 and dampening = 0, got momentum ",
                 momentum, " and dampening ", dampening);
  }

  template <class T>
  SgdStep<T> step(const T* clip) const {
    return {clip,
            T(maximize ? -1 : 1),
            static_cast<T>(weight_decay),
            static_cast<T>(lr),
            static_cast<T>(momentum),
            static_cast<T>(1 - dampening),
            nesterov};
  }
};

struct AdamOptions {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled_weight_decay, maximize;

  void check(const char* op) const {
    check_not_negative(op, "lr", lr);
    check_beta(op, "betas[0]", beta1);
    check_beta(op, "betas[1]", beta2);
    check_not_negative(op, "eps", eps);
    check_not_negative(op, "weight_decay", weight_decay);
  }

  template <class T>
  AdamStep<T> step(const T* clip) const {
    return {clip,
            T(maximize ? -1 : 1),
            static_cast<T>(decoupled_weight_decay ? 0 : weight_decay),
            static_cast<T>(decoupled_weight_decay ? 1 - lr * weight_decay : 1),
            static_cast<T>(beta1),
            static_cast<T>(1 - beta1),
            static_cast<T>(beta2),
            static_cast<T>(1 - beta2)};
  }
};

template <class T>
inline const T* clip_of(const MaskedLists& in) {
  return data_or_null<T>(in.clip);
}

template <class T>
inline std::vector<SgdTensor<T>> sgd_tensors(const MaskedLists& in) {
  std::vector<SgdTensor<T>> tensors;
  for (size_t i = 0; i < in.params.size(); ++i) {
    tensors.push_back({in.params[i].mutable_data_ptr<T>(), in.grads[i].const_data_ptr<T>(),
                       in.states.empty() ? nullptr : in.states[0][i].mutable_data_ptr<T>(),
                       in.reserved[i]});
  }
  return tensors;
}

template <class T>
inline std::vector<AdamTensor<T>> adam_tensors(const MaskedLists& in, const AdamOptions& options,
                                               const std::vector<int64_t>& steps) {
  std::vector<AdamTensor<T>> tensors;
  for (size_t i = 0; i < in.params.size(); ++i) {
    const double count = static_cast<double>(steps[i]);
    const double first = 1 - std::pow(options.beta1, count);
    const double second = std::sqrt(1 - std::pow(options.beta2, count));
    tensors.push_back({in.params[i].mutable_data_ptr<T>(), in.grads[i].const_data_ptr<T>(),
                       in.states[0][i].mutable_data_ptr<T>(), in.states[1][i].mutable_data_ptr<T>(),
                       in.states.size() < 3 ? nullptr : in.states[2][i].mutable_data_ptr<T>(),
                       in.reserved[i], static_cast<T>(options.lr * second / first),
                       static_cast<T>(options.eps * second)});
  }
  return tensors;
}

template <class T>
inline std::vector<MaskedGrad<T>> grad_tensors(const MaskedLists& in) {
  std::vector<MaskedGrad<T>> tensors;
  for (size_t i = 0; i < in.grads.size(); ++i) {
    tensors.push_back({in.grads[i].const_data_ptr<T>(), in.reserved[i]});
  }
  return tensors;
}

// What both devices do before and after their part: sgd, adam or norm.
using Sgd = void(const char*, const MaskedLists&, const SgdOptions&);
using Adam = void(const char*, const MaskedLists&, const AdamOptions&, const std::vector<int64_t>&);
using Norm = Tensor(const char*, const MaskedLists&);

inline void write_back_step(std::vector<Tensor>& params, std::initializer_list<StateList> states,
                            const MaskedLists& in) {
  write_back(params, in.params);
  size_t at = 0;
  for (const StateList& state : states) write_back(*state.tensors, in.states[at++]);
}

template <Sgd* sgd>
void masked_sgd_step_(std::vector<Tensor> params, std::vector<Tensor> grads,
                      std::vector<Tensor> momentum_buffers, Masks reserved, double lr,
                      double momentum, double dampening, double weight_decay, bool nesterov,
                      bool maximize, const std::optional<Tensor>& clip) {
  const char* op = "masked_sgd_step_";
  const SgdOptions options{lr, momentum, dampening, weight_decay, nesterov, maximize};
  options.check(op);
  CLFAST_CHECK(momentum > 0 || momentum_buffers.empty(), op,
               ": momentum_buffers must be empty where momentum is 0, got ",
               momentum_buffers.size(), " tensors");
  const auto step = [&](std::initializer_list<StateList> states) {
    const MaskedLists in = check_masked_step(op, params, grads, states, reserved, clip);
    sgd(op, in, options);
    write_back_step(params, states, in);
  };
  if (momentum > 0) {
    step({{"momentum_buffers", &momentum_buffers}});
  } else {
    step({});
  }
}

template <Adam* adam>
void masked_adam_step_(std::vector<Tensor> params, std::vector<Tensor> grads,
                       std::vector<Tensor> exp_avgs, std::vector<Tensor> exp_avg_sqs,
                       std::vector<Tensor> max_exp_avg_sqs, Masks reserved,
                       std::vector<int64_t> steps, double lr, std::vector<double> betas, double eps,
                       double weight_decay, bool decoupled_weight_decay, bool maximize,
                       const std::optional<Tensor>& clip) {
  const char* op = "masked_adam_step_";
  CLFAST_CHECK(betas.size() == 2, op, ": betas must hold two numbers, got ", betas.size());
  const AdamOptions options{lr,      betas[0], betas[1], eps, weight_decay, decoupled_weight_decay,
                            maximize};
  options.check(op);
  CLFAST_CHECK(steps.size() == params.size(), op, ": steps must hold ", params.size(),
               " numbers, one a tensor of params, got ", steps.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    CLFAST_CHECK(steps[i] >= 1, op, ": ", Entry{"steps", i}, " must be >= 1, got ", steps[i]);
  }
  const auto step = [&](std::initializer_list<StateList> states) {
    const MaskedLists in = check_masked_step(op, params, grads, states, reserved, clip);
    adam(op, in, options, steps);
    write_back_step(params, states, in);
  };
  const StateList first{"exp_avgs", &exp_avgs}, second{"exp_avg_sqs", &exp_avg_sqs};
  if (max_exp_avg_sqs.empty()) {
    step({first, second});
  } else {
    step({first, second, {"max_exp_avg_sqs", &max_exp_avg_sqs}});
  }
}

// A 0-D float64.
template <Norm* norm>
Tensor masked_grad_norm(std::vector<Tensor> grads, Masks reserved) {
  const char* op = "masked_grad_norm";
  check_first(op, "grads", grads, reserved);
  MaskedLists in{compute_dtype(grads[0]), {}, grads, {}, {}, {}, {}};
  for (size_t i = 0; i < grads.size(); ++i) {
    in.masks.push_back(reserved[i].value_or(Tensor()));
    align(in.dtype, {&in.grads[i]}, reserved[i].has_value() ? &in.masks.back() : nullptr);
    in.reserved.push_back(reserved[i].has_value() ? marks_of(in.masks.back())
                                                  : ReservedMask{nullptr, false});
  }
  return norm(op, in);
}

}  // namespace clfast::ops
