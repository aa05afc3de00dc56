// The raw CPU kernels of perceptrons: a layer forward and back, in `pieces` ranges.
#include "bind_cpu.h"
#include "cpu/perceptron.h"

namespace clfast::bind {
namespace {

// out = W x + b; gradient = grad W where a unit of `hidden` is on, and the same everywhere added to
// it.
void perceptron_layer(int level, const py::object& problem, int64_t pieces, const py::object& out,
                      const py::object& gradient) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t samples = extent(out, 0), outputs = extent(out, 1), inputs = extent(gradient, 1);
    const cpu::PerceptronLayer<T> layer{field<T>(problem, "weight", {outputs, inputs}),
                                        field_or_null<T>(problem, "bias", {outputs}), inputs,
                                        outputs};
    const auto in_pieces = [&](int64_t all, const auto& work) {
      for (int64_t i = pieces - 1; i >= 0; --i) work(i * all / pieces, (i + 1) * all / pieces);
    };
    const T* x = field<T>(problem, "x", {samples, inputs});
    const T* hidden = field<T>(problem, "hidden", {samples, inputs});
    T* found = data_of<T>(out, "out", {samples, outputs});
    const bool rectified = problem.attr("rectified").cast<bool>();
    in_pieces(outputs, [&](int64_t begin, int64_t end) {
      cpu::perceptron_forward(layer, x, samples, rectified, begin, end, found);
    });
    const T* grad = field<T>(problem, "grad", {samples, outputs});
    T* of_x = data_of<T>(gradient, "gradient", {samples, inputs});
    for (const bool adds : {false, true}) {
      in_pieces(inputs, [&](int64_t begin, int64_t end) {
        Scratch<T> scratch((end - begin) % 16 == 0 ? 0 : 16 * outputs);
        cpu::perceptron_backward(layer, grad, samples, adds ? nullptr : hidden, adds, begin, end,
                                 scratch.data(), of_x);
      });
    }
  });
}

}  // namespace

void bind_cpu_perceptron(py::module_& m) { m.def("perceptron_layer", &perceptron_layer); }

}  // namespace clfast::bind
