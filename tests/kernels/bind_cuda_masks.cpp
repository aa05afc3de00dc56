// The launchers of the masks in the SIMT emulator.
#include "bind_cuda.h"
#include "bind_masks.h"
#include "cuda/masks.h"

namespace clfast::bind {
namespace {

int64_t count_of(const std::vector<int64_t>& of) { return static_cast<int64_t>(of.size()); }

void mask_layers(const py::object& problem, const py::object& masked, const py::object& value,
                 const py::object& free, const py::object& d_weights,
                 const py::object& d_embeddings) {
  with_type_of(masked, [&](auto tag) {
    using T = decltype(tag);
    Layers<T> in(problem);
    std::vector<cuda::MaskedEntry<T>> layers;
    std::vector<cuda::MaskedGradEntry<T>> whole, spread;
    std::vector<int64_t> whole_sizes, spread_sizes, sizes;
    for (size_t i = 0; i < in.shapes.size(); ++i) {
      const int64_t outer = in.shapes[i][0], channels = in.shapes[i][1], inner = in.shapes[i][2];
      const bool any = in.elements[i] > 0;
      layers.push_back({any ? in.weights[i] : nullptr, in.embeddings[i], in.reserved(i), channels,
                        any ? inner : 1, any ? in.masked[i] : nullptr});
      sizes.push_back(any ? in.elements[i] : channels);
      const bool one_each = outer == 1 && inner == 1;
      (one_each ? whole : spread)
          .push_back({in.weights[i], in.embeddings[i], in.grads[i], in.reserved(i), outer, channels,
                      inner, in.d_weights[i], in.d_embeddings[i]});
      (one_each ? whole_sizes : spread_sizes).push_back(channels);
    }
    const std::vector<int64_t> ends = ends_of(sizes);
    Scratch<cuda::PartOfSparsity> parts(cuda::parts_of_masks<T>(ends.data(), count_of(ends)));
    int64_t* total = data_of<int64_t>(free, "free", {1});
    check_launch(cuda::mask_weights<T>(layers.data(), ends.data(), count_of(ends), in.scales.scale,
                                       parts.data(), data_of<T>(value, "value", {1}), total,
                                       nullptr));
    const T slope = number<T>(problem, "sparsity_grad");
    for (const bool spreads : {false, true}) {
      const auto& of = spreads ? spread : whole;
      const std::vector<int64_t> stops = ends_of(spreads ? spread_sizes : whole_sizes);
      check_launch(cuda::mask_weights_backward<T>(of.data(), stops.data(), count_of(stops), spreads,
                                                  in.scales, &slope, total, nullptr));
    }
    in.masked.write(masked);
    in.d_weights.write(d_weights);
    in.d_embeddings.write(d_embeddings);
  });
}

void block_gradients(const py::object& problem, const py::object& out) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const auto sizes = problem.attr("sizes").cast<std::vector<int64_t>>();
    const std::vector<int64_t> ends = ends_of(sizes);
    const bool packed = problem.attr("packed").cast<bool>();
    Split<T> grads(problem.attr("grads"), "grads", sizes);
    Split<uint8_t> marks(problem.attr("marks"), "marks", marks_sizes(sizes, packed));
    std::vector<cuda::BlockedEntry<T>> entries;
    for (size_t i = 0; i < sizes.size(); ++i) entries.push_back({grads[i], {marks[i], packed}});
    check_launch(cuda::block_gradients<T>(entries.data(), ends.data(), count_of(ends), nullptr));
    grads.write(out);
  });
}

void compensate_gradients(const py::object& problem, const py::object& out) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const auto sizes = problem.attr("sizes").cast<std::vector<int64_t>>();
    const std::vector<int64_t> ends = ends_of(sizes);
    Split<T> grads(problem.attr("grads"), "grads", sizes);
    Split<T> embeddings(problem.attr("embeddings"), "embeddings", sizes);
    const T largest = number<T>(problem, "largest");
    std::vector<cuda::CompensatedEntry<T>> entries;
    for (size_t i = 0; i < sizes.size(); ++i) entries.push_back({grads[i], embeddings[i], largest});
    check_launch(cuda::compensate_gradients<T>(
        entries.data(), ends.data(), count_of(ends), number<T>(problem, "scale"),
        number<T>(problem, "factor"), number<T>(problem, "clamp"), nullptr));
    grads.write(out);
  });
}

// packed and unpacked: of the problem's mask; marks: with what the embedding opens.
void reserve(const py::object& problem, const py::object& packed, const py::object& unpacked,
             const py::object& marks, const py::object& fresh) {
  const int64_t size = extent(problem.attr("mask"), 0), bytes = (size + 7) / 8;
  const uint8_t* mask = field<uint8_t>(problem, "mask", {size});
  Bytes bits(bytes), again(size);
  check_launch(cuda::pack_mask(mask, size, bits.data(), nullptr));
  check_launch(cuda::unpack_mask(bits.data(), size, again.data(), nullptr));
  const bool in_bits = problem.attr("packed").cast<bool>();
  const int64_t held = in_bits ? bytes : size;
  Bytes joined(held);
  std::copy_n(in_bits ? bits.data() : mask, held, joined.data());
  with_type_of(problem.attr("embedding"), [&](auto tag) {
    using T = decltype(tag);
    check_launch(cuda::reserve<T>(joined.data(), in_bits, field<T>(problem, "embedding", {size}),
                                  size, data_of<int64_t>(fresh, "fresh", {1}), nullptr));
  });
  bits.write(packed);
  again.write(unpacked);
  joined.write(marks);
}

}  // namespace

void bind_cuda_masks(py::module_& m) {
  m.def("mask_layers", &mask_layers);
  m.def("block_gradients", &block_gradients);
  m.def("compensate_gradients", &compensate_gradients);
  m.def("reserve", &reserve);
}

}  // namespace clfast::bind
