// The launchers of exemplars in the SIMT emulator.
#include "bind_cuda.h"
#include "cuda/exemplars.h"
#include "cuda/softmax_descent.h"

namespace clfast::bind {
namespace {

// ---- herding ----

void herding(const py::object& problem, const py::object& picks, const py::object& sizes) {
  const py::object features = problem.attr("features");
  const int64_t samples = extent(features, 0), dim = extent(features, 1);
  with_type_of(features, [&](auto tag) {
    using T = decltype(tag);
    Scratch<double> means(2 * dim * cuda::herding_blocks(samples, dim)), sq_norms(samples),
        scores(samples);
    check_launch(cuda::herding<T>({field<T>(problem, "features", {samples, dim}),
                                   field<int64_t>(problem, "sorted", {samples}),
                                   field<int64_t>(problem, "members", {samples}), samples, dim,
                                   problem.attr("m").cast<int64_t>()},
                                  {means.data(), sq_norms.data(), scores.data()},
                                  data_of<int64_t>(picks, "picks", {samples}),
                                  data_of<int64_t>(sizes, "sizes", {samples}), nullptr));
  });
}

// ---- softmax_descent ----

void softmax_descent(const py::object& problem, const py::object& weight, const py::object& bias,
                     const py::object& predictions, const py::object& of_features,
                     const py::object& of_weight, const py::object& of_bias) {
  with_type_of(weight, [&](auto tag) {
    using T = decltype(tag);
    const int64_t n = extent(of_features, 0), dim = extent(weight, 1), classes = extent(weight, 0);
    const int64_t steps = extent(predictions, 0), biases = extent(bias, 0);
    const cuda::DescentProblem<T> p{field<T>(problem, "features", {n, dim}),
                                    field<int64_t>(problem, "labels", {n}),
                                    field<T>(problem, "weight", {classes, dim}),
                                    field_or_null<T>(problem, "bias", {classes}),
                                    n,
                                    dim,
                                    classes,
                                    steps,
                                    number<T>(problem, "lr")};
    const auto or_null = [&](const py::object& given) {
      return biases > 0 ? data_of<T>(given, "bias", {classes}) : nullptr;
    };
    Scratch<T> down(cuda::descent_scratch(p)), up(cuda::ascent_scratch(p));
    T* kept = data_of<T>(predictions, "predictions", {steps, classes, n});
    check_launch(cuda::descend(p, down.data(), kept, data_of<T>(weight, "weight", {classes, dim}),
                               or_null(bias), nullptr));
    check_launch(cuda::ascend(p, kept, field<T>(problem, "weight_grad", {classes, dim}),
                              field_or_null<T>(problem, "bias_grad", {classes}), up.data(),
                              data_of<T>(of_features, "features", {n, dim}),
                              data_of<T>(of_weight, "weight", {classes, dim}), or_null(of_bias),
                              nullptr));
  });
}

}  // namespace

void bind_cuda_exemplars(py::module_& m) {
  m.def("herding", &herding);
  m.def("softmax_descent", &softmax_descent);
}

}  // namespace clfast::bind
