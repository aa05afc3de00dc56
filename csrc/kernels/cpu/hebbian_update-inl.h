// Included once per SIMD level.
#include "check_neighbours-inl.h"
#include "hebbian_update.h"
#include "reduce-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline Finding wire_queries(const Neighbourhood<T>& n, const bool* select, int64_t begin,
                            int64_t end, T* scratch, T* delta_weight, T* delta_bias) {
  T *row = scratch, *count = scratch + n.dim;
  int32_t* labels = as_labels(count + n.num_classes);
  for (int64_t query = begin; query < end; ++query) {
    T* weight = delta_weight + query * n.num_classes * n.dim;
    T* bias = delta_bias + query * n.num_classes;
    const int64_t first = query * n.neighbours;
    const Finding finding = check_neighbours(n, query, labels);
    if (finding.fault != Fault::kNone) return finding;
    memset(weight, 0, static_cast<size_t>(n.num_classes * n.dim) * sizeof(T));
    for (int64_t i = 0; i < n.num_classes; ++i) bias[i] = count[i] = T(0);
    for (int64_t k = 0; k < n.neighbours; ++k) count[labels[k]] += T(1);
    for_each_row(n.keys, n.indices + first, 0, n.neighbours, n.dim, row,
                 [&](int64_t k, const T* h) {
                   const int64_t label = labels[k];
                   if (select != nullptr && !select[label]) return;
                   const T share = closeness(n, first + k) / count[label];
                   T* out = weight + label * n.dim;
#pragma omp simd
                   for (int64_t j = 0; j < n.dim; ++j) out[j] += share * h[j];
                   bias[label] += share;
                 });
  }
  return {};
}

Finding hebbian_update(const Neighbourhood<float>& n, const bool* select, int64_t begin,
                       int64_t end, float* scratch, float* delta_weight, float* delta_bias) {
  return wire_queries(n, select, begin, end, scratch, delta_weight, delta_bias);
}
Finding hebbian_update(const Neighbourhood<double>& n, const bool* select, int64_t begin,
                       int64_t end, double* scratch, double* delta_weight, double* delta_bias) {
  return wire_queries(n, select, begin, end, scratch, delta_weight, delta_bias);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
