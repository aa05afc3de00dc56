// Included once per SIMD level.
#include "hebb_logits.h"
#include "mbpa-inl.h"
#include "neighbour_dots-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// out_i += (1 - E_i) (<dw_i, x> + db_i). Steps of plain gradient descent reach <dw_i, x> through
// <h_k, x>: in Gram form all, in direct form the last one, whose product of size [C, d] is saved.
template <class T>
inline Finding add_mbpa(const HebbLogitsProblem<T>& p, int64_t query, int64_t end,
                        const MbpaScratch<T>& s, T* out) {
  const Neighbourhood<T>& n = p.mbpa.neighbourhood;
  const bool sgd = p.mbpa.optimizer == Optimizer::kSgd, gram = mbpa_in_gram_form(p.mbpa);
  const Finding finding = adapt(p.mbpa, query, end, sgd ? LastStep::kLeftOut : LastStep::kTaken, s);
  if (finding.fault != Fault::kNone) return finding;
  const T* x = p.queries + query * n.dim;
  for (int64_t k = 0; sgd && k < n.neighbours; ++k) {
    s.sum[k] = -p.mbpa.lr * reduce_pair<Product>(x, s.features + k * s.row, n.dim);
  }
  for (int64_t i = 0; i < n.num_classes; ++i) {
    T delta = p.mbpa.bias == nullptr ? T(0) : s.bias[i] - p.mbpa.bias[i];
    if (sgd) {
      const T* residuals = gram ? s.coefficients : s.logits_t;
      delta += reduce_pair<Product>(residuals + i * s.column, s.sum, n.neighbours);
    }
    if (!gram) {
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

template <class T>
struct ClassSum {
  T sum, count;
};

// out_i += E_i eta / |N_i| sum_{k in N_i} c_k (<h_k, x> + 1); the 1 is the bias's share. The sums
// [2, C] are zero before and after: neighbours take turns between two of them, since a sum that was
// just written is not ready to be read.
template <class T>
inline Finding add_hebb(const HebbLogitsProblem<T>& p, int64_t query, T* __restrict dots,
                        int32_t* __restrict labels, T* scratch, ClassSum<T>* __restrict sums,
                        T* __restrict out) {
  const Neighbourhood<T>& n = p.mbpa.neighbourhood;
  const Finding finding =
      neighbour_dots(n, query, p.queries + query * n.dim, p.key_sq_norms, scratch, dots, labels);
  if (finding.fault != Fault::kNone) return finding;
  const T bias_share = p.mbpa.bias == nullptr ? T(0) : T(1);
  const int64_t first = query * n.neighbours, classes = n.num_classes;
  const T *interpolation = p.interpolation, eta = p.eta;
  const Neighbourhood<T> local = n;  // known not to change
#pragma omp simd
  for (int64_t k = 0; k < n.neighbours; ++k) {
    dots[k] = weighed(closeness(local, first + k), dots[k] + bias_share);
  }
  ClassSum<T>* const other = sums + classes;
  for (int64_t k = 0; k < n.neighbours; ++k) {
    ClassSum<T>& s = (k % 2 == 0 ? sums : other)[labels[k]];
    s.sum += dots[k];
    s.count += T(1);
  }
  // Classes in a row vectorise; the neighbours' own are fewer where there are very many classes.
  if (classes > 16 * n.neighbours) {
    for (int64_t k = 0; k < n.neighbours; ++k) {
      const int64_t i = labels[k];
      const T count = sums[i].count + other[i].count;
      if (count > T(0) && (p.select == nullptr || p.select[i])) {
        out[i] += interpolation[i] * eta * (sums[i].sum + other[i].sum) / count;
      }
      sums[i] = other[i] = {};
    }
    return {};
  }
  for (int64_t i = 0; p.select != nullptr && i < classes; ++i) {
    if (!p.select[i]) sums[i].count = other[i].count = T(0);
  }
#pragma omp simd
  for (int64_t i = 0; i < classes; ++i) {
    const T count = sums[i].count + other[i].count;
    const T sum = sums[i].sum + other[i].sum;
    out[i] += count > T(0) ? interpolation[i] * eta * sum / count : T(0);
    sums[i].sum = sums[i].count = other[i].sum = other[i].count = T(0);
  }
  return {};
}

template <class T>
inline Finding logits_of_queries(const HebbLogitsProblem<T>& p, int64_t begin, int64_t end,
                                 T* scratch, T* out) {
  const Neighbourhood<T>& n = p.mbpa.neighbourhood;
  const int64_t classes = n.num_classes;
  ClassSum<T>* sums = reinterpret_cast<ClassSum<T>*>(scratch);
  T *dots = scratch + 4 * classes, *row = dots + n.neighbours;
  int32_t* labels = as_labels(row + n.dim);
  for (int64_t i = 0; i < 4 * classes; ++i) scratch[i] = T(0);
  MbpaScratch<T> s{};
  const int64_t own = 4 * classes + 2 * n.neighbours + n.dim;
  if (p.mbpa.steps > 0) lay_out(p.mbpa, scratch + (own + 15) / 16 * 16, s);
  for (int64_t query = begin; query < end; ++query) {
    T* logits = out + query * classes;
    for (int64_t i = 0; i < classes; ++i) {
      logits[i] =
          p.base_logits[query * classes + i] + (p.base_bias == nullptr ? T(0) : p.base_bias[i]);
    }
    if (p.mbpa.steps > 0) {
      const Finding finding = add_mbpa(p, query, end, s, logits);
      if (finding.fault != Fault::kNone) return finding;
    }
    const Finding finding = add_hebb(p, query, dots, labels, row, sums, logits);
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
