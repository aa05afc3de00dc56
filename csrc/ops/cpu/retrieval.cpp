#include "../retrieval.h"

#include <algorithm>
#include <memory>
#include <tuple>
#include <vector>

#include "../../kernels/cpu/class_means.h"
#include "../../kernels/cpu/knn_search.h"
#include "../../kernels/cpu/nearest_class_mean.h"
#include "../../kernels/cpu/rows.h"

namespace clfast::ops {
namespace {

constexpr int64_t kFewestQueries = 16,
                  kMostQueries = 4096;  // whose shortlists are in memory together
constexpr int64_t kMostCandidates = 1 << 21;
constexpr int64_t kFewSamples = 4;          // cost less in difference form than packing the means
constexpr int64_t kWorthAThread = 1 << 16;  // products, or elements to be packed

std::tuple<Tensor, Tensor> knn(const Tensor& queries, const Tensor& keys, int64_t k,
                               const std::optional<Tensor>& key_sq_norms,
                               const std::optional<Tensor>& rounded_rows,
                               const std::optional<Tensor>& rounded_offset) {
  const KnnInputs in = check_knn(queries, keys, k, key_sq_norms, rounded_rows, rounded_offset);
  const RoundedKeys rounded{static_cast<const BFloat16Pair*>(
                                in.rounded_rows ? in.rounded_rows->const_data_ptr() : nullptr),
                            data_or_null<float>(in.rounded_offset)};
  Tensor sq_distances = new_tensor(in.queries, {in.batch, k}, in.dtype);
  Tensor indices = new_tensor(in.queries, {in.batch, k}, ScalarType::Long);
  if (in.batch == 0) return {sq_distances, indices};
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* distances = sq_distances.mutable_data_ptr<T>();
    int64_t* rows = indices.mutable_data_ptr<int64_t>();
    const int64_t at_a_time = std::clamp(kMostCandidates / k, kFewestQueries, kMostQueries);
    for (int64_t first = 0; first < in.batch; first += at_a_time) {
      const cpu::KnnProblem<T> problem{in.queries.const_data_ptr<T>() + first * in.dim,
                                       {in.keys.const_data_ptr(), kind_of(in.keys)},
                                       std::min(at_a_time, in.batch - first),
                                       in.memory_size,
                                       in.dim,
                                       k,
                                       rounded};
      const auto for_each = [](int64_t count, const auto& work) {
        torch::stable::parallel_for(0, count, 1, work);
      };
      cpu::search_knn(problem, torch::stable::get_num_threads(), for_each, distances + first * k,
                      rows + first * k);
    }
  });
  return {sq_distances, indices};
}

std::tuple<Tensor, Tensor> rerank(const Tensor& queries, const Tensor& keys,
                                  const Tensor& candidates, int64_t k) {
  const RerankInputs in = check_rerank(queries, keys, candidates, k);
  const int64_t memory_size = in.keys.size(0), total = in.batch * in.count;
  const int64_t* rows = in.candidates.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < total; ++i) {
    CLFAST_CHECK(rows[i] >= -1 && rows[i] < memory_size, "rerank: candidates[", i / in.count, "][",
                 i % in.count, "] is ", rows[i], "; it must be -1 or in [0, ", memory_size,
                 "), the rows of keys");
  }
  Tensor sq_distances = new_tensor(in.queries, {in.batch, k}, in.dtype);
  Tensor indices = new_tensor(in.queries, {in.batch, k}, ScalarType::Long);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    T* distances = sq_distances.mutable_data_ptr<T>();
    int64_t* found = indices.mutable_data_ptr<int64_t>();
    const int64_t grain = 1 + kWorthAThread / (in.count * in.dim + 1);
    torch::stable::parallel_for(0, in.batch, grain, [&](int64_t begin, int64_t end) {
      cpu::KnnRanking<T> ranking;
      for (int64_t q = begin; q < end; ++q) {
        ranking.rerank(in.queries.const_data_ptr<T>() + q * in.dim,
                       {in.keys.const_data_ptr(), kind_of(in.keys)}, in.dim, rows + q * in.count,
                       in.count, k, distances + q * k, found + q * k);
      }
    });
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
  Tensor means = new_tensor(in.features, {num_classes, in.dim}, in.dtype);
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
    CLFAST_CHECK(!holds_nan<T>(means),
                 "class_means: features holds NaN, or infinities that cancel");
  });
  return means;
}

// Under "cosine" features and means are scaled to unit length, where the smallest distance is the
// largest cosine.
Tensor nearest_class_mean(const Tensor& features, const Tensor& means, std::string metric) {
  const NearestMeanInputs in = check_nearest_class_mean(features, means, metric);
  const int64_t samples = in.features.size(0), dim = in.features.size(1);
  Tensor labels = new_tensor(in.features, {samples}, ScalarType::Long);
  if (samples == 0) return labels;
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const T* rows = in.means.const_data_ptr<T>();
    std::vector<int64_t> classes;
    for (int64_t c = 0; c < in.means.size(0); ++c) {
      const T* mean = rows + c * dim;
      if (std::any_of(mean, mean + dim, [](T x) { return x != T(0); })) classes.push_back(c);
    }
    CLFAST_CHECK(!classes.empty(),
                 "nearest_class_mean: every row of means is zero (an empty class)");
    const int64_t count = static_cast<int64_t>(classes.size()),
                  panel = cpu::panel_columns<T>(cpu::simd_level());
    const cpu::NearestMeanProblem<T> problem{{in.features.const_data_ptr(), kind_of(in.features)},
                                             rows,
                                             classes.data(),
                                             dim,
                                             count,
                                             in.cosine};
    const int64_t panels = samples > kFewSamples ? (count + panel - 1) / panel : 0;
    // Uninitialised on purpose: pack_means() writes every element.
    std::unique_ptr<T[]> columns(panels > 0 ? new T[panels * panel * dim] : nullptr);
    std::vector<T> norms(count);
    const cpu::PackedMeans<T> packed{columns.get(), norms.data()};
    const auto in_parallel = [&](int64_t total, int64_t grain, auto&& kernel) {
      torch::stable::parallel_for(0, total, grain, [&](int64_t begin, int64_t end) {
        std::unique_ptr<T[]> scratch(new T[cpu::nearest_class_mean_scratch(problem)]);
        kernel(begin, end, scratch.get());
      });
    };
    in_parallel(panels, 1 + kWorthAThread / (panel * dim + 1),
                [&](int64_t begin, int64_t end, T* scratch) {
                  cpu::pack_means(problem, begin, end, scratch, packed);
                });
    int64_t* out = labels.mutable_data_ptr<int64_t>();
    in_parallel(samples, 1 + kWorthAThread / (count * dim + 1),
                [&](int64_t begin, int64_t end, T* scratch) {
                  cpu::nearest_class_mean(problem, packed, begin, end, scratch, out);
                });
    for (int64_t i = 0; i < samples; ++i) {
      CLFAST_CHECK(out[i] >= 0, "nearest_class_mean: features[", i,
                   "] or a row of means holds NaN or Inf, or their distances overflow");
    }
  });
  return labels;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("knn", TORCH_BOX(&clfast::ops::knn));
  m.impl("rerank", TORCH_BOX(&clfast::ops::rerank));
  m.impl("class_means", TORCH_BOX(&clfast::ops::class_means));
  m.impl("nearest_class_mean", TORCH_BOX(&clfast::ops::nearest_class_mean));
}
