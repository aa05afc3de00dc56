// T steps of gradient descent on softmax regression, and the exact sweep back through them.
//
// With H the features, each with a 1 behind it where there is a bias, W the weights, each row with
// its bias behind it, P_t = softmax(H W_t'), Y the labels and G_t = (P_t - Y) / n:
//
//   W_t+1 = W_t - lr G_t' H
//
// Back, with V_t the loss's gradient by W_t, that by G_t is -lr H V_t+1', and
//
//   Q_t = P_t (U_t - <P_t, U_t>) / n   by the logits of step t,   U_t = -lr H V_t+1'
//   V_t = V_t+1 + Q_t' H
//   dH  = sum_t Q_t W_t - lr G_t V_t+1
//
// The P_t are all that is kept. W_t and V_t stay in the span of the given ones and of H. With few
// samples it is cheaper to iterate on n x n products, K = H H', and on the sums A_t = G_0 + ... +
// G_t-1 and B_t = Q_t + ... + Q_T-1 (here "in samples"): W_t = W_0 - lr A_t' H and
// V_t = V_T + B_t' H, so that
//
//   dH = B_0 W_0 - lr A_T V_T - lr (X + X') H,   X = sum_t B_t+1 G_t'.
//
// All arrays of samples have a column a sample.
#pragma once
#include <cstring>
#include <memory>

#include "padded_rows.h"
#include "softmax_descent.h"

namespace clfast::cpu {

// Zeros; the rows have room behind them for whole vectors of any level.
template <class T>
class PaddedRows {
 public:
  PaddedRows(int64_t rows, int64_t columns)
      : rows_(rows), ld_(padded(columns)), data_(new T[rows * padded(columns)]()) {}
  T* data() const { return data_.get(); }
  T* row(int64_t i) const { return data_.get() + i * ld_; }
  int64_t rows() const { return rows_; }
  int64_t ld() const { return ld_; }
  void swap(PaddedRows& other) { data_.swap(other.data_); }

 private:
  int64_t rows_, ld_;
  std::unique_ptr<T[]> data_;
};

template <class T>
struct DescentProblem {
  DescentSamples<T> of;
  const T* features;  // [n, dim]
  const T* weight;    // [C, dim], of the first step
  const T* bias;      // [C], or null
  int64_t dim, steps;
  T lr;
};

// Of a step forward and back, products in samples take 3 n per sample and class, others 7 dim.
static inline bool descent_in_samples(int64_t samples, int64_t dim) { return samples <= 2 * dim; }

// out [rows, dim (+ 1)] of rows [rows, dim] with `last`, or ones where it is null, behind each.
template <class T>
void join_columns(const T* rows, const T* last, bool with_last, int64_t dim,
                  const PaddedRows<T>& out) {
  for (int64_t i = 0; i < out.rows(); ++i) {
    std::memcpy(out.row(i), rows + i * dim, static_cast<size_t>(dim) * sizeof(T));
    if (with_last) out.row(i)[dim] = last == nullptr ? T(1) : last[i];
  }
}

template <class T>
void split_columns(const PaddedRows<T>& joined, int64_t dim, T* rows, T* last) {
  for (int64_t i = 0; i < joined.rows(); ++i) {
    std::memcpy(rows + i * dim, joined.row(i), static_cast<size_t>(dim) * sizeof(T));
    if (last != nullptr) last[i] = joined.row(i)[dim];
  }
}

// What forward and back share. for_each(columns, work) calls work(begin, end) on ranges of columns
// that begin at multiples of kDescentColumns, in any order, on any threads.
template <class T, class ForEach>
class Descent {
 public:
  Descent(const DescentProblem<T>& p, const ForEach& for_each)
      : p_(p),
        n_(p.of.samples),
        classes_(p.of.classes),
        dim_(p.dim + (p.bias != nullptr ? 1 : 0)),
        in_samples_(descent_in_samples(p.of.samples, p.dim)),
        for_each_(for_each),
        features_(n_, dim_),
        features_t_(dim_, n_),
        weight_(classes_, dim_),
        gram_(in_samples_ ? n_ : 0, n_) {
    join_columns<T>(p.features, nullptr, p.bias != nullptr, p.dim, features_);
    join_columns<T>(p.weight, p.bias, p.bias != nullptr, p.dim, weight_);
    transposed(features_, n_, dim_, features_t_);
    if (in_samples_) multiply(features_, features_t_, dim_, T(1), nullptr, gram_);
  }

