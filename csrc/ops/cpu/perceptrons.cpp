// Perceptrons on a batch of few samples, several of them at once, and the gradient by the batch.
// For the CPU alone: of many samples torch's products are as fast, and elsewhere there is nothing
// that has been measured.
#include <tuple>

#include "../../kernels/cpu/perceptron.h"
#include "../tensor_lists.h"

namespace clfast::ops {
namespace {

constexpr int64_t kProductsOfAThread = 1 << 16;

// Layer l of network k is number k L + l of L layers. All in the dtype of the arithmetic.
struct Perceptrons {
  ScalarType dtype;
  int64_t networks, layers;
  std::vector<Tensor> weights;  // [outputs, inputs]
  std::vector<std::optional<Tensor>> biases;
  std::vector<int64_t> sizes;  // of the samples and behind each layer

  int64_t inputs() const { return sizes.front(); }
  int64_t classes() const { return sizes.back(); }

  template <class T>
  std::vector<cpu::PerceptronLayer<T>> of() const {
    std::vector<cpu::PerceptronLayer<T>> made;
    for (size_t i = 0; i < weights.size(); ++i) {
      const int64_t l = static_cast<int64_t>(i) % layers;
      made.push_back({weights[i].const_data_ptr<T>(),
                      biases.empty() ? nullptr : data_or_null<T>(biases[i]), sizes[l],
                      sizes[l + 1]});
    }
    return made;
  }
};

Perceptrons check_weights(const char* op, const std::vector<Tensor>& weights, int64_t networks) {
  const int64_t count = static_cast<int64_t>(weights.size());
  CLFAST_CHECK(networks >= 1 && count >= networks && count % networks == 0, op,
               ": weights must hold as many tensors for each of ", networks, " networks, got ",
               count);
  Perceptrons in{compute_dtype(weights[0]), networks, count / networks, {}, {}, {}};
  const Alike alike(weights[0]);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t l = i % in.layers;
    const Entry name{"weights", static_cast<size_t>(i)};
    check_dim(op, "every tensor of weights", weights[i], 2);
    alike.check(op, name, weights[i], "weights[0]");
    if (i == 0) in.sizes.push_back(weights[0].size(1));
    if (i < in.layers) in.sizes.push_back(weights[i].size(0));
    CLFAST_CHECK(weights[i].size(0) == in.sizes[l + 1] && weights[i].size(1) == in.sizes[l], op,
                 ": ", name, " must have shape [",
                 i < in.layers ? "." : std::to_string(in.sizes[l + 1]), ", ", in.sizes[l],
                 "], behind the layer before it and as in the other networks, got ",
                 shape_of(weights[i]));
    in.weights.push_back(as_compute(weights[i], in.dtype));
  }
  return in;
}

void add_biases(const char* op, const std::vector<std::optional<Tensor>>& biases, Perceptrons& in) {
  check_same_length(op, "biases", biases.size(), "weights", in.weights.size());
  const Alike alike(in.weights[0]);
  for (size_t i = 0; i < biases.size(); ++i) {
    in.biases.emplace_back();
    if (!biases[i].has_value()) continue;
    const Entry name{"biases", i};
    const int64_t outputs = in.sizes[static_cast<int64_t>(i) % in.layers + 1];
    CLFAST_CHECK(biases[i]->dim() == 1 && biases[i]->size(0) == outputs, op, ": ", name,
                 " must have shape [", outputs, "], got ", shape_of(*biases[i]));
    alike.check(op, name, *biases[i], "weights[0]");
    in.biases[i] = as_compute(*biases[i], in.dtype);
  }
}

Tensor check_like_weights(const char* op, const char* name, const Tensor& t,
                          const Perceptrons& in) {
  Alike(in.weights[0]).check(op, name, t, "weights[0]");
  return as_compute(t, in.dtype);
}

// work(network, begin, end) for `size` things of each network, `unit` at a time, each of which
// takes so many products.
template <class Work>
void for_networks(int64_t networks, int64_t size, int64_t unit, int64_t products,
                  const Work& work) {
  const int64_t units = (size + unit - 1) / unit;
  const int64_t grain = 1 + kProductsOfAThread / (std::min(unit, size) * products + 1);
  torch::stable::parallel_for(0, networks * units, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % units * unit;
      work(i / units, begin, std::min(size, begin + unit));
    }
  });
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> perceptron_logits(
    const Tensor& x, const std::vector<Tensor>& weights,
    const std::vector<std::optional<Tensor>>& biases, int64_t networks) {
  const char* op = "perceptron_logits";
  Perceptrons in = check_weights(op, weights, networks);
  add_biases(op, biases, in);
  check_dim(op, "x", x, 2);
  const int64_t samples = x.size(0);
  check_shape(op, "x", x, {samples, in.inputs()});
  const Tensor rows = check_like_weights(op, "x", x, in);
  std::vector<Tensor> logits, hidden;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<cpu::PerceptronLayer<T>> layers = in.of<T>();
    std::vector<const T*> from(networks, rows.const_data_ptr<T>());
    for (int64_t l = 0; l < in.layers; ++l) {
      const int64_t inputs = in.sizes[l], outputs = in.sizes[l + 1];
      const bool last = l + 1 == in.layers;
      std::vector<T*> to;
      if (!last) hidden.push_back(new_tensor(rows, {networks, samples, outputs}));
      for (int64_t k = 0; k < networks; ++k) {
        if (last) logits.push_back(new_tensor(rows, {samples, outputs}));
        to.push_back(last ? logits[k].mutable_data_ptr<T>()
                          : hidden[l].mutable_data_ptr<T>() + k * samples * outputs);
      }
      for_networks(networks, outputs, cpu::kPerceptronOutputs, inputs * samples,
                   [&](int64_t k, int64_t begin, int64_t end) {
                     cpu::perceptron_forward(layers[k * in.layers + l], from[k], samples, !last,
                                             begin, end, to[k]);
                   });
      from.assign(to.begin(), to.end());
    }
  });
  return {logits, hidden};
}

