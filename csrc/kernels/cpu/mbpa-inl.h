// The local adaptation of one query, which mbpa_update writes out and hebb_logits applies at once.
#pragma once
#include "check_neighbours-inl.h"
#include "exp-inl.h"
#include "gemm-inl.h"
#include "mbpa_scratch.h"
#include "mbpa_update.h"
#include "reduce-inl.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// The keys of the next query's neighbours, which lie anywhere in the memory: a few are asked for
// with every tile of this query's products, unless they would push those out of the L2 cache.
template <class T>
class NextKeys {
 public:
  // Of `query`, unless that is `end`.
  NextKeys(const MbpaProblem<T>& p, int64_t query, int64_t end) : n_(p.neighbourhood) {
    row_bytes_ = n_.dim * size_of(n_.keys.kind);
    if (query == end || p.steps == 0 || n_.neighbours * row_bytes_ > kMostBytes) return;
    indices_ = n_.indices + query * n_.neighbours;
    const int64_t rows = (n_.num_classes + kTileRows - 1) / kTileRows;
    const int64_t columns = (n_.neighbours + n_.dim) / kTileColumns<T> + 1;
    share_ = n_.neighbours / (rows * columns * p.steps) + 1;
  }
  void fetch() {
    for (int64_t k = 0; k < share_ && next_ < n_.neighbours; ++k, ++next_) {
      // An index may be out of range: a hint may point anywhere, a pointer may not.
      const uintptr_t row = reinterpret_cast<uintptr_t>(n_.keys.data) +
                            static_cast<uintptr_t>(indices_[next_]) * row_bytes_;
      for (int64_t at = 0; at < row_bytes_; at += 64) {
        __builtin_prefetch(reinterpret_cast<const void*>(row + at), 0, 2);
      }
    }
  }

 private:
  static constexpr int64_t kMostBytes = 1 << 17;
  const Neighbourhood<T>& n_;
  const int64_t* indices_ = nullptr;
  int64_t row_bytes_, share_ = 0, next_ = 0;
};

// h_k in both layouts and c_k / K. Faults are found here, before anything is computed.
template <class T>
inline Finding gather(const Neighbourhood<T>& n, int64_t query, const MbpaScratch<T>& s) {
  const Finding finding = check_neighbours(n, query, as_labels(s.labels));
  if (finding.fault != Fault::kNone) return finding;
  const int64_t first = query * n.neighbours;
  // A short row is copied long before the next one has come.
  const int64_t bytes = n.dim * static_cast<int64_t>(sizeof(T));
  const int64_t ahead = bytes < 256 ? 8 : (bytes < 2048 ? 4 : 1);
  for (int64_t k = 0; k < n.neighbours; ++k) {
    prefetch_row<T>(n.keys, n.indices + first, k, ahead, n.neighbours, n.dim);
    T* h = s.features + k * s.row;
    load_row(n.keys.data, n.keys.kind, n.indices[first + k], n.dim, h);
    for (int64_t j = n.dim; j < s.row; ++j) h[j] = T(0);
  }
  const Neighbourhood<T> local = n;  // known not to change
  T* const shares = s.closeness;
#pragma omp simd
  for (int64_t k = 0; k < local.neighbours; ++k) {
    shares[k] = closeness(local, first + k) / static_cast<T>(local.neighbours);
  }
  for (int64_t k = n.neighbours; k < s.column; ++k) s.closeness[k] = T(0);
  transpose(s.features, s.row, n.neighbours, n.dim, s.features_t, s.column, s.column);
  return {};
}

// Classes [begin, end), which a step takes together.
struct Panel {
  int64_t number, begin, end;
};

// f(panel) for all panels.
template <class T, class F>
inline void for_panels(const MbpaProblem<T>& p, F&& f) {
  const int64_t classes = p.neighbourhood.num_classes, size = mbpa_panel(p);
  for (Panel panel{0, 0, 0}; panel.begin < classes; ++panel.number, panel.begin = panel.end) {
    panel.end = classes - panel.begin < size ? classes : panel.begin + size;
    f(panel);
  }
}

