#include "../retrieval.h"

#include <tuple>

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/retrieval.h"

namespace clfast::ops {
namespace {

// Entries are raw memory to torch.
template <class T>
Tensor entries_like(const Tensor& tensor, int64_t count) {
  return scratch_like(tensor, count * static_cast<int64_t>(sizeof(cuda::SortEntry<T>)),
                      ScalarType::Byte);
}

std::tuple<Tensor, Tensor> knn(const Tensor& queries, const Tensor& keys, int64_t k,
                               const std::optional<Tensor>& key_sq_norms,
                               const std::optional<Tensor>& rounded_rows,
                               const std::optional<Tensor>& rounded_offset) {
  // Rounded keys are for processors that multiply bfloat16; this kernel reads the keys.
  const KnnInputs in = check_knn(queries, keys, k, key_sq_norms, rounded_rows, rounded_offset);
  const DeviceStream stream(in.queries);
  Tensor sq_distances = new_tensor(in.queries, {in.batch, k}, in.dtype);
  Tensor indices = new_tensor(in.queries, {in.batch, k}, ScalarType::Long);
  if (in.batch == 0) return {sq_distances, indices};
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t padded = cuda::entries_per_query(k);
    const int64_t bytes = in.memory_size * static_cast<int64_t>(sizeof(T)) +
                          padded * static_cast<int64_t>(sizeof(cuda::SortEntry<T>));
    const int64_t chunk = queries_at_a_time(in.batch, bytes);
    const Tensor distances = scratch_like(in.queries, chunk * in.memory_size, in.dtype);
    const Tensor entries = entries_like<T>(in.queries, chunk * padded);
    check_launch("knn", cuda::knn<T>({in.queries.const_data_ptr<T>(),
                                      {in.keys.const_data_ptr(), kind_of(in.keys)},
                                      in.batch,
                                      in.memory_size,
                                      in.dim,
                                      k},
                                     {chunk, distances.mutable_data_ptr<T>(),
                                      static_cast<cuda::SortEntry<T>*>(entries.data_ptr())},
                                     sq_distances.mutable_data_ptr<T>(),
                                     indices.mutable_data_ptr<int64_t>(), stream));
  });
  return {sq_distances, indices};
}

Tensor class_means(const Tensor& features, const Tensor& labels, int64_t num_classes,
                   bool normalize) {
  const ClassMeansInputs in = check_class_means(features, labels, num_classes);
  const DeviceStream stream(in.features);
  Tensor means = new_tensor(in.features, {num_classes, in.dim}, in.dtype);
  const Tensor scales = scratch_like(in.features, in.samples, ScalarType::Double);
  const Tensor sums = scratch_like(in.features, num_classes * in.dim, ScalarType::Double);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch(
        "class_means",
        cuda::class_means<T>({in.features.const_data_ptr(), kind_of(in.features)},
                             in.labels.const_data_ptr<int64_t>(), in.samples, in.dim, num_classes,
                             normalize, scales.mutable_data_ptr<double>(),
                             sums.mutable_data_ptr<double>(), means.mutable_data_ptr<T>(), stream));
  });
  return means;
}

Tensor nearest_class_mean(const Tensor& features, const Tensor& means, std::string metric) {
  const NearestMeanInputs in = check_nearest_class_mean(features, means, metric);
  const DeviceStream stream(in.features);
  const int64_t samples = in.features.size(0), dim = in.features.size(1);
  const int64_t classes = in.means.size(0);
  CLFAST_CHECK(classes > 0 || samples == 0, "nearest_class_mean: means must have a row");
  Tensor labels = new_tensor(in.features, {samples}, ScalarType::Long);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const int64_t chunk = queries_at_a_time(samples, classes * static_cast<int64_t>(sizeof(T)));
    const bool convert = in.cosine || in.features.scalar_type() != in.dtype;
    const Tensor own_features = scratch_like(in.means, convert ? samples * dim : 0, in.dtype);
    const Tensor own_means = scratch_like(in.means, in.cosine ? classes * dim : 0, in.dtype);
    const Tensor distances = scratch_like(in.means, chunk * classes, in.dtype);
    const Tensor entries = entries_like<T>(in.means, chunk);
    const Tensor nearest = scratch_like(in.means, samples, in.dtype);
    check_launch(
        "nearest_class_mean",
        cuda::nearest_class_mean<T>(
            {in.features.const_data_ptr(), kind_of(in.features)}, in.means.const_data_ptr<T>(),
            samples, dim, classes, in.cosine,
            {chunk, own_features.mutable_data_ptr<T>(), own_means.mutable_data_ptr<T>(),
             distances.mutable_data_ptr<T>(), static_cast<cuda::SortEntry<T>*>(entries.data_ptr()),
             nearest.mutable_data_ptr<T>()},
            labels.mutable_data_ptr<int64_t>(), stream));
  });
  return labels;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) {
  m.impl("knn", TORCH_BOX(&clfast::ops::knn));
  m.impl("class_means", TORCH_BOX(&clfast::ops::class_means));
  m.impl("nearest_class_mean", TORCH_BOX(&clfast::ops::nearest_class_mean));
}
