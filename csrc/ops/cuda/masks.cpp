#include "../masks.h"

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/masks.h"

namespace clfast::ops {
namespace {

// Entries of a kernel's table, and where each one ends in the row of all of them.
template <class Entry>
struct Entries {
  std::vector<Entry> of;
  std::vector<int64_t> ends;

  void add(const Entry& entry, int64_t elements) {
    of.push_back(entry);
    ends.push_back((ends.empty() ? 0 : ends.back()) + elements);
  }
  int64_t count() const { return static_cast<int64_t>(of.size()); }
};

// masked: results, or empty. value, free: may be null.
template <class T>
void mask_layers(const char* op, const MaskLayers& in, double scale,
                 const std::vector<Tensor>& masked, T* value, int64_t* free, cudaStream_t stream) {
  Entries<cuda::MaskedEntry<T>> layers;
  for (size_t i = 0; i < in.layers.size(); ++i) {
    const MaskLayer& layer = in.layers[i];
    const MaskShape& shape = layer.shape;
    const bool whole = !masked.empty() && shape.elements() > 0;
    layers.add({whole ? layer.weight.const_data_ptr<T>() : nullptr,
                layer.embedding.const_data_ptr<T>(), layer.marks(), shape.channels,
                whole ? shape.inner : 1, whole ? masked[i].mutable_data_ptr<T>() : nullptr},
               whole ? shape.elements() : shape.channels);
  }
  const Tensor parts = scratch_like(in.layers[0].embedding,
                                    2 * cuda::parts_of_masks<T>(layers.ends.data(), layers.count()),
                                    ScalarType::Double);
  check_launch(op, cuda::mask_weights<T>(
                       layers.of.data(), layers.ends.data(), layers.count(), static_cast<T>(scale),
                       static_cast<cuda::PartOfSparsity*>(parts.data_ptr()), value, free, stream));
}

// grads, d_weights: empty where there are none. sparsity_grad: null for 1.
template <class T>
void mask_layers_backward(const char* op, const MaskLayers& in, const CheckedScales& scales,
                          const std::vector<Tensor>& grads, const T* sparsity_grad,
                          const int64_t* free, std::vector<Tensor>& d_weights,
                          std::vector<Tensor>& d_embeddings, cudaStream_t stream) {
  Entries<cuda::MaskedGradEntry<T>> whole, spread;
  for (size_t i = 0; i < in.layers.size(); ++i) {
    const MaskLayer& layer = in.layers[i];
    const MaskShape& shape = layer.shape;
    const bool one_each = grads.empty() || (shape.outer == 1 && shape.inner == 1);
    (one_each ? whole : spread)
        .add({grads.empty() ? nullptr : layer.weight.const_data_ptr<T>(),
              layer.embedding.const_data_ptr<T>(),
              grads.empty() ? nullptr : grads[i].const_data_ptr<T>(), layer.marks(), shape.outer,
              shape.channels, shape.inner,
              grads.empty() ? nullptr : d_weights[i].mutable_data_ptr<T>(),
              d_embeddings[i].mutable_data_ptr<T>()},
             shape.channels);
  }
  for (const auto* layers : {&whole, &spread}) {
    check_launch(op, cuda::mask_weights_backward<T>(layers->of.data(), layers->ends.data(),
                                                    layers->count(), layers == &spread,
                                                    scales.as<T>(), sparsity_grad, free, stream));
  }
}

Tensor masked_weight(const Tensor& weight, const Tensor& embedding, double scale,
                     std::optional<double> max_scale) {
  const char* op = "masked_weight";
  const MaskLayers in = check_masked_weight(op, weight, embedding);
  check_scales(op, scale, max_scale, in.dtype);
  const DeviceStream stream(weight);
  Tensor masked = new_tensor(weight, weight.sizes(), in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    mask_layers<T>(op, in, scale, {masked}, nullptr, nullptr, stream);
  });
  return masked;
}

std::tuple<Tensor, Tensor> masked_weight_backward(const Tensor& grad, const Tensor& weight,
                                                  const Tensor& embedding, double scale,
                                                  std::optional<double> max_scale) {
  const char* op = "masked_weight_backward";
  const MaskLayers in = check_masked_weight(op, weight, embedding);
  const CheckedScales scales = check_scales(op, scale, max_scale, in.dtype);
  const Tensor g = check_masked_grad(op, "grad", grad, "weight", weight, in.dtype);
  const DeviceStream stream(weight);
  std::vector<Tensor> d_weight = like({weight}, in.dtype),
                      d_embedding = like({embedding}, in.dtype);
  // No sparsity, whose gradient is 0.
  Tensor zero = torch::stable::new_zeros(weight, {1}, in.dtype);
  Tensor free = torch::stable::new_zeros(weight, {1}, ScalarType::Long);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    mask_layers_backward<T>(op, in, scales, {g}, zero.const_data_ptr<T>(),
                            free.const_data_ptr<int64_t>(), d_weight, d_embedding, stream);
  });
  return {d_weight[0], d_embedding[0]};
}