// logits_t[i, k] = <weight_i, h_k> + bias_i for the panel's classes.
template <class T>
inline void forward(const Neighbourhood<T>& n, Panel panel, const T* weight, int64_t ldw,
                    const T* bias, const MbpaScratch<T>& s, T* logits_t, NextKeys<T>& next) {
  gemm(weight + panel.begin * ldw, ldw, panel.end - panel.begin,
       RowMajor<T>{s.features_t, s.column}, s.column, n.dim,
       [&](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
         next.fetch();
         for (int64_t i = 0; i < height; ++i) {
           const int64_t row = panel.begin + r + i;
           const T shift = bias == nullptr ? T(0) : bias[row];
           T* out = logits_t + row * s.column + c;
           for (int64_t j = 0; j < width; ++j) out[j] = tile[i * kTileColumns<T> + j] + shift;
         }
       });
}

// The panel's logits become exp(logits - their maximum), and join the maximum and the sum of all
// panels before it.
template <class T>
inline void join_softmax(Panel panel, const MbpaScratch<T>& s, T* all_maximum, T* all_sum) {
  // Not -inf, which cannot be taken from -inf.
  constexpr T lowest = sizeof(T) == sizeof(float) ? T(-__FLT_MAX__) : T(-__DBL_MAX__);
  const int64_t width = s.column;
  T* const kept = s.panel_maximum + panel.number * width;
  for (int64_t k = 0; k < width; k += kLanes<T>) {
    Vector<T> maximum = Vector<T>{} + lowest, sum = {};
    for (int64_t i = panel.begin; i < panel.end; ++i) {
      const Vector<T> z = load(s.logits_t + i * width + k);
      maximum = z > maximum ? z : maximum;
    }
    for (int64_t i = panel.begin; i < panel.end; ++i) {
      T* z = s.logits_t + i * width + k;
      const Vector<T> power = exp_of_minus_size(load(z) - maximum);
      store<T>(z, power);
      sum += power;
    }
    store<T>(kept + k, maximum);
    if (panel.number > 0) {
      const Vector<T> before = load(all_maximum + k), larger = before > maximum ? before : maximum;
      sum = load(all_sum + k) * exp_of_minus_size(before - larger) +
            sum * exp_of_minus_size(maximum - larger);
      maximum = larger;
    }
    store<T>(all_maximum + k, maximum), store<T>(all_sum + k, sum);
  }
}

// What join_softmax() left becomes c_k / K (softmax(logits of k)_i - [y_k = i]), the loss's
// gradient by the logits. Apart from its caller, whose numbers would take this loop's registers.
template <class T>
__attribute__((noinline)) void residuals(const Neighbourhood<T>& n, Panel panel,
                                         const MbpaScratch<T>& s) {
  const int64_t width = s.column;
  const T* const maximum = s.panel_maximum + panel.number * width;
#pragma omp simd
  for (int64_t k = 0; k < width; ++k) {
    s.factor[k] = s.closeness[k] / s.sum[k] * exp_of(maximum[k] - s.maximum[k]);
  }
  for (int64_t i = panel.begin; i < panel.end; ++i) {
    T* z = s.logits_t + i * width;
#pragma omp simd
    for (int64_t k = 0; k < width; ++k) z[k] *= s.factor[k];
  }
  const int32_t* const labels = as_labels(s.labels);
  const T* const shares = s.closeness;
  T* const logits_t = s.logits_t;
  const int64_t neighbours = n.neighbours, begin = panel.begin, end = panel.end;
  for (int64_t k = 0; k < neighbours; ++k) {
    const int64_t label = labels[k];
    if (label >= begin && label < end) logits_t[label * width + k] -= shares[k];
  }
}