  // predictions [steps, C, n].
  void forward(T* predictions, T* weight_out, T* bias_out) {
    PaddedRows<T> logits(classes_, n_), sums(in_samples_ ? classes_ : 0, n_);
    PaddedRows<T> first(in_samples_ ? classes_ : 0, n_), next(in_samples_ ? classes_ : 0, n_);
    if (in_samples_) multiply(weight_, features_t_, dim_, T(1), nullptr, first);
    for (int64_t t = 0; t < p_.steps; ++t) {
      for_columns(n_, [&](int64_t begin, int64_t end) {
        const auto product =
            in_samples_ ? of(sums, gram_, n_, -p_.lr, first.data(), logits)
                        : of(weight_, features_t_, dim_, T(1), static_cast<T*>(nullptr), logits);
        product_columns(product, begin, end);
        descent_residuals(p_.of, begin, end, logits.data(), logits.ld(), at(predictions, t));
        if (in_samples_) add_columns(sums, logits, begin, end, next);
      });
      if (in_samples_) {
        sums.swap(next);
      } else {
        multiply(logits, features_, n_, -p_.lr, weight_.data(), weight_);
      }
    }
    if (in_samples_) multiply(sums, features_, n_, -p_.lr, weight_.data(), weight_);
    split_columns(weight_, p_.dim, weight_out, bias_out);
  }

  // From the gradients by what forward() gave, bias_grad null without a bias.
  void backward(const T* predictions, const T* weight_grad, const T* bias_grad, T* features_out,
                T* weight_out, T* bias_out) {
    PaddedRows<T> grad(classes_, dim_), of_features(n_, dim_);
    join_columns(weight_grad, bias_grad, bias_grad != nullptr, p_.dim, grad);
    if (in_samples_) {
      back_in_samples(predictions, grad, of_features);
    } else {
      back_in_weights(predictions, grad, of_features);
    }
    split_columns(of_features, p_.dim, features_out, static_cast<T*>(nullptr));
    split_columns(grad, p_.dim, weight_out, bias_out);
  }

 private:
  void back_in_weights(const T* predictions, PaddedRows<T>& grad, PaddedRows<T>& of_features) {
    PaddedRows<T> along(classes_, n_), residuals(classes_, n_);
    PaddedRows<T> along_n(n_, classes_), residuals_n(n_, classes_);
    sum_of_residuals(predictions, residuals);
    multiply(residuals, features_, n_, -p_.lr, weight_.data(), weight_);
    for (int64_t t = p_.steps - 1; t >= 0; --t) {
      for_columns(n_, [&](int64_t begin, int64_t end) {
        product_columns(of(grad, features_t_, dim_, -p_.lr, static_cast<T*>(nullptr), along), begin,
                        end);
        descent_cotangents(p_.of, begin, end, at(predictions, t), along.data(), residuals.data(),
                           along.ld());
        turn(along, begin, end, along_n);
        turn(residuals, begin, end, residuals_n);
      });
      for_columns(dim_, [&](int64_t begin, int64_t end) {
        product_columns(of(residuals, features_, n_, p_.lr, weight_.data(), weight_), begin, end);
        product_columns(of(along_n, weight_, classes_, T(1), of_features.data(), of_features),
                        begin, end);
        product_columns(of(residuals_n, grad, classes_, -p_.lr, of_features.data(), of_features),
                        begin, end);
        product_columns(of(along, features_, n_, T(1), grad.data(), grad), begin, end);
      });
    }
  }

