// The raw CPU kernels of exemplars on whole problems, in `pieces` ranges.
#include "bind_cpu.h"
#include "cpu/herding_picks.h"
#include "cpu/softmax_descent_steps.h"

namespace clfast::bind {
namespace {

// ---- herding ----

// Whether the features could be scored; one class, whose members are `members`.
bool herding(int level, const py::object& features, const py::object& members, int64_t m,
             int64_t pieces, const py::object& picks) {
  use_level(level);
  const int64_t rows = extent(features, 0), dim = extent(features, 1);
  const int64_t count = extent(members, 0), chunks = cpu::herding_chunks(count);
  const int64_t padded = cpu::padded_members(count);
  return with_type_of(features, [&](auto tag) {
    using T = decltype(tag);
    Scratch<double> sums(chunks * dim), best(chunks), sq_norms(count), exact(count);
    Scratch<double> origin(dim), mean(dim), target(dim);
    Scratch<float> packed(padded * cpu::column_pairs(dim)), rounded(cpu::target_pairs(dim));
    Scratch<float> lengths(padded), squares(padded), scores(padded);
    Scratch<int64_t> nearest(count);
    const auto in_pieces = [&](int64_t all, const auto& work) {
      for (int64_t i = pieces - 1; i >= 0; --i) work(i * all / pieces, (i + 1) * all / pieces);
    };
    return cpu::herding_picks<T>({data_of<const T>(features, "features", {rows, dim}),
                                  data_of<const int64_t>(members, "members", {count}), count, dim},
                                 m,
                                 {{packed.data(), lengths.data(), squares.data()},
                                  sq_norms.data(),
                                  scores.data(),
                                  nearest.data(),
                                  exact.data(),
                                  sums.data(),
                                  best.data(),
                                  origin.data(),
                                  mean.data(),
                                  target.data(),
                                  rounded.data()},
                                 in_pieces, data_of<int64_t>(picks, "picks", {m}));
  });
}

// ---- softmax_descent ----

// Forward, and back from the problem's gradients.
void softmax_descent(int level, const py::object& problem, int64_t pieces, const py::object& weight,
                     const py::object& bias, const py::object& predictions,
                     const py::object& of_features, const py::object& of_weight,
                     const py::object& of_bias) {
  use_level(level);
  with_type_of(weight, [&](auto tag) {
    using T = decltype(tag);
    const int64_t n = extent(of_features, 0), dim = extent(weight, 1), classes = extent(weight, 0);
    const int64_t steps = extent(predictions, 0), biases = extent(bias, 0);
    const cpu::DescentProblem<T> p{{field<int64_t>(problem, "labels", {n}), n, classes,
                                    -number<T>(problem, "lr") / static_cast<T>(n)},
                                   field<T>(problem, "features", {n, dim}),
                                   field<T>(problem, "weight", {classes, dim}),
                                   field_or_null<T>(problem, "bias", {classes}),
                                   dim,
                                   steps};
    const auto in_pieces = [&](int64_t count, int64_t, const auto& work) {
      for (int64_t i = pieces - 1; i >= 0; --i) work(i * count / pieces, (i + 1) * count / pieces);
    };
    const auto or_null = [&](const py::object& given) {
      return biases > 0 ? data_of<T>(given, "bias", {classes}) : nullptr;
    };
    T* kept = data_of<T>(predictions, "predictions", {steps, classes, n});
    cpu::Descent(p, in_pieces)
        .forward(kept, data_of<T>(weight, "weight", {classes, dim}), or_null(bias));
    cpu::Descent(p, in_pieces)
        .backward(kept, field<T>(problem, "weight_grad", {classes, dim}),
                  field_or_null<T>(problem, "bias_grad", {classes}),
                  data_of<T>(of_features, "features", {n, dim}),
                  data_of<T>(of_weight, "weight", {classes, dim}), or_null(of_bias));
  });
}

}  // namespace

void bind_cpu_exemplars(py::module_& m) {
  m.def("herding", &herding);
  m.def("softmax_descent", &softmax_descent);
}

}  // namespace clfast::bind
