// How one query's scratch is laid out: the same for every SIMD level. Functions are static, since
// units of different levels include them.
#pragma once
#include "mbpa_update.h"
#include "padded_rows.h"

namespace clfast::cpu {

// Plain gradient descent stays in the span of the neighbours: with fewer of them than features, it
// is cheaper to iterate on their coefficients with the Gram matrix (methods: dW = -lr Q^T H).
template <class T>
static inline bool mbpa_in_gram_form(const MbpaProblem<T>& p) {
  return p.optimizer == Optimizer::kSgd && p.neighbourhood.neighbours <= p.neighbourhood.dim;
}

// A step passes over the classes in panels of so many: what a panel's classes have, of logits,
// coefficients or weights, stays in the L2 cache from a step's first touch to its last. Panels are
// about equal, and of whole register tiles at every level.
template <class T>
static inline int64_t mbpa_panel(const MbpaProblem<T>& p) {
  constexpr int64_t bytes = 1 << 19, tile = 12;
  const int64_t column = padded(p.neighbourhood.neighbours), row = padded(p.neighbourhood.dim);
  const int64_t each = mbpa_in_gram_form(p) ? 3 * column : column + 2 * row;
  const int64_t fitting = bytes / (each * static_cast<int64_t>(sizeof(T)));
  const int64_t most = fitting > 2 * tile ? fitting : 2 * tile;
  const int64_t panels = (p.neighbourhood.num_classes + most - 1) / most;
  const int64_t share = (p.neighbourhood.num_classes + panels - 1) / panels;
  return (share + tile - 1) / tile * tile;
}

template <class T>
struct MbpaScratch {
  int64_t row;       // leading dimension of features
  int64_t column;    // leading dimension of neighbours
  T* features;       // [K, row], h_k
  T* features_t;     // [d, column]
  T* logits_t;       // [C, column], exp(logits less their panel's maximum), then the residuals
                     // c_k (P - Y) / K
  T* closeness;      // [column], c_k / K; 0 in the padding
  T* labels;         // [K], as_labels()
  T* maximum;        // [column], of the logits so far
  T* panel_maximum;  // [panels, column]
  T* factor;         // [column], of a panel's exponentials in its residuals
  T* bias;           // [C]
  T* bias_state;     // [C]
  T* sum;            // [column], of the exponentials so far, less the maximum
  T* next_maximum;   // [column], of the next step
  T* next_sum;       // [column]
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
  s.factor = take(s.column);
  s.panel_maximum = take((n.num_classes + mbpa_panel(p) - 1) / mbpa_panel(p) * s.column);
  s.bias = take(n.num_classes);
  s.bias_state = take(n.num_classes);
  s.sum = take(s.column);
  s.next_maximum = take(s.column);
  s.next_sum = take(s.column);
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
