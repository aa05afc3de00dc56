// What every device checks and prepares for the masks ops.
#pragma once
#include <cmath>
#include <limits>
#include <numeric>

#include "../kernels/common/soft_mask.h"
#include "tensor_lists.h"

namespace clfast::ops {

// A weight seen as [outer, channels, inner], an embedding as [channels].
struct MaskShape {
  int64_t outer, channels, inner;
  int64_t elements() const { return outer * channels * inner; }
};

// The embedding has the weight's rank, and ones around a run of the weight's dimensions.
template <class Name, class OtherName>
MaskShape check_embedding(const char* op, const Name& name, const Tensor& embedding,
                          const OtherName& weight_name, const Tensor& weight) {
  check_same_precision(op, name, embedding, weight_name, weight);
  check_same_device(op, name, embedding, weight_name, weight);
  const int64_t dim = weight.dim();
  int64_t first = 0, last = dim;
  bool fits = embedding.dim() == dim;
  if (fits) {
    const auto is_one = [&](int64_t i) { return embedding.size(i) == 1 && weight.size(i) != 1; };
    while (first < last && is_one(first)) ++first;
    while (last > first && is_one(last - 1)) --last;
    for (int64_t i = first; i < last; ++i) fits = fits && embedding.size(i) == weight.size(i);
  }
  CLFAST_CHECK(fits, op, ": ", name, " must have shape ", shape_of(weight), ", as ", weight_name,
               " has, or ones on either side of some of these dimensions, got ",
               shape_of(embedding));
  const auto product = [&](int64_t from, int64_t to) {
    int64_t elements = 1;
    for (int64_t i = from; i < to; ++i) elements *= weight.size(i);
    return elements;
  };
  return {product(0, first), product(first, last), product(last, dim)};
}

struct CheckedScales {
  double scale, max_scale;
  bool compensated;

  template <class T>
  MaskScales<T> as() const {
    return {static_cast<T>(scale), static_cast<T>(max_scale), compensated};
  }
};

inline void check_scale(const char* op, const char* name, double scale, ScalarType dtype) {
  const double held = as_held(scale, dtype);
  check_range(op, name, scale, held > 0 && std::isfinite(held), "finite and > 0");
}

inline CheckedScales check_scales(const char* op, double scale, std::optional<double> max_scale,
                                  ScalarType dtype) {
  check_scale(op, "scale", scale, dtype);
  if (max_scale.has_value()) check_scale(op, "max_scale", *max_scale, dtype);
  return {scale, max_scale.value_or(0.0), max_scale.has_value()};
}

// A weight and its embedding, or one of the layers of a call.
struct MaskLayer {
  MaskShape shape;
  Tensor weight;  // undefined where only the mask matters
  Tensor embedding;
  std::optional<Tensor> reserved;