  void back_in_samples(const T* predictions, PaddedRows<T>& grad, PaddedRows<T>& of_features) {
    PaddedRows<T> first(classes_, n_), along(classes_, n_), residuals(classes_, n_);
    PaddedRows<T> sums(classes_, n_), next(classes_, n_), crossed(n_, n_);
    PaddedRows<T> sums_n(n_, classes_), next_n(n_, classes_);
    multiply(grad, features_t_, dim_, -p_.lr, nullptr, first);
    for (int64_t t = p_.steps - 1; t >= 0; --t) {
      for_columns(n_, [&](int64_t begin, int64_t end) {
        product_columns(of(sums, gram_, n_, -p_.lr, first.data(), along), begin, end);
        descent_cotangents(p_.of, begin, end, at(predictions, t), along.data(), residuals.data(),
                           along.ld());
        product_columns(of(sums_n, residuals, classes_, T(1), crossed.data(), crossed), begin, end);
        add_columns(sums, along, begin, end, next);
        turn(next, begin, end, next_n);
      });
      sums.swap(next);
      sums_n.swap(next_n);
    }
    PaddedRows<T> both(n_, n_), steps_n(n_, classes_);
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t k = 0; k < n_; ++k) both.row(i)[k] = crossed.row(i)[k] + crossed.row(k)[i];
    }
    sum_of_residuals(predictions, residuals);
    for_columns(n_, [&](int64_t begin, int64_t end) { turn(residuals, begin, end, steps_n); });
    multiply(sums_n, weight_, classes_, T(1), nullptr, of_features);
    multiply(steps_n, grad, classes_, -p_.lr, of_features.data(), of_features);
    multiply(both, features_, n_, -p_.lr, of_features.data(), of_features);
    multiply(sums, features_, n_, T(1), grad.data(), grad);
  }

  template <class P>
  P* at(P* predictions, int64_t t) const {
    return predictions + t * classes_ * n_;
  }

  // A_T, from the predictions.
  void sum_of_residuals(const T* predictions, const PaddedRows<T>& out) {
    for_columns(n_, [&](int64_t begin, int64_t end) {
      const int64_t last = end < n_ ? end : n_;
      for (int64_t i = 0; i < classes_; ++i) {
        T* sum = out.row(i);
        for (int64_t k = begin; k < end; ++k) sum[k] = T(0);
        for (int64_t t = 0; t < p_.steps; ++t) {
          const T* row = at(predictions, t) + i * n_;
          for (int64_t k = begin; k < last; ++k) sum[k] += row[k];
        }
        for (int64_t k = begin; k < last; ++k) {
          const T shots = p_.of.labels[k] == i ? static_cast<T>(p_.steps) : T(0);
          sum[k] = p_.of.share * (sum[k] - shots);
        }
      }
    });
  }

  static MatrixProduct<T> of(const PaddedRows<T>& a, const PaddedRows<T>& b, int64_t depth, T scale,
                             const T* base, const PaddedRows<T>& out) {
    return {a.data(), a.ld(), a.rows(), b.data(), b.ld(), depth, scale, base, out.data(), out.ld()};
  }

  // out = base + scale a b over all its columns.
  void multiply(const PaddedRows<T>& a, const PaddedRows<T>& b, int64_t depth, T scale,
                const T* base, const PaddedRows<T>& out) {
    for_columns(out.ld(), [&](int64_t begin, int64_t end) {
      product_columns(of(a, b, depth, scale, base, out), begin, end);
    });
  }

  // Columns up to the leading dimension: whole vectors.
  template <class Work>
  void for_columns(int64_t columns, const Work& work) {
    for_each_(padded(columns), work);
  }

  void add_columns(const PaddedRows<T>& a, const PaddedRows<T>& b, int64_t begin, int64_t end,
                   const PaddedRows<T>& out) const {
    for (int64_t i = 0; i < out.rows(); ++i) {
      for (int64_t k = begin; k < end; ++k) out.row(i)[k] = a.row(i)[k] + b.row(i)[k];
    }
  }

  // Rows [begin, end) of out, but for those behind its last.
  void turn(const PaddedRows<T>& from, int64_t begin, int64_t end, const PaddedRows<T>& out) const {
    const int64_t last = end < out.rows() ? end : out.rows();
    if (begin < last) {
      descent_transpose(from.data(), from.ld(), from.rows(), begin, last, out.data(), out.ld());
    }
  }

  void transposed(const PaddedRows<T>& from, int64_t rows, int64_t columns,
                  const PaddedRows<T>& out) const {
    descent_transpose(from.data(), from.ld(), rows, 0, columns, out.data(), out.ld());
  }

  const DescentProblem<T>& p_;
  int64_t n_, classes_, dim_;
  bool in_samples_;
  const ForEach& for_each_;
  PaddedRows<T> features_, features_t_, weight_, gram_;
};

}  // namespace clfast::cpu
