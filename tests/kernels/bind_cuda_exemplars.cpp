// The launchers of exemplars in the SIMT emulator.
#include "bind_cuda.h"
#include "cuda/exemplars.h"

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

}  // namespace

void bind_cuda_exemplars(py::module_& m) { m.def("herding", &herding); }

}  // namespace clfast::bind