std::tuple<Tensor, std::vector<Tensor>> mask_sparsity(std::vector<Tensor> embeddings,
                                                      std::vector<Tensor> reserved, double scale,
                                                      std::optional<double> max_scale,
                                                      bool with_gradient) {
  const char* op = "mask_sparsity";
  const MaskLayers in = check_sparsity(op, embeddings, reserved);
  const CheckedScales scales = check_scales(op, scale, max_scale, in.dtype);
  const DeviceStream stream(embeddings[0]);
  Tensor value = new_tensor(embeddings[0], {}, in.dtype);
  Tensor free = scratch_like(embeddings[0], 1, ScalarType::Long);
  std::vector<Tensor> gradients, none;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    int64_t* count = free.mutable_data_ptr<int64_t>();
    mask_layers<T>(op, in, scale, {}, value.mutable_data_ptr<T>(), count, stream);
    if (!with_gradient) return;
    gradients = like(embeddings, in.dtype);
    mask_layers_backward<T>(op, in, scales, {}, nullptr, count, none, gradients, stream);
  });
  return {value, gradients};
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> masked_weights(std::vector<Tensor> weights,
                                                               std::vector<Tensor> embeddings,
                                                               std::vector<Tensor> reserved,
                                                               double scale,
                                                               std::optional<double> max_scale) {
  const char* op = "masked_weights";
  const MaskLayers in = check_masked_weights(op, weights, embeddings, reserved);
  check_scales(op, scale, max_scale, in.dtype);
  const DeviceStream stream(weights[0]);
  const std::vector<Tensor> masked = like(weights, in.dtype);
  Tensor value = new_tensor(weights[0], {}, in.dtype);
  Tensor free = new_tensor(weights[0], {}, ScalarType::Long);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    mask_layers<T>(op, in, scale, masked, value.mutable_data_ptr<T>(),
                   free.mutable_data_ptr<int64_t>(), stream);
  });
  return {masked, value, free};
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> masked_weights_gradients(
    std::vector<Tensor> grads, const Tensor& sparsity_grad, std::vector<Tensor> weights,
    std::vector<Tensor> embeddings, std::vector<Tensor> reserved, std::optional<Tensor> free,
    double scale, std::optional<double> max_scale) {
  const char* op = "masked_weights_gradients";
  const GradientInputs in =
      check_gradients(op, grads, sparsity_grad, weights, embeddings, reserved, scale, max_scale);
  const DeviceStream stream(weights[0]);
  const ScalarType dtype = in.layers.dtype;
  Tensor count = free.has_value() ? *free : scratch_like(weights[0], 1, ScalarType::Long);
  std::vector<Tensor> d_weights = like(weights, dtype), d_embeddings = like(embeddings, dtype);
  dispatch_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    if (!free.has_value()) {
      mask_layers<T>(op, in.layers, scale, {}, nullptr, count.mutable_data_ptr<int64_t>(), stream);
    }
    mask_layers_backward<T>(op, in.layers, in.scales, in.grads,
                            in.sparsity_grad.template const_data_ptr<T>(),
                            count.const_data_ptr<int64_t>(), d_weights, d_embeddings, stream);
  });
  return {d_weights, d_embeddings};
}

void block_gradients_(std::vector<Tensor> grads, std::vector<Tensor> reserved) {
  const char* op = "block_gradients_";
  const BlockInputs in = check_block(op, grads, reserved);
  const DeviceStream stream(grads[0]);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    Entries<cuda::BlockedEntry<T>> entries;
    for (size_t i = 0; i < grads.size(); ++i) {
      entries.add({in.grads[i].mutable_data_ptr<T>(), marks_of(in.reserved[i])}, grads[i].numel());
    }
    check_launch(op, cuda::block_gradients<T>(entries.of.data(), entries.ends.data(),
                                              entries.count(), stream));
  });
  write_back(grads, in.grads);
}

