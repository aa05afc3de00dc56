// Included once per SIMD level.
#include <cmath>

#include "../common/distance_error.h"
#include "gemm-inl.h"
#include "nearest_class_mean.h"
#include "reduce-inl.h"
#include "rows.h"
#include "unit_length-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline const T* mean_of(const NearestMeanProblem<T>& p, int64_t c, T* scratch) {
  const T* mean = p.means + p.classes[c] * p.dim;
  if (!p.unit_length) return mean;
  for (int64_t j = 0; j < p.dim; ++j) scratch[j] = mean[j];
  scale_to_unit_length(scratch, p.dim);
  return scratch;
}

template <class T>
inline void pack_panels_of_means(const NearestMeanProblem<T>& p, int64_t begin, int64_t end,
                                 T* scratch, const PackedMeans<T>& packed) {
  for (int64_t first = begin * kTileColumns<T>; first < end * kTileColumns<T>;
       first += kTileColumns<T>) {
    const int64_t rest = p.num_classes - first;
    const int64_t count = rest < kTileColumns<T> ? rest : kTileColumns<T>;
    for (int64_t i = 0; i < count; ++i) {
      T* row = scratch + i * p.dim;
      const T* mean = p.means + p.classes[first + i] * p.dim;
      for (int64_t j = 0; j < p.dim; ++j) row[j] = mean[j];
      if (p.unit_length) scale_to_unit_length(row, p.dim);
      packed.sq_norms[first + i] = reduce_pair<Product>(row, row, p.dim);
    }
    pack_panels(scratch, count, p.dim, packed.panels + first * p.dim);
  }
}

// Among the classes whose score is not above the limit; all of them when there are no scores. Ties
// go to the smaller class. -1 if a distance is NaN or none is finite.
template <class T>
inline int64_t nearest_exactly(const NearestMeanProblem<T>& p, const T* x, const T* scores, T limit,
                               T* scratch) {
  int64_t nearest = -1;
  T smallest = INFINITY;
  for (int64_t c = 0; c < p.num_classes; ++c) {
    if (scores != nullptr && scores[c] > limit) continue;
    const T distance = reduce_pair<SquaredDifference>(x, mean_of(p, c, scratch), p.dim);
    if (distance != distance) return -1;
    if (distance < smallest) {
      nearest = c;
      smallest = distance;
    }
  }
  return nearest;
}

// scores[c] = |m_c|^2 - 2 <x, m_c>, the squared distance without |x|^2.
template <class T>
inline int64_t nearest_of(const NearestMeanProblem<T>& p, const T* x, T x_sq_norm, const T* scores,
                          T largest_norm, T* scratch) {
  T smallest = INFINITY;
#pragma omp simd reduction(min : smallest)
  for (int64_t c = 0; c < p.num_classes; ++c) {
    smallest = scores[c] < smallest ? scores[c] : smallest;
  }
  // The smallest and any other are off by one error each. A product that overflowed bounds nothing.
  const DistanceError<T> error = distance_error<T>(p.dim);
  const T width = 2 * (error.relative * (x_sq_norm + largest_norm) + error.absolute);
  const T limit = smallest > -INFINITY ? smallest + width : INFINITY;
  int64_t close = 0, last = 0;
#pragma omp simd reduction(+ : close) reduction(max : last)
  for (int64_t c = 0; c < p.num_classes; ++c) {
    const bool within = !(scores[c] > limit);
    close += within;
    last = within && c > last ? c : last;
  }
  return close == 1 && limit < INFINITY ? last : nearest_exactly(p, x, scores, limit, scratch);
}

template <class T>
inline void label_features(const NearestMeanProblem<T>& p, const PackedMeans<T>& packed,
                           int64_t begin, int64_t end, T* scratch, int64_t* labels) {
  // Short rows of the right type need no copy.
  const bool as_they_are = p.features.kind == kKindOf<T> && !p.unit_length &&
                           p.dim * static_cast<int64_t>(sizeof(T)) < 4096;
  const int64_t stride = as_they_are ? p.dim : padded_stride<T>(p.dim);
  T *block = scratch, *norms = block + kNearestMeanBlock * padded_stride<T>(p.dim);
  T *scores = norms + kNearestMeanBlock, *mean = scores + kNearestMeanBlock * p.num_classes;
  T largest_norm = 0;
  for (int64_t c = 0; packed.panels != nullptr && c < p.num_classes; ++c) {
    largest_norm = packed.sq_norms[c] > largest_norm ? packed.sq_norms[c] : largest_norm;
  }
  for (int64_t first = begin; first < end; first += kNearestMeanBlock) {
    const int64_t count = end - first < kNearestMeanBlock ? end - first : kNearestMeanBlock;
    const T* x = as_they_are ? static_cast<const T*>(p.features.data) + first * p.dim : block;
    for (int64_t i = 0; i < count; ++i) {
      if (!as_they_are) {
        load_row(p.features.data, p.features.kind, first + i, p.dim, block + i * stride);
        if (p.unit_length) scale_to_unit_length(block + i * stride, p.dim);
      }
      const T* row = x + i * stride;
      norms[i] = reduce_pair<Product>(row, row, p.dim);
    }
    if (packed.panels != nullptr) {
      gemm(x, stride, count, Panels<T>{packed.panels, p.dim}, p.num_classes, p.dim,
           [&](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
             for (int64_t i = 0; i < height; ++i) {
               T* out = scores + (r + i) * p.num_classes + c;
               for (int64_t j = 0; j < width; ++j) {
                 out[j] = packed.sq_norms[c + j] - 2 * tile[i * kTileColumns<T> + j];
               }
             }
           });
    }
    for (int64_t i = 0; i < count; ++i) {
      int64_t nearest = 0;  // of a feature without a direction, whose cosines are all 0
      if (!p.unit_length || norms[i] != T(0)) {
        nearest = packed.panels == nullptr
                      ? nearest_exactly<T>(p, x + i * stride, nullptr, T(0), mean)
                      : nearest_of(p, x + i * stride, norms[i], scores + i * p.num_classes,
                                   largest_norm, mean);
      }
      labels[first + i] = nearest < 0 ? -1 : p.classes[nearest];
    }
  }
}

#define CLFAST_DEFINE_NEAREST_CLASS_MEAN(T)                                                     \
  void pack_means(const NearestMeanProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                  const PackedMeans<T>& packed) {                                               \
    pack_panels_of_means(problem, begin, end, scratch, packed);                                 \
  }                                                                                             \
  void nearest_class_mean(const NearestMeanProblem<T>& problem, const PackedMeans<T>& packed,   \
                          int64_t begin, int64_t end, T* scratch, int64_t* labels) {            \
    label_features(problem, packed, begin, end, scratch, labels);                               \
  }
CLFAST_DEFINE_NEAREST_CLASS_MEAN(float)
CLFAST_DEFINE_NEAREST_CLASS_MEAN(double)
#undef CLFAST_DEFINE_NEAREST_CLASS_MEAN

}  // namespace clfast::cpu::CLFAST_LEVEL
