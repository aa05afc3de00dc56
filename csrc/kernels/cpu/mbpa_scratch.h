// How one query's scratch is laid out: the same for every SIMD level. Functions are static, since
// units of different levels include them.
#pragma once
#include "mbpa_update.h"

namespace clfast::cpu {

// A leading dimension that vectors of any level can read past the end of a row, and that is no
// multiple of 4 KiB: rows of a power of two would all compete for the same few cache sets.
static inline int64_t padded(int64_t n) {
  const int64_t vectors = (n + 15) / 16;
  return 16 * (vectors % 2 == 0 ? vectors + 1 : vectors);
}

// Plain gradient descent stays in the span of the neighbours: with fewer of them than features, it
// is cheaper to iterate on their coefficients with the Gram matrix (methods: dW = -lr Q^T H).
template <class T>
static inline bool mbpa_in_gram_form(const MbpaProblem<T>& p) {
  return p.optimizer == Optimizer::kSgd && p.neighbourhood.neighbours <= p.neighbourhood.dim;
}

template <class T>
struct MbpaScratch {
  int64_t row;       // leading dimension of features
  int64_t column;    // leading dimension of neighbours
  T* features;       // [K, row], h_k
  T* features_t;     // [d, column]
  T* logits_t;       // [C, column], then the residuals c_k (P - Y) / K
  T* closeness;      // [column], c_k / K; 0 in the padding
  T* labels;         // [K], as_labels()
  T* maximum;        // [column]
  T* bias;           // [C]
  T* bias_state;     // [C]
  T* sum;            // [column]
  T* weight;         // [C, row], direct form: the adapted weights
  T* state;          // [C, row], direct form: RMSprop's mean of squares
  T* base_logits_t;  // [C, column], Gram form: logits of the given weights
  T* coefficients;   // [C, column], Gram form: sum of the residuals over the steps
  T* gram;           // [K, column], Gram form: h_k . h_l
};

// The scratch at `base`, and its size in elements of T when base is null.
template <class T>
static inline int64_t lay_out(const MbpaProblem<T>& p, T* base, MbpaScratch<T>& s) {
  const Neighbourhood<T>& n = p.neighbourhood;
  s.row = padded(n.dim);
  s.column = padded(n.neighbours);
  int64_t used = 0;
  const auto take = [&](int64_t count) {
    T* at = base == nullptr ? nullptr : base + used;
    used += (count + 15) / 16 * 16;
    return at;
  };
  s.features = take(n.neighbours * s.row);
  s.features_t = take(n.dim * s.column);
  s.logits_t = take(n.num_classes * s.column);
  s.closeness = take(s.column);
  s.labels = take(n.neighbours);
  s.maximum = take(s.column);
  s.bias = take(n.num_classes);
  s.bias_state = take(n.num_classes);
  s.sum = take(s.column);
  if (mbpa_in_gram_form(p)) {
    s.base_logits_t = take(n.num_classes * s.column);
    s.coefficients = take(n.num_classes * s.column);
    s.gram = take(n.neighbours * s.column);
  } else {
    s.weight = take(n.num_classes * s.row);
    s.state = take(n.num_classes * s.row);
  }
  return used;
}

}  // namespace clfast::cpu
