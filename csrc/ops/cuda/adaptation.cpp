#include "../adaptation.h"

#include <tuple>

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/adaptation.h"

namespace clfast::ops {
namespace {

// The neighbours of every query, looked up, and a [B, K] array of scratch beside them.
template <class T>
struct LookUp {
  Tensor rows, labels, closeness, scratch;

  explicit LookUp(const NeighbourInputs& in)
      : rows(scratch_like(in.keys, in.batch * in.neighbours, ScalarType::Long)),
        labels(scratch_like(in.keys, in.batch * in.neighbours, ScalarType::Long)),
        closeness(scratch_like(in.keys, in.batch * in.neighbours, in.dtype)),
        scratch(scratch_like(in.keys, in.batch * in.neighbours, in.dtype)) {}

  T* scratch_data() const { return scratch.mutable_data_ptr<T>(); }

  cuda::Resolved<T> view() const {
    return {rows.mutable_data_ptr<int64_t>(), labels.mutable_data_ptr<int64_t>(),
            closeness.mutable_data_ptr<T>()};
  }
};

// Adapted layers of the queries in flight; nothing when there are no steps.
template <class T>
struct Layers {
  int64_t chunk;
  Tensor weight, weight_state, bias, bias_state, logits;

  Layers(const NeighbourInputs& in, int64_t num_classes, int64_t steps)
      : chunk(queries_at_a_time(in.batch, static_cast<int64_t>(sizeof(T)) * num_classes *
                                              (2 * in.dim + in.neighbours))),
        weight(take(in, steps, num_classes * in.dim)),
        weight_state(take(in, steps, num_classes * in.dim)),
        bias(take(in, steps, num_classes)),
        bias_state(take(in, steps, num_classes)),
        logits(take(in, steps, num_classes * in.neighbours)) {}

  cuda::MbpaScratch<T> view() const {
    return {chunk,
            weight.mutable_data_ptr<T>(),
            weight_state.mutable_data_ptr<T>(),
            bias.mutable_data_ptr<T>(),
            bias_state.mutable_data_ptr<T>(),
            logits.mutable_data_ptr<T>()};
  }

 private:
  Tensor take(const NeighbourInputs& in, int64_t steps, int64_t each) const {
    return scratch_like(in.keys, steps > 0 ? chunk * each : 0, in.dtype);
  }
};

std::tuple<Tensor, Tensor> hebbian_update(const Tensor& keys, const Tensor& labels,
                                          const Tensor& sq_distances, const Tensor& indices,
                                          int64_t num_classes, double eps,
                                          const std::optional<Tensor>& select,
                                          const std::optional<Tensor>& closeness) {
  const char* op = "hebbian_update";
  const NeighbourInputs in = check_neighbours(op, keys, labels, sq_distances, indices, closeness);
  check_num_classes(op, num_classes);
  check_eps(op, eps, in.dtype);
  const std::optional<Tensor> chosen = check_select(op, select, num_classes, keys);
  const DeviceStream stream(in.keys);
  Tensor delta_weight = new_tensor(in.keys, {in.batch, num_classes, in.dim}, in.dtype);
  Tensor delta_bias = new_tensor(in.keys, {in.batch, num_classes}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const LookUp<T> look_up(in);
    check_launch(op, cuda::hebbian_update<T>(in.view<T>(num_classes, eps), in.batch,
                                             data_or_null<bool>(chosen), look_up.view(),
                                             delta_weight.mutable_data_ptr<T>(),
                                             delta_bias.mutable_data_ptr<T>(), stream));
  });
  return {delta_weight, delta_bias};
}

std::tuple<Tensor, Tensor> mbpa_update(const Tensor& weight, const std::optional<Tensor>& bias,
                                       const Tensor& keys, const Tensor& labels,
                                       const Tensor& sq_distances, const Tensor& indices,
                                       int64_t steps, double lr, std::string optimizer, double eps,
                                       const std::optional<Tensor>& closeness) {
  const char* op = "mbpa_update";
  const NeighbourInputs in = check_neighbours(op, keys, labels, sq_distances, indices, closeness);
  const LayerInputs layer = check_layer(op, weight, bias, in);
  check_steps(op, steps, lr, in.dtype);
  check_eps(op, eps, in.dtype);
  const Optimizer rule = check_optimizer(op, optimizer);
  const DeviceStream stream(in.keys);
  const int64_t num_classes = layer.num_classes;
  Tensor delta_weight = new_tensor(in.keys, {in.batch, num_classes, in.dim}, in.dtype);
  Tensor delta_bias = new_tensor(in.keys, {in.batch, num_classes}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const LookUp<T> look_up(in);
    const Layers<T> layers(in, num_classes, 1);  // the result is a difference of layers: always
    check_launch(op, cuda::mbpa_update<T>(
                         {in.view<T>(num_classes, eps), in.batch, layer.weight.const_data_ptr<T>(),
                          data_or_null<T>(layer.bias), steps, static_cast<T>(lr), rule},
                         look_up.view(), layers.view(), delta_weight.mutable_data_ptr<T>(),
                         delta_bias.mutable_data_ptr<T>(), stream));
  });
  return {delta_weight, delta_bias};
}