void compensate_embedding_gradients_(std::vector<Tensor> grads, std::vector<Tensor> embeddings,
                                     double scale, double max_scale, std::string mode,
                                     double clamp) {
  const char* op = "compensate_embedding_gradients_";
  const CompensateInputs in =
      check_compensate(op, grads, embeddings, scale, max_scale, mode, clamp);
  const DeviceStream stream(grads[0]);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    Entries<cuda::CompensatedEntry<T>> entries;
    for (size_t i = 0; i < grads.size(); ++i) {
      entries.add({in.grads[i].mutable_data_ptr<T>(), in.embeddings[i].const_data_ptr<T>(),
                   static_cast<T>(largest_number(grads[i].scalar_type()))},
                  grads[i].numel());
    }
    check_launch(
        op, cuda::compensate_gradients<T>(entries.of.data(), entries.ends.data(), entries.count(),
                                          static_cast<T>(scale), static_cast<T>(in.factor),
                                          static_cast<T>(in.clamp), stream));
  });
  write_back(grads, in.grads);
}

Tensor reserve_(std::vector<Tensor> reserved, std::vector<Tensor> embeddings, double scale) {
  const char* op = "reserve_";
  const ReserveInputs in = check_reserve(op, reserved, embeddings, scale);
  const DeviceStream stream(embeddings[0]);
  Tensor counts =
      new_tensor(embeddings[0], {static_cast<int64_t>(embeddings.size())}, ScalarType::Long);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    for (size_t i = 0; i < embeddings.size(); ++i) {
      const Tensor& mask = in.reserved[i];
      check_launch(op,
                   cuda::reserve<T>(static_cast<uint8_t*>(mask.data_ptr()),
                                    mask.scalar_type() == ScalarType::Byte,
                                    in.embeddings[i].const_data_ptr<T>(), in.embeddings[i].numel(),
                                    counts.mutable_data_ptr<int64_t>() + i, stream));
    }
  });
  write_back(reserved, in.reserved);
  return counts;
}

Tensor pack_mask(const Tensor& mask) {
  check_bool("pack_mask", "mask", mask);
  const Tensor bytes = as_contiguous(mask);
  const DeviceStream stream(mask);
  Tensor packed = new_tensor(mask, {(mask.numel() + 7) / 8}, ScalarType::Byte);
  check_launch("pack_mask", cuda::pack_mask(marks_of(bytes).marks, mask.numel(),
                                            packed.mutable_data_ptr<uint8_t>(), stream));
  return packed;
}

Tensor unpack_mask(const Tensor& packed, std::vector<int64_t> shape) {
  const int64_t elements = check_packed("unpack_mask", packed, shape);
  const Tensor bits = as_contiguous(packed);
  const DeviceStream stream(packed);
  Tensor mask = new_tensor(packed, shape, ScalarType::Bool);
  check_launch("unpack_mask", cuda::unpack_mask(bits.const_data_ptr<uint8_t>(), elements,
                                                static_cast<uint8_t*>(mask.data_ptr()), stream));
  return mask;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) {
  m.impl("masked_weight", TORCH_BOX(&clfast::ops::masked_weight));
  m.impl("masked_weight_backward", TORCH_BOX(&clfast::ops::masked_weight_backward));
  m.impl("mask_sparsity", TORCH_BOX(&clfast::ops::mask_sparsity));
  m.impl("masked_weights", TORCH_BOX(&clfast::ops::masked_weights));
  m.impl("masked_weights_gradients", TORCH_BOX(&clfast::ops::masked_weights_gradients));
  m.impl("block_gradients_", TORCH_BOX(&clfast::ops::block_gradients_));
  m.impl("compensate_embedding_gradients_",
         TORCH_BOX(&clfast::ops::compensate_embedding_gradients_));
  m.impl("reserve_", TORCH_BOX(&clfast::ops::reserve_));
  m.impl("pack_mask", TORCH_BOX(&clfast::ops::pack_mask));
  m.impl("unpack_mask", TORCH_BOX(&clfast::ops::unpack_mask));
}
