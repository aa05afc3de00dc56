// Included once per SIMD level.
#include <cmath>
#include <limits>

#include "gemm-inl.h"
#include "nearest_class_mean.h"
#include "reduce-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Ties, and NaN throughout, go to the smaller class.
template <class T>
inline int64_t nearest_exactly(const NearestMeanProblem<T>& p, const T* x, const T* score,
                               T limit) {
  int64_t nearest = -1;
  T smallest = INFINITY;
  for (int64_t c = 0; c < p.num_classes; ++c) {
    if (score[c] > limit) continue;
    const T distance = reduce_pair<SquaredDifference>(x, p.means + c * p.dim, p.dim);
    if (nearest < 0 || distance < smallest || (smallest != smallest && distance == distance)) {
      nearest = c;
      smallest = distance;
    }
  }
  return nearest;
}

// scores[c] = |m_c|^2 - 2 <x, m_c>, the squared distance without |x|^2.
template <class T>
inline int64_t nearest_of(const NearestMeanProblem<T>& p, const T* x, const T* scores,
                          T largest_norm) {
  T smallest = INFINITY;
#pragma omp simd reduction(min : smallest)
  for (int64_t c = 0; c < p.num_classes; ++c) {
    smallest = scores[c] < smallest ? scores[c] : smallest;
  }
  // Twice the bound of knn.cpp on one distance, |k|^2 at its largest.
  const T error = static_cast<T>(p.dim + 16) * std::numeric_limits<T>::epsilon();
  const T x_sq_norm = reduce_pair<Product>(x, x, p.dim);
  const T limit = smallest + 2 * error * (x_sq_norm + largest_norm) +
                  static_cast<T>(4 * p.dim + 32) * std::numeric_limits<T>::min();
  int64_t close = 0, last = 0;
#pragma omp simd reduction(+ : close) reduction(max : last)
  for (int64_t c = 0; c < p.num_classes; ++c) {
    const bool within = !(scores[c] > limit);
    close += within;
    last = within && c > last ? c : last;
  }
  return close == 1 ? last : nearest_exactly(p, x, scores, limit);
}

template <class T>
inline void label_features(const NearestMeanProblem<T>& p, int64_t begin, int64_t end, T* scratch,
                           int64_t* labels) {
  T *block = scratch, *scores = scratch + kNearestMeanBlock * p.dim;
  T largest_norm = 0;
  for (int64_t c = 0; c < p.num_classes; ++c) {
    largest_norm = p.mean_sq_norms[c] > largest_norm ? p.mean_sq_norms[c] : largest_norm;
  }
  const bool own = p.features.kind == KindOf<T>::value;
  for (int64_t first = begin; first < end; first += kNearestMeanBlock) {
    const int64_t count = end - first < kNearestMeanBlock ? end - first : kNearestMeanBlock;
    const T* x = own ? static_cast<const T*>(p.features.data) + first * p.dim : block;
    for (int64_t i = 0; !own && i < count; ++i) {
      load_row(p.features.data, p.features.kind, first + i, p.dim, block + i * p.dim);
    }
    gemm(x, p.dim, count, p.means_t, p.width, p.num_classes, p.dim,
         [&](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
           for (int64_t i = 0; i < height; ++i) {
             T* out = scores + (r + i) * p.width + c;
             for (int64_t j = 0; j < width; ++j) {
               out[j] = p.mean_sq_norms[c + j] - 2 * tile[i * kTileColumns<T> + j];
             }
           }
         });
    for (int64_t i = 0; i < count; ++i) {
      labels[first + i] = nearest_of(p, x + i * p.dim, scores + i * p.width, largest_norm);
    }
  }
}

void nearest_class_mean(const NearestMeanProblem<float>& problem, int64_t begin, int64_t end,
                        float* scratch, int64_t* labels) {
  label_features(problem, begin, end, scratch, labels);
}
void nearest_class_mean(const NearestMeanProblem<double>& problem, int64_t begin, int64_t end,
                        double* scratch, int64_t* labels) {
  label_features(problem, begin, end, scratch, labels);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
