// The launchers of retrieval in the SIMT emulator. `chunk` is how many queries go at a time.
#include "bind_cuda.h"

#include "cuda/retrieval.h"

namespace clfast::bind {
namespace {

using Array = py::object;

void set_order(const std::string& name, uint64_t seed) {
  const std::map<std::string, simt::Order> orders = {{"forward", simt::Order::kForward},
                                                     {"reverse", simt::Order::kReverse},
                                                     {"random", simt::Order::kRandom}};
  simt::set_order(orders.at(name), seed);
}

void knn(const py::object& problem, int64_t chunk, const Array& sq_distances,
         const Array& indices) {
  with_type_of(sq_distances, [&](auto tag) {
    using T = decltype(tag);
    const py::object queries = problem.attr("queries"), keys = problem.attr("keys");
    const int64_t batch = extent(queries, 0), rows = extent(keys, 0), dim = extent(keys, 1);
    const int64_t k = problem.attr("k").cast<int64_t>();
    Scratch<T> distances(chunk * rows);
    // An entry that is all zeros comes first, so one that was not written shows.
    Scratch<cuda::SortEntry<T>> entries(chunk * cuda::entries_per_query(k), 0);
    check_launch(cuda::knn<T>(
        {field<T>(problem, "queries", {batch, dim}), rows_of(keys, "keys"), batch, rows, dim, k},
        {chunk, distances.data(), entries.data()},
        data_of<T>(sq_distances, "sq_distances", {batch, k}),
        data_of<int64_t>(indices, "indices", {batch, k}), nullptr));
  });
}

void class_means(const Array& features, const Array& labels, bool normalize, const Array& means) {
  with_type_of(means, [&](auto tag) {
    using T = decltype(tag);
    const int64_t samples = extent(features, 0), dim = extent(features, 1);
    const int64_t classes = extent(means, 0);
    Scratch<double> scales(samples), sums(classes * dim);
    check_launch(cuda::class_means<T>(rows_of(features, "features"),
                                      data_of<const int64_t>(labels, "labels", {samples}), samples,
                                      dim, classes, normalize, scales.data(), sums.data(),
                                      data_of<T>(means, "means", {classes, dim}), nullptr));
  });
}

void nearest_class_mean(const Array& features, const Array& means, bool cosine, int64_t chunk,
                        const Array& labels) {
  with_type_of(means, [&](auto tag) {
    using T = decltype(tag);
    const int64_t samples = extent(features, 0), dim = extent(features, 1);
    const int64_t classes = extent(means, 0);
    const Rows rows = rows_of(features, "features");
    const bool own = rows.kind == ScalarKind::kFloat32 || rows.kind == ScalarKind::kFloat64;
    Scratch<T> unit_features(cosine || !own ? samples * dim : 0);
    Scratch<T> unit_means(cosine ? classes * dim : 0);
    Scratch<T> distances(chunk * classes), nearest(samples);
    Scratch<cuda::SortEntry<T>> entries(chunk, 0);
    check_launch(cuda::nearest_class_mean<T>(
        rows, data_of<const T>(means, "means", {classes, dim}), samples, dim, classes, cosine,
        {chunk, unit_features.data(), unit_means.data(), distances.data(), entries.data(),
         nearest.data()},
        data_of<int64_t>(labels, "labels", {samples}), nullptr));
  });
}

}  // namespace
}  // namespace clfast::bind

PYBIND11_MODULE(_cuda_kernels, m) {
  using namespace clfast::bind;
  m.attr("sanitized") = kSanitized;
  m.def("set_order", &set_order);
  m.def("knn", &knn);
  m.def("class_means", &class_means);
  m.def("nearest_class_mean", &nearest_class_mean);
  bind_cuda_adaptation(m);
  bind_cuda_recall(m);
  bind_cuda_consolidation(m);
  bind_cuda_masks(m);
  bind_cuda_optimizers(m);
  bind_cuda_exemplar_losses(m);
  bind_cuda_exemplars(m);
}
