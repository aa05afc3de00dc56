#include "../masks.h"

#include "../../kernels/cpu/block_gradients.h"
#include "../../kernels/cpu/masked_weight.h"
#include "../../kernels/cpu/packed_mask.h"
#include "list_parts.h"

namespace clfast::ops {
namespace {

std::vector<Part> parts_of_layers(const MaskLayers& in) {
  std::vector<Part> parts;
  for (size_t i = 0; i < in.layers.size(); ++i) {
    const MaskShape& shape = in.layers[i].shape;
    cut(parts, i, shape.channels, shape.outer * shape.inner);
  }
  return parts;
}

template <class T>
std::vector<cpu::MaskedWeight<T>> pointers_of(const MaskLayers& in) {
  std::vector<cpu::MaskedWeight<T>> pointers;
  for (const MaskLayer& layer : in.layers) {
    pointers.push_back({layer.weight.defined() ? layer.weight.const_data_ptr<T>() : nullptr,
                        layer.embedding.const_data_ptr<T>(), layer.marks(), layer.shape.outer,
                        layer.shape.channels, layer.shape.inner});
  }
  return pointers;
}

// Masks all layers; masked: pointers to the results, or empty. Name: of embedding i in messages.
template <class T, class Name>
cpu::MaskSums mask_layers(const char* op, const MaskLayers& in, double scale,
                          const std::vector<T*>& masked, const Name& name) {
  const std::vector<cpu::MaskedWeight<T>> layers = pointers_of<T>(in);
  const std::vector<Part> parts = parts_of_layers(in);
  std::vector<cpu::MaskSums> sums(parts.size());
  for_parts(parts, [&](int64_t i, const Part& part) {
    sums[i] = cpu::mask_weights(layers[part.tensor], static_cast<T>(scale), part.begin, part.end,
                                masked.empty() ? nullptr : masked[part.tensor]);
  });
  cpu::MaskSums total{0, 0, 0};
  for (size_t i = 0; i < parts.size(); ++i) {
    CLFAST_CHECK(!std::isnan(sums[i].whole), op, ": ", name(parts[i].tensor), " holds NaN");
    total.used += sums[i].used;
    total.free += sums[i].free;
  }
  return total;
}

// share: the gradient by one free entry of the masks. grads, d_weights: empty where there are none.
template <class T>
void mask_layers_backward(const MaskLayers& in, const CheckedScales& scales,
                          const std::vector<Tensor>& grads, double share,
                          std::vector<Tensor>& d_weights, std::vector<Tensor>& d_embeddings) {
  const std::vector<cpu::MaskedWeight<T>> layers = pointers_of<T>(in);
  std::vector<const T*> from;
  std::vector<T*> weights, embeddings;
  for (const Tensor& g : grads) from.push_back(g.const_data_ptr<T>());
  for (const Tensor& d : d_weights) weights.push_back(d.mutable_data_ptr<T>());
  for (const Tensor& d : d_embeddings) embeddings.push_back(d.mutable_data_ptr<T>());
  for_parts(parts_of_layers(in), [&](int64_t, const Part& part) {
    const size_t i = part.tensor;
    cpu::mask_weights_backward(layers[i], scales.as<T>(), from.empty() ? nullptr : from[i],
                               static_cast<T>(share), part.begin, part.end,
                               weights.empty() ? nullptr : weights[i], embeddings[i]);
  });
}

Tensor scalar_like(const Tensor& t, double value, ScalarType dtype) {
  Tensor out = new_tensor(t, {}, dtype);
  dispatch_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    *out.mutable_data_ptr<T>() = static_cast<T>(value);
  });
  return out;
}

Tensor masked_weight(const Tensor& weight, const Tensor& embedding, double scale,
                     std::optional<double> max_scale) {
  const char* op = "masked_weight";
  const MaskLayers in = check_masked_weight(op, weight, embedding);
  check_scales(op, scale, max_scale, in.dtype);
  Tensor masked = new_tensor(weight, weight.sizes(), in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    mask_layers<T>(op, in, scale, {masked.mutable_data_ptr<T>()},
                   [](size_t) { return "embedding"; });
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
  std::vector<Tensor> d_weight = like({weight}, in.dtype),
                      d_embedding = like({embedding}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    mask_layers_backward<decltype(tag)>(in, scales, {g}, 0, d_weight, d_embedding);
  });
  return {d_weight[0], d_embedding[0]};
}