  ReservedMask marks() const {
    return reserved.has_value() ? marks_of(*reserved) : ReservedMask{nullptr, false};
  }
};

struct MaskLayers {
  ScalarType dtype;
  std::vector<MaskLayer> layers;
};

inline MaskLayers check_masked_weight(const char* op, const Tensor& weight,
                                      const Tensor& embedding) {
  check_floating(op, "weight", weight);
  const MaskShape shape = check_embedding(op, "embedding", embedding, "weight", weight);
  const ScalarType dtype = compute_dtype(weight);
  return {dtype, {{shape, as_compute(weight, dtype), as_compute(embedding, dtype), std::nullopt}}};
}

inline MaskLayers check_sparsity(const char* op, const std::vector<Tensor>& embeddings,
                                 const std::vector<Tensor>& reserved) {
  CLFAST_CHECK(!embeddings.empty(), op, ": embeddings must hold at least one tensor");
  check_same_length(op, "reserved", reserved.size(), "embeddings", embeddings.size());
  MaskLayers in{compute_dtype(embeddings[0]), {}};
  const Entry first{"embeddings", 0};
  for (size_t i = 0; i < embeddings.size(); ++i) {
    const Tensor& e = embeddings[i];
    const Entry name{"embeddings", i};
    check_same_precision(op, name, e, first, embeddings[0]);
    check_same_device(op, name, e, first, embeddings[0]);
    check_reserved(op, {"reserved", i}, reserved[i], name, e);
    in.layers.push_back(
        {{1, e.numel(), 1}, Tensor(), as_compute(e, in.dtype), as_contiguous(reserved[i])});
  }
  return in;
}

inline MaskLayers check_masked_weights(const char* op, const std::vector<Tensor>& weights,
                                       const std::vector<Tensor>& embeddings,
                                       const std::vector<Tensor>& reserved) {
  CLFAST_CHECK(!weights.empty(), op, ": weights must hold at least one tensor");
  check_same_length(op, "embeddings", embeddings.size(), "weights", weights.size());
  MaskLayers in = check_sparsity(op, embeddings, reserved);
  for (size_t i = 0; i < weights.size(); ++i) {
    const Entry name{"weights", i};
    check_same_precision(op, name, weights[i], Entry{"embeddings", 0}, embeddings[0]);
    in.layers[i].shape =
        check_embedding(op, Entry{"embeddings", i}, embeddings[i], name, weights[i]);
    in.layers[i].weight = as_compute(weights[i], in.dtype);
  }
  return in;
}

// A gradient by what was masked, like the weight.
template <class Name, class OtherName>
Tensor check_masked_grad(const char* op, const Name& name, const Tensor& grad,
                         const OtherName& weight_name, const Tensor& weight, ScalarType dtype) {
  check_same_shape(op, name, grad, weight_name, weight);
  check_same_precision(op, name, grad, weight_name, weight);
  check_same_device(op, name, grad, weight_name, weight);
  return as_compute(grad, dtype);
}

inline void check_one_number(const char* op, const char* name, const Tensor& t,
                             const Tensor& like) {
  CLFAST_CHECK(t.numel() == 1, op, ": ", name, " must be one number, got shape ", shape_of(t));
  check_same_device(op, name, t, Entry{"weights", 0}, like);
}

struct GradientInputs {
  MaskLayers layers;
  CheckedScales scales;
  std::vector<Tensor> grads;
  Tensor sparsity_grad;
};

inline GradientInputs check_gradients(const char* op, const std::vector<Tensor>& grads,
                                      const Tensor& sparsity_grad,
                                      const std::vector<Tensor>& weights,
                                      const std::vector<Tensor>& embeddings,
                                      const std::vector<Tensor>& reserved, double scale,
                                      std::optional<double> max_scale) {
  GradientInputs in{check_masked_weights(op, weights, embeddings, reserved), {}, {}, {}};
  const ScalarType dtype = in.layers.dtype;
  in.scales = check_scales(op, scale, max_scale, dtype);
  check_same_length(op, "grads", grads.size(), "weights", weights.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    in.grads.push_back(
        check_masked_grad(op, Entry{"grads", i}, grads[i], Entry{"weights", i}, weights[i], dtype));
  }
  check_one_number(op, "sparsity_grad", sparsity_grad, weights[0]);
  in.sparsity_grad = as_compute(sparsity_grad, dtype);
  return in;
}

struct BlockInputs {
  ScalarType dtype;
  std::vector<Tensor> grads, reserved;
};

inline BlockInputs check_block(const char* op, const std::vector<Tensor>& grads,
                               const std::vector<Tensor>& reserved) {
  check_same_length(op, "reserved", reserved.size(), "grads", grads.size());
  CLFAST_CHECK(!grads.empty(), op, ": grads must hold at least one tensor");
  BlockInputs in{compute_dtype(grads[0]), grads, reserved};
  for (size_t i = 0; i < grads.size(); ++i) {
    const Entry name{"grads", i}, first{"grads", 0};
    check_same_precision(op, name, grads[i], first, grads[0]);
    check_same_device(op, name, grads[i], first, grads[0]);
    check_not_expanded(op, name, grads[i]);
    check_reserved(op, {"reserved", i}, reserved[i], name, grads[i]);
    align(in.dtype, {&in.grads[i]}, &in.reserved[i]);
  }
  return in;
}

inline double largest_number(ScalarType type) {
  switch (type) {
    case ScalarType::Half:
      return 65504.0;
    case ScalarType::BFloat16:
      return 0x1.FEp127;
    case ScalarType::Float:
      return std::numeric_limits<float>::max();
    default:
      return std::numeric_limits<double>::max();
  }
}

struct CompensateInputs {
  ScalarType dtype;
  std::vector<Tensor> grads, embeddings;
  double factor, clamp;
};

inline CompensateInputs check_compensate(const char* op, const std::vector<Tensor>& grads,
                                         const std::vector<Tensor>& embeddings, double scale,
                                         double max_scale, const std::string& mode, double clamp) {
  check_same_length(op, "embeddings", embeddings.size(), "grads", grads.size());
  CLFAST_CHECK(!grads.empty(), op, ": grads must hold at least one tensor");
  CLFAST_CHECK(mode == "analytic" || mode == "reference", op,
               ": mode must be \"analytic\" or \"reference\", got \"", mode, "\"");
  CompensateInputs in{compute_dtype(grads[0]), grads, embeddings, max_scale / scale,
                      mode == "reference" ? clamp : std::numeric_limits<double>::infinity()};
  check_scales(op, scale, max_scale, in.dtype);
  const double factor = as_held(in.factor, in.dtype);
  check_range(op, "max_scale", max_scale, factor > 0 && std::isfinite(factor),
              "such that max_scale / scale is finite and > 0");
  check_range(op, "clamp", clamp, clamp > 0 && !std::isnan(clamp), "> 0");
  for (size_t i = 0; i < grads.size(); ++i) {
    const Entry name{"grads", i}, other{"embeddings", i}, first{"grads", 0};
    check_same_precision(op, name, grads[i], first, grads[0]);
    check_same_device(op, name, grads[i], first, grads[0]);
    check_not_expanded(op, name, grads[i]);
    check_same_shape(op, other, embeddings[i], name, grads[i]);
    check_same_precision(op, other, embeddings[i], first, grads[0]);
    check_same_device(op, other, embeddings[i], first, grads[0]);
    align(in.dtype, {&in.grads[i], &in.embeddings[i]});
  }
  return in;
}

struct ReserveInputs {
  ScalarType dtype;
  std::vector<Tensor> reserved, embeddings;
};

inline ReserveInputs check_reserve(const char* op, const std::vector<Tensor>& reserved,
                                   const std::vector<Tensor>& embeddings, double scale) {
  CLFAST_CHECK(!embeddings.empty(), op, ": embeddings must hold at least one tensor");
  check_same_length(op, "reserved", reserved.size(), "embeddings", embeddings.size());
  ReserveInputs in{compute_dtype(embeddings[0]), reserved, embeddings};
  check_scale(op, "scale", scale, in.dtype);
  for (size_t i = 0; i < embeddings.size(); ++i) {
    const Entry name{"embeddings", i}, first{"embeddings", 0}, mask{"reserved", i};
    check_same_precision(op, name, embeddings[i], first, embeddings[0]);
    check_same_device(op, name, embeddings[i], first, embeddings[0]);
    check_reserved(op, mask, reserved[i], name, embeddings[i]);
    check_not_expanded(op, mask, reserved[i]);
    in.embeddings[i] = as_compute(embeddings[i], in.dtype);
    in.reserved[i] = as_contiguous(reserved[i]);
  }
  return in;
}

inline void check_bool(const char* op, const char* name, const Tensor& t) {
  check_dtype(op, name, t, ScalarType::Bool);
}

// How many elements the shape has that `packed` is to be spread over.
inline int64_t check_packed(const char* op, const Tensor& packed,
                            const std::vector<int64_t>& shape) {
  check_dim(op, "packed", packed, 1);
  CLFAST_CHECK(packed.scalar_type() == ScalarType::Byte, op, ": packed must be uint8, got ",
               name_of(packed.scalar_type()));
  int64_t elements = 1;
  for (const int64_t size : shape) {
    CLFAST_CHECK(size >= 0, op, ": shape must hold no negative size, got ", size);
    elements *= size;
  }
  CLFAST_CHECK(packed.size(0) == (elements + 7) / 8, op, ": packed must have shape [",
               (elements + 7) / 8, "] for the ", elements, " elements of shape, got ",
               shape_of(packed));
  return elements;
}

}  // namespace clfast::ops