Tensor perceptron_gradient(const std::vector<Tensor>& grads, const std::vector<Tensor>& weights,
                           const std::vector<Tensor>& hidden) {
  const char* op = "perceptron_gradient";
  const int64_t networks = static_cast<int64_t>(grads.size());
  const Perceptrons in = check_weights(op, weights, networks);
  check_dim(op, "every tensor of grads", grads[0], 2);
  const int64_t samples = grads[0].size(0);
  std::vector<Tensor> by_logits;
  for (const Tensor& grad : grads) {
    check_shape(op, "every tensor of grads", grad, {samples, in.classes()});
    by_logits.push_back(check_like_weights(op, "a tensor of grads", grad, in));
  }
  CLFAST_CHECK(static_cast<int64_t>(hidden.size()) + 1 == in.layers, op, ": hidden must hold ",
               in.layers - 1, " tensors, one behind each layer but the last, got ", hidden.size());
  std::vector<Tensor> units;
  for (int64_t l = 0; l + 1 < in.layers; ++l) {
    check_shape(op, "a tensor of hidden", hidden[l], {networks, samples, in.sizes[l + 1]});
    check_dtype(op, "a tensor of hidden", hidden[l], in.dtype);
    check_same_device(op, "a tensor of hidden", hidden[l], "weights[0]", weights[0]);
    units.push_back(as_contiguous(hidden[l]));
  }
  Tensor slopes;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<cpu::PerceptronLayer<T>> layers = in.of<T>();
    for (int64_t l = in.layers - 1; l >= 0; --l) {
      const int64_t inputs = in.sizes[l], outputs = in.sizes[l + 1];
      // The gradient by the samples is the sum over the networks.
      const int64_t apart = l > 0 ? networks : 1, summed = networks / apart;
      Tensor found = l > 0 ? new_tensor(by_logits[0], {networks, samples, inputs})
                           : new_tensor(by_logits[0], {samples, inputs});
      std::vector<const T*> given;
      for (int64_t k = 0; k < networks; ++k) {
        given.push_back(l + 1 < in.layers ? slopes.const_data_ptr<T>() + k * samples * outputs
                                          : by_logits[k].const_data_ptr<T>());
      }
      const T* on = l > 0 ? units[l - 1].const_data_ptr<T>() : nullptr;
      T* out = found.mutable_data_ptr<T>();
      for_networks(apart, inputs, cpu::kPerceptronInputs, summed * outputs * samples,
                   [&](int64_t first, int64_t begin, int64_t end) {
                     std::vector<T> scratch((end - begin) % 16 == 0 ? 0 : 16 * outputs);
                     for (int64_t k = first; k < first + summed; ++k) {
                       cpu::perceptron_backward(layers[k * in.layers + l], given[k], samples,
                                                on == nullptr ? nullptr : on + k * samples * inputs,
                                                k > first, begin, end, scratch.data(),
                                                out + first * samples * inputs);
                     }
                   });
      slopes = found;
    }
  });
  return slopes;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("perceptron_logits", TORCH_BOX(&clfast::ops::perceptron_logits));
  m.impl("perceptron_gradient", TORCH_BOX(&clfast::ops::perceptron_gradient));
}