double ratio(double used, int64_t free) {
  return used / static_cast<double>(std::max<int64_t>(1, free));
}

const auto kEmbeddings = [](size_t i) { return Entry{"embeddings", i}; };

std::tuple<Tensor, std::vector<Tensor>> mask_sparsity(std::vector<Tensor> embeddings,
                                                      std::vector<Tensor> reserved, double scale,
                                                      std::optional<double> max_scale,
                                                      bool with_gradient) {
  const char* op = "mask_sparsity";
  const MaskLayers in = check_sparsity(op, embeddings, reserved);
  const CheckedScales scales = check_scales(op, scale, max_scale, in.dtype);
  std::vector<Tensor> gradients, none;
  double value = 0;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const cpu::MaskSums sums = mask_layers<T>(op, in, scale, {}, kEmbeddings);
    value = ratio(sums.used, sums.free);
    if (!with_gradient) return;
    gradients = like(embeddings, in.dtype);
    mask_layers_backward<T>(in, scales, {}, ratio(1, sums.free), none, gradients);
  });
  return {scalar_like(embeddings[0], value, in.dtype), gradients};
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> masked_weights(std::vector<Tensor> weights,
                                                               std::vector<Tensor> embeddings,
                                                               std::vector<Tensor> reserved,
                                                               double scale,
                                                               std::optional<double> max_scale) {
  const char* op = "masked_weights";
  const MaskLayers in = check_masked_weights(op, weights, embeddings, reserved);
  check_scales(op, scale, max_scale, in.dtype);
  const std::vector<Tensor> masked = like(weights, in.dtype);
  Tensor free = new_tensor(weights[0], {}, ScalarType::Long);
  double value = 0;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    std::vector<T*> results;
    for (const Tensor& m : masked) results.push_back(m.mutable_data_ptr<T>());
    const cpu::MaskSums sums = mask_layers<T>(op, in, scale, results, kEmbeddings);
    value = ratio(sums.used, sums.free);
    *free.mutable_data_ptr<int64_t>() = sums.free;
  });
  return {masked, scalar_like(weights[0], value, in.dtype), free};
}

int64_t count_free(const MaskLayers& in) {
  const std::vector<Part> parts = parts_of_layers(in);
  std::vector<int64_t> reserved(parts.size());
  for_parts(parts, [&](int64_t i, const Part& part) {
    reserved[i] = cpu::count_reserved(in.layers[part.tensor].marks(), part.begin, part.end);
  });
  int64_t free = -std::accumulate(reserved.begin(), reserved.end(), int64_t{0});
  for (const MaskLayer& layer : in.layers) free += layer.shape.channels;
  return free;
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> masked_weights_gradients(
    std::vector<Tensor> grads, const Tensor& sparsity_grad, std::vector<Tensor> weights,
    std::vector<Tensor> embeddings, std::vector<Tensor> reserved, std::optional<Tensor> free,
    double scale, std::optional<double> max_scale) {
  const char* op = "masked_weights_gradients";
  const GradientInputs in =
      check_gradients(op, grads, sparsity_grad, weights, embeddings, reserved, scale, max_scale);
  const ScalarType dtype = in.layers.dtype;
  const int64_t unreserved =
      free.has_value() ? *free->const_data_ptr<int64_t>() : count_free(in.layers);
  std::vector<Tensor> d_weights = like(weights, dtype), d_embeddings = like(embeddings, dtype);
  dispatch_compute(dtype, [&](auto tag) {
    using T = decltype(tag);
    const double slope = *in.sparsity_grad.template const_data_ptr<T>();
    mask_layers_backward<T>(in.layers, in.scales, in.grads, ratio(slope, unreserved), d_weights,
                            d_embeddings);
  });
  return {d_weights, d_embeddings};
}

void block_gradients_(std::vector<Tensor> grads, std::vector<Tensor> reserved) {
  const BlockInputs in = check_block("block_gradients_", grads, reserved);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    std::vector<T*> pointers;
    std::vector<ReservedMask> marks;
    for (size_t i = 0; i < grads.size(); ++i) {
      pointers.push_back(in.grads[i].mutable_data_ptr<T>());
      marks.push_back(marks_of(in.reserved[i]));
    }
    for_parts(parts_of(in.grads), [&](int64_t, const Part& part) {
      cpu::block_gradients(pointers[part.tensor], marks[part.tensor], part.begin, part.end);
    });
  });
  write_back(grads, in.grads);
}

