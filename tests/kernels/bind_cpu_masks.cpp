// The raw CPU kernels of the masks, in parts of `step` entries.
#include "bind_cpu.h"
#include "bind_masks.h"
#include "cpu/block_gradients.h"
#include "cpu/masked_weight.h"
#include "cpu/packed_mask.h"

namespace clfast::bind {
namespace {

template <class F>
void for_parts(int64_t size, int64_t step, F&& f) {
  for (int64_t begin = 0; begin < size; begin += step) f(begin, std::min(size, begin + step));
}

void mask_layers(int level, const py::object& problem, int64_t step, const py::object& masked,
                 const py::object& value, const py::object& free, const py::object& d_weights,
                 const py::object& d_embeddings) {
  use_level(level);
  with_type_of(masked, [&](auto tag) {
    using T = decltype(tag);
    Layers<T> in(problem);
    std::vector<cpu::MaskedWeight<T>> layers;
    cpu::MaskSums sums{0, 0, 0};
    for (size_t i = 0; i < in.shapes.size(); ++i) {
      const auto& shape = in.shapes[i];
      layers.push_back(
          {in.weights[i], in.embeddings[i], in.reserved(i), shape[0], shape[1], shape[2]});
      for_parts(shape[1], step, [&](int64_t begin, int64_t end) {
        const cpu::MaskSums part =
            cpu::mask_weights(layers[i], in.scales.scale, begin, end, in.masked[i]);
        sums.used += part.used;
        sums.free += part.free;
      });
    }
    const double count = static_cast<double>(std::max<int64_t>(1, sums.free));
    const T share = static_cast<T>(problem.attr("sparsity_grad").cast<double>() / count);
    for (size_t i = 0; i < layers.size(); ++i) {
      for_parts(layers[i].channels, step, [&](int64_t begin, int64_t end) {
        cpu::mask_weights_backward(layers[i], in.scales, static_cast<const T*>(in.grads[i]), share,
                                   begin, end, in.d_weights[i], in.d_embeddings[i]);
      });
    }
    in.masked.write(masked);
    *data_of<T>(value, "value", {1}) = static_cast<T>(sums.used / count);
    *data_of<int64_t>(free, "free", {1}) = sums.free;
    in.d_weights.write(d_weights);
    in.d_embeddings.write(d_embeddings);
  });
}

void block_gradients(int level, const py::object& problem, int64_t step, const py::object& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const auto sizes = problem.attr("sizes").cast<std::vector<int64_t>>();
    const bool packed = problem.attr("packed").cast<bool>();
    Split<T> grads(problem.attr("grads"), "grads", sizes);
    Split<uint8_t> marks(problem.attr("marks"), "marks", marks_sizes(sizes, packed));
    for (size_t i = 0; i < sizes.size(); ++i) {
      for_parts(sizes[i], step, [&](int64_t begin, int64_t end) {
        cpu::block_gradients(grads[i], {marks[i], packed}, begin, end);
      });
    }
    grads.write(out);
  });
}

void compensate_gradients(int level, const py::object& problem, int64_t step,
                          const py::object& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const auto sizes = problem.attr("sizes").cast<std::vector<int64_t>>();
    Split<T> grads(problem.attr("grads"), "grads", sizes);
    Split<T> embeddings(problem.attr("embeddings"), "embeddings", sizes);
    const cpu::Compensation<T> how{number<T>(problem, "scale"), number<T>(problem, "factor"),
                                   number<T>(problem, "clamp"), number<T>(problem, "largest")};
    for (size_t i = 0; i < sizes.size(); ++i) {
      for_parts(sizes[i], step, [&](int64_t begin, int64_t end) {
        cpu::compensate_gradients(grads[i], static_cast<const T*>(embeddings[i]), how, begin, end);
      });
    }
    grads.write(out);
  });
}

// packed and unpacked: of the problem's mask; marks: with what the embeddings open.
void reserve(const py::object& problem, int64_t step, const py::object& packed,
             const py::object& unpacked, const py::object& marks, const py::object& fresh,
             const py::object& reserved_before) {
  const int64_t size = extent(problem.attr("mask"), 0), bytes = (size + 7) / 8;
  const uint8_t* mask = field<uint8_t>(problem, "mask", {size});
  Bytes bits(bytes), again(size);
  int64_t count = 0, before = 0;
  for_parts(size, step, [&](int64_t begin, int64_t end) {
    cpu::pack_mask(mask, begin, end, bits.data());
    cpu::unpack_mask(bits.data(), begin, end, again.data());
  });
  const bool in_bits = problem.attr("packed").cast<bool>();
  const int64_t held = in_bits ? bytes : size;
  Bytes joined(held);
  uint8_t* to = joined.data();
  std::copy_n(in_bits ? bits.data() : mask, held, to);
  for_parts(size, step, [&](int64_t begin, int64_t end) {
    before += cpu::count_reserved({to, in_bits}, begin, end);
  });
  with_type_of(problem.attr("embedding"), [&](auto tag) {
    using T = decltype(tag);
    const T* embedding = field<T>(problem, "embedding", {size});
    for_parts(size, step, [&](int64_t begin, int64_t end) {
      count += cpu::reserve<T>(to, in_bits, embedding, begin, end);
    });
  });
  bits.write(packed);
  again.write(unpacked);
  joined.write(marks);
  *data_of<int64_t>(fresh, "fresh", {1}) = count;
  *data_of<int64_t>(reserved_before, "reserved_before", {1}) = before;
}

}  // namespace

void bind_cpu_masks(py::module_& m) {
  m.def("mask_layers", &mask_layers);
  m.def("block_gradients", &block_gradients);
  m.def("compensate_gradients", &compensate_gradients);
  m.def("reserve", &reserve);
}

}  // namespace clfast::bind
