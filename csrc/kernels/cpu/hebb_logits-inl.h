// Included once per SIMD level.
#include "hebb_logits.h"
#include "mbpa-inl.h"
#include "neighbour_dots-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// out_i += (1 - E_i) (<dw_i, x> + db_i)
template <class T>
inline Finding add_mbpa(const HebbLogitsProblem<T>& p, int64_t query, const MbpaScratch<T>& s,
                        T* out) {
  const Neighbourhood<T>& n = p.mbpa.neighbourhood;
  const Finding finding = adapt(p.mbpa, query, s);
  if (finding.fault != Fault::kNone) return finding;
  const T* x = p.queries + query * n.dim;
  const bool gram = mbpa_in_gram_form(p.mbpa);
  if (gram) {
    for (int64_t k = 0; k < s.column; ++k) {
      s.sum[k] = k < n.neighbours
                     ? -p.mbpa.lr * reduce_pair<Product>(x, s.features + k * s.row, n.dim)
                     : T(0);
    }
  }
  for (int64_t i = 0; i < n.num_classes; ++i) {
    T delta = p.mbpa.bias == nullptr ? T(0) : s.bias[i] - p.mbpa.bias[i];
    if (gram) {
      delta += reduce_pair<Product>(s.coefficients + i * s.column, s.sum, s.column);
    } else {
      T* adapted = s.weight + i * s.row;
      const T* given = p.mbpa.weight + i * n.dim;
#pragma omp simd
      for (int64_t j = 0; j < n.dim; ++j) adapted[j] -= given[j];
      delta += reduce_pair<Product>(adapted, x, n.dim);
    }
    out[i] += (T(1) - p.interpolation[i]) * delta;
  }
  return {};
}

// out_i += E_i eta / |N_i| sum_{k in N_i} c_k (<h_k, x> + 1); the 1 is the bias's share.
// `sum` and `count` [C] are zero before and after.
template <class T>
inline Finding add_hebb(const HebbLogitsProblem<T>& p, int64_t query, T* __restrict dots,
                        T* scratch, T* __restrict sum, T* __restrict count, T* __restrict out) {
  const Neighbourhood<T>& n = p.mbpa.neighbourhood;
  const Finding finding =
      neighbour_dots(n, query, p.queries + query * n.dim, p.key_sq_norms, scratch, dots);
  if (finding.fault != Fault::kNone) return finding;
  const T bias_share = p.mbpa.bias == nullptr ? T(0) : T(1);
  const int64_t first = query * n.neighbours;
  const int64_t *indices = n.indices + first, *labels = n.labels;
  const T *interpolation = p.interpolation, eta = p.eta;
  const Neighbourhood<T> local = n;  // known not to change
#pragma omp simd
  for (int64_t k = 0; k < n.neighbours; ++k) {
    dots[k] = weighed(closeness(local, first + k), dots[k] + bias_share);
  }
  for (int64_t k = 0; k < n.neighbours; ++k) {
    const int64_t label = labels[indices[k]];
    sum[label] += dots[k];
    count[label] += T(1);
  }
  // Classes in a row vectorise; the neighbours' own are fewer where there are very many classes.
  if (n.num_classes > 16 * n.neighbours) {
    for (int64_t k = 0; k < n.neighbours; ++k) {
      const int64_t label = labels[indices[k]];
      if (count[label] > T(0) && (p.select == nullptr || p.select[label])) {
        out[label] += interpolation[label] * eta * sum[label] / count[label];
      }
      sum[label] = count[label] = T(0);
    }
    return {};
  }
  for (int64_t i = 0; p.select != nullptr && i < n.num_classes; ++i) {
    if (!p.select[i]) count[i] = T(0);
  }
#pragma omp simd
  for (int64_t i = 0; i < n.num_classes; ++i) {
    out[i] += count[i] > T(0) ? interpolation[i] * eta * sum[i] / count[i] : T(0);
    sum[i] = T(0);
    count[i] = T(0);
  }
  return {};
}

template <class T>
inline Finding logits_of_queries(const HebbLogitsProblem<T>& p, int64_t begin, int64_t end,
                                 T* scratch, T* out) {
  const Neighbourhood<T>& n = p.mbpa.neighbourhood;
  const int64_t classes = n.num_classes;
  T *sum = scratch, *count = sum + classes, *dots = count + classes, *row = dots + n.neighbours;
  for (int64_t i = 0; i < 2 * classes; ++i) sum[i] = T(0);
  MbpaScratch<T> s{};
  const int64_t own = 2 * classes + n.neighbours + n.dim;
  if (p.mbpa.steps > 0) lay_out(p.mbpa, scratch + (own + 15) / 16 * 16, s);
  for (int64_t query = begin; query < end; ++query) {
    T* logits = out + query * classes;
    for (int64_t i = 0; i < classes; ++i) {
      logits[i] =
          p.base_logits[query * classes + i] + (p.base_bias == nullptr ? T(0) : p.base_bias[i]);
    }
    if (p.mbpa.steps > 0) {
      const Finding finding = add_mbpa(p, query, s, logits);
      if (finding.fault != Fault::kNone) return finding;
    }
    const Finding finding = add_hebb(p, query, dots, row, sum, count, logits);
    if (finding.fault != Fault::kNone) return finding;
  }
  return {};
}

Finding hebb_logits(const HebbLogitsProblem<float>& p, int64_t begin, int64_t end, float* scratch,
                    float* out) {
  return logits_of_queries(p, begin, end, scratch, out);
}
Finding hebb_logits(const HebbLogitsProblem<double>& p, int64_t begin, int64_t end, double* scratch,
                    double* out) {
  return logits_of_queries(p, begin, end, scratch, out);
}

}  // namespace clfast::cpu::CLFAST_LEVEL