void compensate_embedding_gradients_(std::vector<Tensor> grads, std::vector<Tensor> embeddings,
                                     double scale, double max_scale, std::string mode,
                                     double clamp) {
  const char* op = "compensate_embedding_gradients_";
  const CompensateInputs in =
      check_compensate(op, grads, embeddings, scale, max_scale, mode, clamp);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    std::vector<cpu::Compensation<T>> compensations;
    std::vector<T*> pointers;
    std::vector<const T*> from;
    check_no_nan<T>(op, "embeddings", in.embeddings);
    for (size_t i = 0; i < grads.size(); ++i) {
      pointers.push_back(in.grads[i].mutable_data_ptr<T>());
      from.push_back(in.embeddings[i].const_data_ptr<T>());
      compensations.push_back({static_cast<T>(scale), static_cast<T>(in.factor),
                               static_cast<T>(in.clamp),
                               static_cast<T>(largest_number(grads[i].scalar_type()))});
    }
    for_parts(parts_of(in.grads), [&](int64_t, const Part& part) {
      cpu::compensate_gradients(pointers[part.tensor], from[part.tensor],
                                compensations[part.tensor], part.begin, part.end);
    });
  });
  write_back(grads, in.grads);
}

Tensor reserve_(std::vector<Tensor> reserved, std::vector<Tensor> embeddings, double scale) {
  const char* op = "reserve_";
  const ReserveInputs in = check_reserve(op, reserved, embeddings, scale);
  Tensor counts =
      new_tensor(embeddings[0], {static_cast<int64_t>(embeddings.size())}, ScalarType::Long);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_no_nan<T>(op, "embeddings", in.embeddings);
    std::vector<uint8_t*> marks;
    std::vector<const T*> from;
    for (size_t i = 0; i < embeddings.size(); ++i) {
      marks.push_back(static_cast<uint8_t*>(in.reserved[i].data_ptr()));
      from.push_back(in.embeddings[i].const_data_ptr<T>());
    }
    const std::vector<Part> parts = parts_of(in.embeddings);
    std::vector<int64_t> fresh(parts.size());
    for_parts(parts, [&](int64_t i, const Part& part) {
      const bool packed = in.reserved[part.tensor].scalar_type() == ScalarType::Byte;
      fresh[i] = cpu::reserve(marks[part.tensor], packed, from[part.tensor], part.begin, part.end);
    });
    int64_t* sums = counts.mutable_data_ptr<int64_t>();
    std::fill_n(sums, embeddings.size(), 0);
    for (size_t i = 0; i < parts.size(); ++i) sums[parts[i].tensor] += fresh[i];
  });
  write_back(reserved, in.reserved);
  return counts;
}

Tensor pack_mask(const Tensor& mask) {
  check_bool("pack_mask", "mask", mask);
  const Tensor bytes = as_contiguous(mask);
  Tensor packed = new_tensor(mask, {(mask.numel() + 7) / 8}, ScalarType::Byte);
  const uint8_t* from = marks_of(bytes).marks;
  uint8_t* to = packed.mutable_data_ptr<uint8_t>();
  for_parts(parts_of({mask}),
            [&](int64_t, const Part& part) { cpu::pack_mask(from, part.begin, part.end, to); });
  return packed;
}

Tensor unpack_mask(const Tensor& packed, std::vector<int64_t> shape) {
  check_packed("unpack_mask", packed, shape);
  const Tensor bits = as_contiguous(packed);
  Tensor mask = new_tensor(packed, shape, ScalarType::Bool);
  const uint8_t* from = bits.const_data_ptr<uint8_t>();
  uint8_t* to = static_cast<uint8_t*>(mask.data_ptr());
  for_parts(parts_of({mask}),
            [&](int64_t, const Part& part) { cpu::unpack_mask(from, part.begin, part.end, to); });
  return mask;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
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
