// What every device checks and prepares for the retrieval ops.
#pragma once
#include "../kernels/common/rounded_keys.h"
#include "check.h"

namespace clfast::ops {

inline void check_rows(const char* op, const Tensor& queries, const Tensor& keys) {
  check_dim(op, "queries", queries, 2);
  check_floating(op, "queries", queries);
  check_dim(op, "keys", keys, 2);
  check_same_precision(op, "keys", keys, "queries", queries);
  check_same_device(op, "keys", keys, "queries", queries);
  CLFAST_CHECK(queries.size(1) == keys.size(1), op, ": queries have ", queries.size(1),
               " features but keys have ", keys.size(1));
}

struct KnnInputs {
  ScalarType dtype;  // of the arithmetic and of the distances
  Tensor queries;    // [B, d] in dtype
  Tensor keys;       // [M, d] as stored
  int64_t batch, memory_size, dim;
  std::optional<Tensor> rounded_rows, rounded_offset;  // both or none
};

// key_sq_norms are checked and not used: both kernels form the norms they need from keys that they
// have in cache anyway, and a result that is exact must not hang on numbers from outside. Rounded
// keys cannot be checked against the keys: whoever passes them vouches for them.
inline KnnInputs check_knn(const Tensor& queries, const Tensor& keys, int64_t k,
                           const std::optional<Tensor>& key_sq_norms,
                           const std::optional<Tensor>& rounded_rows,
                           const std::optional<Tensor>& rounded_offset) {
  const char* op = "knn";
  check_rows(op, queries, keys);
  const int64_t memory_size = keys.size(0), dim = keys.size(1);
  CLFAST_CHECK(memory_size > 0, op, ": keys must have at least one row");
  CLFAST_CHECK(k >= 1 && k <= memory_size, op, ": k must be in [1, ", memory_size,
               "], the number of keys, got ", k);
  KnnInputs in{
      compute_dtype(queries), {}, as_contiguous(keys), queries.size(0), memory_size, dim, {}, {}};
  in.queries = as_compute(queries, in.dtype);
  if (key_sq_norms.has_value()) {
    check_shape(op, "key_sq_norms", *key_sq_norms, {memory_size});
    check_same_precision(op, "key_sq_norms", *key_sq_norms, "queries", queries);
    check_same_device(op, "key_sq_norms", *key_sq_norms, "queries", queries);
  }
  CLFAST_CHECK(rounded_rows.has_value() == rounded_offset.has_value(), op,
               ": rounded.rows and rounded.offset go together");
  if (rounded_rows.has_value()) {
    CLFAST_CHECK(!is_float64(queries), op, ": rounded is for float32 and 16-bit keys, not float64");
    check_dtype(op, "rounded.rows", *rounded_rows, ScalarType::BFloat16);
    check_shape(op, "rounded.rows", *rounded_rows, {memory_size, 2 * rounded_pairs(dim)});
    check_same_device(op, "rounded.rows", *rounded_rows, "queries", queries);
    check_dtype(op, "rounded.offset", *rounded_offset, ScalarType::Float);
    check_shape(op, "rounded.offset", *rounded_offset, {dim});
    check_same_device(op, "rounded.offset", *rounded_offset, "queries", queries);
    in.rounded_rows = as_contiguous(*rounded_rows);
    in.rounded_offset = as_contiguous(*rounded_offset);
  }
  return in;
}

struct RerankInputs {
  ScalarType dtype;   // of the arithmetic and of the distances
  Tensor queries;     // [B, d] in dtype
  Tensor keys;        // [M, d] as stored
  Tensor candidates;  // [B, R]
  int64_t batch, dim, count;
};

inline RerankInputs check_rerank(const Tensor& queries, const Tensor& keys,
                                 const Tensor& candidates, int64_t k) {
  const char* op = "rerank";
  check_rows(op, queries, keys);
  check_dim(op, "candidates", candidates, 2);
  check_dtype(op, "candidates", candidates, ScalarType::Long);
  check_shape(op, "candidates", candidates, {queries.size(0), candidates.size(1)});
  check_same_device(op, "candidates", candidates, "queries", queries);
  CLFAST_CHECK(k >= 1, op, ": k must be at least 1, got ", k);
  const ScalarType dtype = compute_dtype(queries);
  return {dtype,
          as_compute(queries, dtype),
          as_contiguous(keys),
          as_contiguous(candidates),
          queries.size(0),
          queries.size(1),
          candidates.size(1)};
}

struct ClassMeansInputs {
  ScalarType dtype;
  Tensor features;  // [N, d] as given
  Tensor labels;    // [N]
  int64_t samples, dim;
};

inline ClassMeansInputs check_class_means(const Tensor& features, const Tensor& labels,
                                          int64_t num_classes) {
  const char* op = "class_means";
  check_dim(op, "features", features, 2);
  check_floating(op, "features", features);
  check_dtype(op, "labels", labels, ScalarType::Long);
  check_shape(op, "labels", labels, {features.size(0)});
  check_same_device(op, "labels", labels, "features", features);
  check_num_classes(op, num_classes);
  return {compute_dtype(features), as_contiguous(features), as_contiguous(labels), features.size(0),
          features.size(1)};
}

struct NearestMeanInputs {
  ScalarType dtype;
  Tensor features;  // [N, d] as given
  Tensor means;     // [C, d] in dtype
  bool cosine;
};

inline NearestMeanInputs check_nearest_class_mean(const Tensor& features, const Tensor& means,
                                                  const std::string& metric) {
  const char* op = "nearest_class_mean";
  check_dim(op, "features", features, 2);
  check_floating(op, "features", features);
  check_dim(op, "means", means, 2);
  check_same_precision(op, "means", means, "features", features);
  check_same_device(op, "means", means, "features", features);
  CLFAST_CHECK(features.size(1) == means.size(1), op, ": features have ", features.size(1),
               " columns but means have ", means.size(1));
  CLFAST_CHECK(metric == "euclidean" || metric == "cosine", op,
               ": metric must be euclidean or cosine, got ", metric);
  const ScalarType dtype = compute_dtype(features);
  return {dtype, as_contiguous(features), as_compute(means, dtype), metric == "cosine"};
}

}  // namespace clfast::ops
