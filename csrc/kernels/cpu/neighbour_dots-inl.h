// <x, h_k> for the neighbours of one query, from norms where they are kept, else from the keys; and
// their labels.
#pragma once
#include "../common/neighbourhood.h"
#include "check_neighbours-inl.h"
#include "reduce-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline Finding neighbour_dots(const Neighbourhood<T>& n, int64_t query, const T* x,
                              const T* key_sq_norms, T* scratch, T* dots, int32_t* labels) {
  const int64_t* indices = n.indices + query * n.neighbours;
  const T* sq_distances = n.sq_distances + query * n.neighbours;
  const Finding finding = check_neighbours(n, query, labels);
  if (finding.fault != Fault::kNone) return finding;
  if (key_sq_norms == nullptr) {
    for_each_row(n.keys, indices, 0, n.neighbours, n.dim, scratch,
                 [=](int64_t k, const T* h) { dots[k] = reduce_pair<Product>(x, h, n.dim); });
    return {};
  }
  const T x_sq_norm = reduce_pair<Product>(x, x, n.dim);
  for (int64_t k = 0; k < n.neighbours; ++k) dots[k] = key_sq_norms[indices[k]];
#pragma omp simd
  for (int64_t k = 0; k < n.neighbours; ++k) {
    dots[k] = dot_from_norms(x_sq_norm, dots[k], sq_distances[k]);
  }
  return {};
}

}  // namespace clfast::cpu::CLFAST_LEVEL
