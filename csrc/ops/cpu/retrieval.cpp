#include "../retrieval.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include "../../kernels/cpu/class_means.h"
#include "../../kernels/cpu/knn.h"
#include "../../kernels/cpu/rows.h"

namespace clfast::ops {
namespace {

// Neighbours of `batch` queries: sq_distances and indices are [batch, k].
template <class T>
void search(const cpu::KnnProblem<T>& problem, T* sq_distances, int64_t* indices) {
  if (problem.batch == 0) return;
  const int64_t k = problem.k;
  cpu::Knn<T> knn(problem, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, knn.sweeps(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) knn.sweep(i);
  });
  torch::stable::parallel_for(0, problem.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) knn.finish(b, sq_distances + b * k, indices + b * k);
  });
}

std::tuple<Tensor, Tensor> knn(const Tensor& queries, const Tensor& keys, int64_t k,
                               const std::optional<Tensor>& key_sq_norms) {
  const KnnInputs in = check_knn(queries, keys, k, key_sq_norms);
  Tensor sq_distances = torch::stable::new_empty(in.queries, {in.batch, k}, in.dtype);
  Tensor indices = torch::stable::new_empty(in.queries, {in.batch, k}, ScalarType::Long);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    search<T>({in.queries.const_data_ptr<T>(),
               {in.keys.const_data_ptr(), kind_of(in.keys)},
               data_or_null<T>(in.key_sq_norms),
               in.batch,
               in.memory_size,
               in.dim,
               k},
              sq_distances.mutable_data_ptr<T>(), indices.mutable_data_ptr<int64_t>());
  });
  return {sq_distances, indices};
}

// Rows of every class, classes one after another: members of class c are
// rows[first[c] .. first[c + 1]).
struct Members {
  std::vector<int64_t> first, rows;
};

Members sort_by_class(const int64_t* labels, int64_t samples, int64_t num_classes) {
  Members members{std::vector<int64_t>(num_classes + 1), std::vector<int64_t>(samples)};
  for (int64_t i = 0; i < samples; ++i) {
    CLFAST_CHECK(labels[i] >= 0 && labels[i] < num_classes, "class_means: labels[", i, "] is ",
                 labels[i], ", outside [0, ", num_classes, "), the classes");
    ++members.first[labels[i] + 1];
  }
  for (int64_t c = 0; c < num_classes; ++c) members.first[c + 1] += members.first[c];
  std::vector<int64_t> next(members.first.begin(), members.first.end() - 1);
  for (int64_t i = 0; i < samples; ++i) members.rows[next[labels[i]]++] = i;
  return members;
}

Tensor class_means(const Tensor& features, const Tensor& labels, int64_t num_classes,
                   bool normalize) {
  const ClassMeansInputs in = check_class_means(features, labels, num_classes);
  const Members members =
      sort_by_class(in.labels.const_data_ptr<int64_t>(), in.samples, num_classes);
  Tensor means = torch::stable::new_empty(in.features, {num_classes, in.dim}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const Rows rows{in.features.const_data_ptr(), kind_of(in.features)};
    T* out = means.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, num_classes, 1, [&](int64_t begin, int64_t end) {
      std::vector<T> scratch(in.dim);
      std::vector<double> sum(in.dim);
      for (int64_t c = begin; c < end; ++c) {
        const int64_t first = members.first[c];
        cpu::class_mean(rows, in.dim, members.rows.data() + first, members.first[c + 1] - first,
                        normalize, scratch.data(), sum.data(), out + c * in.dim);
      }
    });
  });
  return means;
}

// The nearest mean is the nearest neighbour among the means that are not empty; under "cosine",
// among unit vectors, where the smallest distance is the largest cosine.
Tensor nearest_class_mean(const Tensor& features, const Tensor& means, std::string metric) {
  const NearestMeanInputs in = check_nearest_class_mean(features, means, metric);
  const int64_t samples = in.features.size(0), dim = in.features.size(1);
  Tensor labels = torch::stable::new_empty(in.features, {samples}, ScalarType::Long);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* given = in.means.const_data_ptr<T>();
    std::vector<T> present;
    std::vector<int64_t> classes;
    for (int64_t c = 0; c < in.means.size(0); ++c) {
      const T* mean = given + c * dim;
      if (std::all_of(mean, mean + dim, [](T x) { return x == T(0); })) continue;
      present.insert(present.end(), mean, mean + dim);
      classes.push_back(c);
    }
    CLFAST_CHECK(!classes.empty(),
                 "nearest_class_mean: every row of means is zero (an empty class)");
    const int64_t count = static_cast<int64_t>(classes.size());

    const ScalarKind own = kind_of(in.means);
    std::vector<T> unit;  // queries must be of type T, and of unit length under "cosine"
    const T* queries = static_cast<const T*>(in.features.const_data_ptr());
    if (in.cosine || kind_of(in.features) != own) {
      const Rows rows{in.features.const_data_ptr(), kind_of(in.features)};
      unit.resize(samples * dim);
      torch::stable::parallel_for(0, samples, 64, [&](int64_t begin, int64_t end) {
        if (in.cosine) {
          cpu::unit_rows(rows, dim, begin, end, unit.data());
        } else {
          cpu::widen_rows(rows, nullptr, begin, end - begin, dim, unit.data() + begin * dim, dim);
        }
      });
      queries = unit.data();
    }
    if (in.cosine) cpu::unit_rows({present.data(), own}, dim, 0, count, present.data());

    std::vector<T> distances(samples);
    int64_t* out = labels.mutable_data_ptr<int64_t>();
    search<T>({queries, {present.data(), own}, nullptr, samples, count, dim, 1}, distances.data(),
              out);
    for (int64_t i = 0; i < samples; ++i) out[i] = classes[out[i]];
  });
  return labels;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("knn", TORCH_BOX(&clfast::ops::knn));
  m.impl("class_means", TORCH_BOX(&clfast::ops::class_means));
  m.impl("nearest_class_mean", TORCH_BOX(&clfast::ops::nearest_class_mean));
}