template <class T>
inline void optimizer_steps(Optimizer optimizer, T* weight, T* state, const T* gradient, T lr,
                            int64_t count) {
  switch (optimizer) {
    case Optimizer::kRmsprop:
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) rmsprop_step(weight[j], state[j], gradient[j], lr);
      break;
    case Optimizer::kRmspropTf:
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) rmsprop_tf_step(weight[j], state[j], gradient[j], lr);
      break;
    case Optimizer::kSgd:
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) weight[j] -= lr * gradient[j];
      break;
  }
}

template <class T>
inline void step_bias(const MbpaProblem<T>& p, Panel panel, const MbpaScratch<T>& s) {
  if (p.bias == nullptr) return;
  for (int64_t i = panel.begin; i < panel.end; ++i) {
    const T* residual = s.logits_t + i * s.column;
    T gradient = 0;
#pragma omp simd reduction(+ : gradient)
    for (int64_t k = 0; k < s.column; ++k) gradient += residual[k];
    optimizer_steps(p.optimizer, s.bias + i, s.bias_state + i, &gradient, p.lr, 1);
  }
}

// What becomes of the last step of the weights in direct form: without it, its residuals are left
// in s.logits_t.
enum class LastStep { kTaken, kLeftOut };

// The steps, in either form: `start(panel)` and `advance(panel)` form the panel's first and next
// logits, and `step(panel, last)` takes its residuals into the parameters. The next logits of a
// panel hang on its own parameters alone: they are formed while those are in the cache.
template <class T, class Start, class Step, class Advance>
inline void take_steps(const MbpaProblem<T>& p, MbpaScratch<T> s, const Start& start,
                       const Step& step, const Advance& advance) {
  for_panels(p, [&](Panel panel) {
    start(panel);
    join_softmax(panel, s, s.maximum, s.sum);
  });
  for (int64_t taken = 1; taken <= p.steps; ++taken) {
    const bool last = taken == p.steps;
    for_panels(p, [&](Panel panel) {
      residuals(p.neighbourhood, panel, s);
      step_bias(p, panel, s);
      step(panel, last);
      if (last) return;
      advance(panel);
      join_softmax(panel, s, s.next_maximum, s.next_sum);
    });
    T *const maximum = s.maximum, *const sum = s.sum;
    s.maximum = s.next_maximum, s.sum = s.next_sum;
    s.next_maximum = maximum, s.next_sum = sum;
  }
}

// Direct form: s.weight and s.bias end as the adapted parameters, but for a last step left out.
template <class T>
inline void adapt_weights(const MbpaProblem<T>& p, LastStep last_step, const MbpaScratch<T>& s,
                          NextKeys<T>& next) {
  const Neighbourhood<T>& n = p.neighbourhood;
  const auto advance = [&](Panel panel) {
    forward(n, panel, s.weight, s.row, p.bias == nullptr ? nullptr : s.bias, s, s.logits_t, next);
  };
  const auto start = [&](Panel panel) {
    for (int64_t i = panel.begin; i < panel.end; ++i) {
      memcpy(s.weight + i * s.row, p.weight + i * n.dim, static_cast<size_t>(n.dim) * sizeof(T));
    }
    if (p.optimizer != Optimizer::kSgd) {
      const T average = static_cast<T>(initial_square_average(p.optimizer));
      for (int64_t j = panel.begin * s.row; j < panel.end * s.row; ++j) s.state[j] = average;
    }
    advance(panel);
  };
  const auto step = [&](Panel panel, bool last) {
    if (last && last_step == LastStep::kLeftOut) return;
    gemm(s.logits_t + panel.begin * s.column, s.column, panel.end - panel.begin,
         RowMajor<T>{s.features, s.row}, n.dim, n.neighbours,
         [&](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
           next.fetch();
           for (int64_t i = 0; i < height; ++i) {
             const int64_t at = (panel.begin + r + i) * s.row + c;
             optimizer_steps(p.optimizer, s.weight + at, s.state + at, tile + i * kTileColumns<T>,
                             p.lr, width);
           }
         });
  };
  take_steps(p, s, start, step, advance);
}

