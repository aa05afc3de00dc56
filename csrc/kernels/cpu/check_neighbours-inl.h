// The neighbours of a query, looked at before anything is computed from them.
#pragma once
#include "../common/neighbourhood.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// As many elements of scratch, for the labels of a query's neighbours.
template <class T>
inline int32_t* as_labels(T* scratch) {
  static_assert(sizeof(int32_t) <= sizeof(T));
  return reinterpret_cast<int32_t*>(scratch);
}

// All neighbours at once: a branch for each would cost more than the look itself. Their labels lie
// anywhere in the memory and are read once, into `labels` [K].
template <class T>
inline Finding check_neighbours(const Neighbourhood<T>& n, int64_t query, int32_t* labels) {
  const int64_t* indices = n.indices + query * n.neighbours;
  const T* sq_distances = n.sq_distances + query * n.neighbours;
  const uint64_t rows = static_cast<uint64_t>(n.memory_size);
  const uint64_t classes = static_cast<uint64_t>(n.num_classes);
  int64_t bad = 0;  // negative numbers are large ones without a sign
#pragma omp simd reduction(+ : bad)
  for (int64_t k = 0; k < n.neighbours; ++k) {
    bad += (static_cast<uint64_t>(indices[k]) >= rows) | !(sq_distances[k] >= T(0));
  }
  if (n.closeness != nullptr) {
    const T* given = n.closeness + query * n.neighbours;
#pragma omp simd reduction(+ : bad)
    for (int64_t k = 0; k < n.neighbours; ++k) bad += !is_closeness(given[k]);
  }
  if (bad == 0) {
    for (int64_t k = 0; k < n.neighbours; ++k) {
      const int64_t label = n.labels[indices[k]];
      bad += static_cast<uint64_t>(label) >= classes;
      labels[k] = static_cast<int32_t>(label);
    }
  }
  for (int64_t k = 0; bad != 0 && k < n.neighbours; ++k) {
    const Fault fault = check_neighbour(n, query, k);
    if (fault != Fault::kNone) return {fault, query, k};
  }
  return {};
}

}  // namespace clfast::cpu::CLFAST_LEVEL
