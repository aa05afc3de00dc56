#include "../adaptation.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <tuple>

#include "../../kernels/common/interpolation.h"
#include "../../kernels/cpu/cache_lines.h"
#include "../../kernels/cpu/hebb_logits.h"
#include "../../kernels/cpu/hebbian_update.h"
#include "../../kernels/cpu/mbpa_update.h"
#include "../../kernels/cpu/mixture_log_probs.h"

namespace clfast::ops {
namespace {

// Runs kernel(begin, end, scratch) over ranges of queries and raises the fault of the first query
// that has one, whatever the threads did first.
template <class T, class Kernel>
void for_queries(const char* op, const NeighbourInputs& in, int64_t num_classes,
                 int64_t scratch_size, int64_t grain, const Kernel& kernel) {
  std::mutex mutex;
  Finding first;
  torch::stable::parallel_for(0, in.batch, grain, [&](int64_t begin, int64_t end) {
    const auto scratch = cpu::new_cache_lines<T>(scratch_size);
    const Finding finding = kernel(begin, end, scratch.get());
    if (finding.fault == Fault::kNone) return;
    const std::lock_guard<std::mutex> lock(mutex);
    if (first.fault == Fault::kNone || finding.query < first.query) first = finding;
  });
  raise_on(op, first, in, num_classes);
}

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
  Tensor delta_weight = new_tensor(in.keys, {in.batch, num_classes, in.dim}, in.dtype);
  Tensor delta_bias = new_tensor(in.keys, {in.batch, num_classes}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const Neighbourhood<T> n = in.view<T>(num_classes, eps);
    T *weight_out = delta_weight.mutable_data_ptr<T>(),
      *bias_out = delta_bias.mutable_data_ptr<T>();
    const bool* mask = data_or_null<bool>(chosen);
    for_queries<T>(op, in, num_classes, in.dim + num_classes + in.neighbours, 1,
                   [&](int64_t begin, int64_t end, T* scratch) {
                     return cpu::hebbian_update(n, mask, begin, end, scratch, weight_out, bias_out);
                   });
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
  const int64_t num_classes = layer.num_classes;
  Tensor delta_weight = new_tensor(in.keys, {in.batch, num_classes, in.dim}, in.dtype);
  Tensor delta_bias = new_tensor(in.keys, {in.batch, num_classes}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const cpu::MbpaProblem<T> problem{
        in.view<T>(num_classes, eps), layer.weight.const_data_ptr<T>(),
        data_or_null<T>(layer.bias),  steps,
        static_cast<T>(lr),           rule};
    T *weight_out = delta_weight.mutable_data_ptr<T>(),
      *bias_out = delta_bias.mutable_data_ptr<T>();
    for_queries<T>(op, in, num_classes, cpu::mbpa_scratch(problem), 1,
                   [&](int64_t begin, int64_t end, T* scratch) {
                     return cpu::mbpa_update(problem, begin, end, scratch, weight_out, bias_out);
                   });
    const Tensor& shift = layer.bias.has_value() ? *layer.bias : layer.weight;
    for (const Tensor& result : {delta_weight, delta_bias}) {
      raise_on_nan<T>(op, result, {{"weight", &layer.weight}, {"bias", &shift}});
    }
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
  const HebbInputs hebb = check_hebb(op, in, queries, weight, bias, interpolation, eta, steps, lr,
                                     optimizer, eps, select, key_sq_norms, base_logits);
  const int64_t num_classes = hebb.layer.num_classes;
  Tensor out = new_tensor(in.keys, {in.batch, num_classes}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* bias_data = data_or_null<T>(hebb.layer.bias);
    const cpu::HebbLogitsProblem<T> problem{
        {in.view<T>(num_classes, eps), hebb.layer.weight.const_data_ptr<T>(), bias_data, steps,
         static_cast<T>(lr), hebb.optimizer},
        hebb.queries.const_data_ptr<T>(),
        hebb.base_logits.const_data_ptr<T>(),
        hebb.base_lacks_bias ? bias_data : nullptr,
        hebb.interpolation.const_data_ptr<T>(),
        static_cast<T>(eta),
        data_or_null<bool>(hebb.select),
        data_or_null<T>(hebb.key_sq_norms)};
    T* result = out.mutable_data_ptr<T>();
    // The Hebbian part alone takes well under a microsecond a query.
    const int64_t grain = steps > 0 ? 1 : 16;
    for_queries<T>(op, in, num_classes, cpu::hebb_logits_scratch(problem), grain,
                   [&](int64_t begin, int64_t end, T* scratch) {
                     return cpu::hebb_logits(problem, begin, end, scratch, result);
                   });
    raise_on_nan<T>(
        op, out,
        {{"queries", &hebb.queries},
         {"weight", &hebb.layer.weight},
         {"interpolation", &hebb.interpolation},
         {hebb.base_lacks_bias ? "bias" : "base_logits",
          hebb.base_lacks_bias && hebb.layer.bias ? &*hebb.layer.bias : &hebb.base_logits}});
  });
  return out;
}

Tensor interpolation_weights(const Tensor& counts, double beta, ScalarType dtype) {
  const Tensor given = check_interpolation(counts, beta, dtype);
  Tensor out = new_tensor(given, {given.size(0)}, dtype);
  const int64_t* count = given.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < given.size(0); ++i) {
    CLFAST_CHECK(count[i] >= 0, "interpolation_weights: counts[", i, "] is ", count[i],
                 "; counts must be >= 0");
  }
  dispatch_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    const double log_beta = std::log(beta);
    T* weights = out.mutable_data_ptr<T>();
    for (int64_t i = 0; i < given.size(0); ++i) {
      weights[i] = static_cast<T>(interpolation_weight(count[i], beta, log_beta));
    }
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
  Tensor out = new_tensor(in.keys, {in.batch, mix.num_classes}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const cpu::MixtureProblem<T> problem{in.view<T>(mix.num_classes, 1.0),
                                         mix.logits.const_data_ptr<T>(),
                                         mix.queries.const_data_ptr<T>(),
                                         static_cast<T>(theta),
                                         static_cast<T>(std::log(gamma)),
                                         static_cast<T>(std::log1p(-gamma)),
                                         mix.joint,
                                         data_or_null<T>(mix.key_sq_norms)};
    T* result = out.mutable_data_ptr<T>();
    for_queries<T>(op, in, mix.num_classes, in.dim + 2 * (in.neighbours + mix.num_classes), 8,
                   [&](int64_t begin, int64_t end, T* scratch) {
                     return cpu::mixture_log_probs(problem, begin, end, scratch, result);
                   });
    raise_on_nan<T>(op, out, {{"logits", &mix.logits}, {"queries", &mix.queries}});
  });
  return out;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("hebbian_update", TORCH_BOX(&clfast::ops::hebbian_update));
  m.impl("mbpa_update", TORCH_BOX(&clfast::ops::mbpa_update));
  m.impl("hebb_logits", TORCH_BOX(&clfast::ops::hebb_logits));
  m.impl("interpolation_weights", TORCH_BOX(&clfast::ops::interpolation_weights));
  m.impl("mixture_log_probs", TORCH_BOX(&clfast::ops::mixture_log_probs));
}