// s.gram = H H^T. It is symmetric: tiles left of the diagonal's are copies.
template <class T>
inline void gram(const Neighbourhood<T>& n, const MbpaScratch<T>& s) {
  for (int64_t r = 0; r < n.neighbours; r += kTileRows) {
    const int64_t rows = n.neighbours - r < kTileRows ? n.neighbours - r : kTileRows;
    const int64_t first = r / kTileColumns<T> * kTileColumns<T>;
    gemm(s.features + r * s.row, s.row, rows, RowMajor<T>{s.features_t + first, s.column},
         s.column - first, n.dim,
         [&](int64_t, int64_t height, int64_t c, int64_t width, const T* tile) {
           for (int64_t i = 0; i < height; ++i) {
             for (int64_t j = 0; j < width; ++j) {
               const int64_t row = r + i, column = first + c + j;
               const T product = tile[i * kTileColumns<T> + j];
               s.gram[row * s.column + column] = product;
               if (column < n.neighbours) s.gram[column * s.column + row] = product;
             }
           }
         });
  }
}

// Gram form: s.coefficients ends as Q with W_S = W - lr Q^T H; s.bias as the adapted bias.
template <class T>
inline void adapt_coefficients(const MbpaProblem<T>& p, const MbpaScratch<T>& s,
                               NextKeys<T>& next) {
  const Neighbourhood<T>& n = p.neighbourhood;
  gram(n, s);
  const auto start = [&](Panel panel) {
    forward(n, panel, p.weight, n.dim, static_cast<const T*>(nullptr), s, s.base_logits_t, next);
    for (int64_t i = panel.begin; i < panel.end; ++i) {
      const T shift = p.bias == nullptr ? T(0) : s.bias[i];
      for (int64_t k = 0; k < s.column; ++k) {
        s.logits_t[i * s.column + k] = s.base_logits_t[i * s.column + k] + shift;
      }
    }
  };
  const auto step = [&](Panel panel, bool) {
#pragma omp simd
    for (int64_t j = panel.begin * s.column; j < panel.end * s.column; ++j) {
      s.coefficients[j] += s.logits_t[j];
    }
  };
  const auto advance = [&](Panel panel) {
    gemm(s.coefficients + panel.begin * s.column, s.column, panel.end - panel.begin,
         RowMajor<T>{s.gram, s.column}, s.column, n.neighbours,
         [&](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
           for (int64_t i = 0; i < height; ++i) {
             const int64_t row = panel.begin + r + i;
             const T shift = p.bias == nullptr ? T(0) : s.bias[row];
             const T* base = s.base_logits_t + row * s.column + c;
             T* out = s.logits_t + row * s.column + c;
             for (int64_t j = 0; j < width; ++j) {
               out[j] = base[j] - p.lr * tile[i * kTileColumns<T> + j] + shift;
             }
           }
         });
  };
  for (int64_t j = 0; j < n.num_classes * s.column; ++j) s.coefficients[j] = T(0);
  take_steps(p, s, start, step, advance);
}

// Adapts query's own copy of the output layer, in a row of queries up to `end`; what is left in s
// depends on the form.
template <class T>
inline Finding adapt(const MbpaProblem<T>& p, int64_t query, int64_t end, LastStep last,
                     const MbpaScratch<T>& s) {
  NextKeys<T> next(p, query + 1, end);
  const Finding finding = gather(p.neighbourhood, query, s);
  if (finding.fault != Fault::kNone) return finding;
  for (int64_t i = 0; i < p.neighbourhood.num_classes; ++i) {
    s.bias[i] = p.bias == nullptr ? T(0) : p.bias[i];
    s.bias_state[i] = static_cast<T>(initial_square_average(p.optimizer));
  }
  if (mbpa_in_gram_form(p)) {
    adapt_coefficients(p, s, next);
  } else {
    adapt_weights(p, last, s, next);
  }
  return {};
}

}  // namespace clfast::cpu::CLFAST_LEVEL
