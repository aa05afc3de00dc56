// Launchers of the retrieval kernels, for the glue and for the emulator's bindings. Include what
// defines cudaError_t and cudaStream_t first. All pointers are device pointers.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"

namespace clfast::cuda {

template <class T>
struct KnnProblem {
  const T* queries;  // [B, d]
  Rows keys;         // [M, d]
  int64_t batch, memory_size, dim, k;
};

// One neighbour on its way to its place.
template <class T>
struct SortEntry {
  uint64_t order;
  int64_t row;
};

template <class T>
struct KnnScratch {
  int64_t chunk;          // queries at a time, 1 <= chunk <= 65535
  T* distances;           // [chunk, M]
  SortEntry<T>* entries;  // [chunk, entries_per_query(k)]
};

// The smallest power of two >= k: what the sorting network works on.
inline int64_t entries_per_query(int64_t k) {
  int64_t n = 1;
  while (n < k) n *= 2;
  return n;
}

// sq_distances and indices: [B, k].
template <class T>
cudaError_t knn(const KnnProblem<T>& problem, const KnnScratch<T>& scratch, T* sq_distances,
                int64_t* indices, cudaStream_t stream);

// means [C, d]; sums: [C, d] doubles and scales: [N] doubles of scratch. Samples whose label is
// outside [0, C) are left out.
template <class T>
cudaError_t class_means(Rows features, const int64_t* labels, int64_t samples, int64_t dim,
                        int64_t num_classes, bool normalize, double* scales, double* sums, T* means,
                        cudaStream_t stream);

// unit_features [N, d] and unit_means [C, d]: scratch, used when `cosine` or when features are not
// of type T. distances: [chunk, C]. A row of means that is zero is never predicted; -1 where every
// row is.
template <class T>
struct NearestMeanScratch {
  int64_t chunk;
  T *features, *means, *distances;
  SortEntry<T>* entries;  // [chunk, 1]
  T* nearest;             // [N]
};

template <class T>
cudaError_t nearest_class_mean(Rows features, const T* means, int64_t samples, int64_t dim,
                               int64_t num_classes, bool cosine,
                               const NearestMeanScratch<T>& scratch, int64_t* labels,
                               cudaStream_t stream);

}  // namespace clfast::cuda