Tensor hebb_logits(const Tensor& queries, const Tensor& weight, const std::optional<Tensor>& bias,
                   const Tensor& keys, const Tensor& labels, const Tensor& sq_distances,
                   const Tensor& indices, const Tensor& interpolation, double eta, int64_t steps,
                   double lr, std::string optimizer, double eps,
                   const std::optional<Tensor>& select, const std::optional<Tensor>& key_sq_norms,
                   const std::optional<Tensor>& base_logits,
                   const std::optional<Tensor>& closeness) {
  const char* op = "hebb_logits";
  const NeighbourInputs in = check_neighbours(op, keys, labels, sq_distances, indices, closeness);
  const DeviceStream stream(in.keys);
  const HebbInputs hebb = check_hebb(op, in, queries, weight, bias, interpolation, eta, steps, lr,
                                     optimizer, eps, select, key_sq_norms, base_logits);
  const int64_t num_classes = hebb.layer.num_classes;
  Tensor out = new_tensor(in.keys, {in.batch, num_classes}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* bias_data = data_or_null<T>(hebb.layer.bias);
    const LookUp<T> look_up(in);
    const Layers<T> layers(in, num_classes, steps);
    check_launch(op, cuda::hebb_logits<T>({{in.view<T>(num_classes, eps), in.batch,
                                            hebb.layer.weight.const_data_ptr<T>(), bias_data, steps,
                                            static_cast<T>(lr), hebb.optimizer},
                                           hebb.queries.const_data_ptr<T>(),
                                           hebb.base_logits.const_data_ptr<T>(),
                                           hebb.base_lacks_bias ? bias_data : nullptr,
                                           hebb.interpolation.const_data_ptr<T>(),
                                           static_cast<T>(eta),
                                           data_or_null<bool>(hebb.select),
                                           data_or_null<T>(hebb.key_sq_norms)},
                                          look_up.view(), layers.view(), look_up.scratch_data(),
                                          out.mutable_data_ptr<T>(), stream));
  });
  return out;
}

Tensor interpolation_weights(const Tensor& counts, double beta, ScalarType dtype) {
  const Tensor given = check_interpolation(counts, beta, dtype);
  const DeviceStream stream(given);
  Tensor out = new_tensor(given, {given.size(0)}, dtype);
  dispatch_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch("interpolation_weights",
                 cuda::interpolation_weights<T>(given.const_data_ptr<int64_t>(), given.size(0),
                                                beta, out.mutable_data_ptr<T>(), stream));
  });
  return out;
}

Tensor mixture_log_probs(const Tensor& logits, const Tensor& queries, const Tensor& keys,
                         const Tensor& labels, const Tensor& sq_distances, const Tensor& indices,
                         double theta, double gamma, std::string form,
                         const std::optional<Tensor>& key_sq_norms) {
  const char* op = "mixture_log_probs";
  const NeighbourInputs in =
      check_neighbours(op, keys, labels, sq_distances, indices, std::nullopt);
  const MixtureInputs mix =
      check_mixture(op, in, logits, queries, theta, gamma, form, key_sq_norms);
  const DeviceStream stream(in.keys);
  Tensor out = new_tensor(in.keys, {in.batch, mix.num_classes}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const LookUp<T> look_up(in);
    check_launch(
        op, cuda::mixture_log_probs<T>(
                {in.view<T>(mix.num_classes, 1.0), in.batch, mix.logits.const_data_ptr<T>(),
                 mix.queries.const_data_ptr<T>(), static_cast<T>(theta),
                 static_cast<T>(std::log(gamma)), static_cast<T>(std::log1p(-gamma)), mix.joint,
                 data_or_null<T>(mix.key_sq_norms)},
                look_up.view(), look_up.scratch_data(), out.mutable_data_ptr<T>(), stream));
  });
  return out;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) {
  m.impl("hebbian_update", TORCH_BOX(&clfast::ops::hebbian_update));
  m.impl("mbpa_update", TORCH_BOX(&clfast::ops::mbpa_update));
  m.impl("hebb_logits", TORCH_BOX(&clfast::ops::hebb_logits));
  m.impl("interpolation_weights", TORCH_BOX(&clfast::ops::interpolation_weights));
  m.impl("mixture_log_probs", TORCH_BOX(&clfast::ops::mixture_log_probs));
}
