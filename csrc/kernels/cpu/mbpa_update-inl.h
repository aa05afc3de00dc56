// Included once per SIMD level.
#include "mbpa-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline Finding update_queries(const MbpaProblem<T>& p, int64_t begin, int64_t end, T* scratch,
                              T* delta_weight, T* delta_bias) {
  const Neighbourhood<T>& n = p.neighbourhood;
  MbpaScratch<T> s{};
  lay_out(p, scratch, s);
  for (int64_t query = begin; query < end; ++query) {
    const Finding finding = adapt(p, query, end, LastStep::kTaken, s);
    if (finding.fault != Fault::kNone) return finding;
    T* out = delta_weight + query * n.num_classes * n.dim;
    if (mbpa_in_gram_form(p)) {
      gemm(s.coefficients, s.column, n.num_classes, RowMajor<T>{s.features, s.row}, n.dim,
           n.neighbours, [&](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
             for (int64_t i = 0; i < height; ++i) {
               T* row = out + (r + i) * n.dim + c;
               for (int64_t j = 0; j < width; ++j) row[j] = -p.lr * tile[i * kTileColumns<T> + j];
             }
           });
    } else {
      for (int64_t i = 0; i < n.num_classes; ++i) {
        const T* adapted = s.weight + i * s.row;
        const T* given = p.weight + i * n.dim;
        T* row = out + i * n.dim;
#pragma omp simd
        for (int64_t j = 0; j < n.dim; ++j) row[j] = adapted[j] - given[j];
      }
    }
    for (int64_t i = 0; i < n.num_classes; ++i) {
      delta_bias[query * n.num_classes + i] = p.bias == nullptr ? T(0) : s.bias[i] - p.bias[i];
    }
  }
  return {};
}

Finding mbpa_update(const MbpaProblem<float>& p, int64_t begin, int64_t end, float* scratch,
                    float* delta_weight, float* delta_bias) {
  return update_queries(p, begin, end, scratch, delta_weight, delta_bias);
}
Finding mbpa_update(const MbpaProblem<double>& p, int64_t begin, int64_t end, double* scratch,
                    double* delta_weight, double* delta_bias) {
  return update_queries(p, begin, end, scratch, delta_weight, delta_bias);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
