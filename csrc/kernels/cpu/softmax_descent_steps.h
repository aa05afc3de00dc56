// T steps of gradient descent on softmax regression, and the exact sweep back through them.
//
// With H the features, W the weights, b the biases, P_t = softmax(H W_t' + b_t), Y the labels and
// N_t = -lr (P_t - Y) / n:
//
//   W_t+1 = W_t + N_t' H
//
// Back, with V_t the loss's gradient by W_t, and c_t that by b_t:
//
//   Q_t = -lr P_t (U_t - <P_t, U_t>) / n   by the logits of step t,   U_t = H V_t+1' + c_t+1
//   V_t = V_t+1 + Q_t' H
//   dH  = sum_t Q_t W_t + N_t V_t+1
//
// A bias moves as its weights do, with 1 in place of H, and adds nothing to dH.
//
// The P_t are all that is kept. W_t and V_t stay in the span of the given ones and of H. With few
// samples it is cheaper to iterate on n x n products, K = H H' (+ 1 with biases), and on the sums
// A_t = N_0 + ... + N_t-1 and B_t = Q_t + ... + Q_T-1 (here "in samples"): W_t = W_0 + A_t' H and
// V_t = V_T + B_t' H, so that
//
//   dH = B_0 W_0 + A_T V_T + (X + X') H,   X = sum_t B_t+1 N_t'.
//
// Arrays of samples have a column a sample. What concerns a sample alone, which is all but what
// changes W and V, is done for a panel of samples after the other, from product to product, while
// the panel is in the L1 cache. The sweep has no W_t but goes back through them as it came: a
// seventh more products than with all W_t in memory.
#pragma once
#include <algorithm>
#include <memory>

#include "padded_rows.h"
#include "rows.h"
#include "softmax_descent.h"

namespace clfast::cpu {

template <class T>
struct DescentProblem {
  DescentSamples<T> of;
  const T* features;  // [n, dim]
  const T* weight;    // [C, dim], of the first step
  const T* bias;      // [C], or null
  int64_t dim, steps;
};

// Of a step forward and back, products in samples take 3 n per sample and class, others 7 dim.
static inline bool descent_in_samples(int64_t samples, int64_t dim) { return samples <= 2 * dim; }

// Terms of a long sum at a time: so many rows of two panels are in the L1 cache.
constexpr int64_t kDescentDepth = 256;

// Zeros; `columns` and whole panels of them fit into a row.
template <class T>
class DescentRows {
 public:
  DescentRows(int64_t rows, int64_t columns, int64_t width)
      : width_(width),
        ld_(padded(round_up(columns, width))),
        data_(new T[static_cast<size_t>(rows * ld_)]()) {}
  T* row(int64_t i) const { return data_.get() + i * ld_; }
  int64_t ld() const { return ld_; }
  Panelled<T> all() const { return {row(0), ld_, width_}; }
  void swap(DescentRows& other) { data_.swap(other.data_); }

 private:
  int64_t width_, ld_;
  std::unique_ptr<T[]> data_;
};

// Zeros; panels of [rows, width] each.
template <class T>
class DescentPanels {
 public:
  DescentPanels(int64_t rows, int64_t columns, int64_t width)
      : rows_(rows),
        width_(width),
        data_(new T[static_cast<size_t>(rows * round_up(columns, width))]()) {}
  T* panel(int64_t j) const { return data_.get() + j * rows_ * width_; }
  Panelled<T> all() const { return {panel(0), width_, rows_ * width_}; }

 private:
  int64_t rows_, width_;
  std::unique_ptr<T[]> data_;
};

// What forward and back share. for_each(count, products, work) calls work(begin, end) on ranges of
// `count` pieces of so many products each, in any order, on any threads.
template <class T, class ForEach>
class Descent {
  using Rows = DescentRows<T>;
  using Panels = DescentPanels<T>;

 public:
  Descent(const DescentProblem<T>& p, const ForEach& for_each)
      : p_(p),
        n_(p.of.samples),
        dim_(p.dim),
        classes_(p.of.classes),
        width_(panel_columns<T>(simd_level())),
        in_samples_(descent_in_samples(n_, dim_)),
        for_each_(for_each),
        features_(n_, dim_, width_),
        features_t_(dim_, n_, width_),
        gram_(in_samples_ ? n_ : 0, n_, width_) {
    for_each_(divide_up(n_, width_), width_ * dim_, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        pack_panels(simd_level(), p.features + j * width_ * dim_, samples_of(j), dim_,
                    features_t_.panel(j));
      }
    });
    for (int64_t c = 0; c < dim_; c += width_) {
      T* panel = features_.panel(c / width_);
      for (int64_t i = 0; i < n_; ++i) {
        std::copy_n(p.features + i * dim_ + c, std::min(width_, dim_ - c), panel + i * width_);
      }
    }
    if (in_samples_) {
      const std::unique_ptr<T[]> ones(new T[static_cast<size_t>(n_)]);
      std::fill_n(ones.get(), n_, T(1));
      const T* shift = p.bias == nullptr ? nullptr : ones.get();
      multiply(
          {p.features, dim_, false, given(features_t_), dim_, nullptr, shift, gram_.all(), n_, n_});
    }
  }

  // predictions [steps, C, n].
  void forward(T* predictions, T* weight_out, T* bias_out) {
    Rows weight(classes_, dim_, width_), moves(classes_, n_, width_);
    copy_in(p_.weight, weight.row(0), weight.ld());
    if (bias_out != nullptr) std::copy_n(p_.bias, classes_, bias_out);
    const auto predict = [&](int64_t j, int64_t t, T* panel, const T* base, const Rows& to) {
      descent_predict(p_.of, j * width_, panel, predictions + t * classes_ * n_, base, to.row(0),
                      to.ld());
    };
    if (in_samples_) {
      Rows next(classes_, n_, width_);
      Panels first(classes_, n_, width_);
      multiply(logits(weight.row(0), weight.ld(), bias_out, first.all()));
      for (int64_t t = 0; t < p_.steps; ++t) {
        for_panels(classes_, classes_ * n_, [&](int64_t j, T* panel) {
          multiply_panel(in_gram(moves, first.panel(j)), j, panel);
          predict(j, t, panel, moves.row(0), next);
        });
        moves.swap(next);
      }
      add_moves(moves, classes_, weight, bias_out);
    } else {
      for (int64_t t = 0; t < p_.steps; ++t) {
        for_panels(classes_, classes_ * dim_, [&](int64_t j, T* panel) {
          multiply_panel(logits(weight.row(0), weight.ld(), bias_out, {}), j, panel);
          predict(j, t, panel, nullptr, moves);
        });
        add_moves(moves, classes_, weight, bias_out);
      }
    }
    copy_out(weight.row(0), weight.ld(), weight_out);
  }

  // From the gradients by what forward() gave, bias_grad null without a bias.
  void backward(const T* predictions, const T* weight_grad, const T* bias_grad, T* features_out,
                T* weight_out, T* bias_out) {
    if (bias_out != nullptr) std::copy_n(bias_grad, classes_, bias_out);
    if (in_samples_) {
      back_in_samples(predictions, weight_grad, features_out, weight_out, bias_out);
    } else {
      back_in_weights(predictions, weight_grad, features_out, weight_out, bias_out);
    }
  }

 private:
  // The layer is [V; W], what moves it [Q; -N], and what the features get it by [N; Q].
  void back_in_weights(const T* predictions, const T* weight_grad, T* features_out, T* weight_out,
                       T* bias_out) {
    Rows layer(2 * classes_, dim_, width_), moves(2 * classes_, n_, width_);
    Panels of_features(dim_, n_, width_);
    T *const weight = layer.row(classes_), *const undone = moves.row(classes_);
    copy_in(p_.weight, weight, layer.ld());
    sum_residuals(predictions, std::max<int64_t>(p_.steps - 1, 0), undone, moves.ld());
    multiply({undone,
              moves.ld(),
              false,
              given(features_),
              n_,
              weight,
              nullptr,
              {weight, layer.ld(), width_},
              classes_,
              dim_});
    copy_in(weight_grad, layer.row(0), layer.ld());
    for (int64_t t = p_.steps - 1; t >= 0; --t) {
      const T* now = predictions + t * classes_ * n_;
      for_panels(2 * classes_, 3 * classes_ * dim_, [&](int64_t j, T* residuals) {
        T* along = residuals + classes_ * width_;
        multiply_panel(logits(layer.row(0), layer.ld(), bias_out, {}), j, along);
        descent_cotangents(p_.of, j * width_, now, residuals, static_cast<const T*>(nullptr),
                           moves.row(0), moves.ld());
        add_turned(layer, 2 * classes_, residuals, dim_, of_features.panel(j));
        if (t > 0) {  // of W_t-1, which the step before needs
          descent_undo(p_.of, j * width_, now - classes_ * n_, undone, moves.ld());
        }
      });
      add_moves(moves, t > 0 ? 2 * classes_ : classes_, layer, bias_out);
    }
    for_each_(divide_up(n_, width_), width_ * dim_, [&](int64_t begin, int64_t end) {
      Rows turned(width_, dim_, width_);
      for (int64_t j = begin; j < end; ++j) {
        descent_turned(of_features.panel(j), dim_, samples_of(j), turned.row(0), turned.ld());
        for (int64_t i = 0; i < samples_of(j); ++i) {
          std::copy_n(turned.row(i), dim_, features_out + (j * width_ + i) * dim_);
        }
      }
    });
    copy_out(layer.row(0), layer.ld(), weight_out);
  }

  void back_in_samples(const T* predictions, const T* weight_grad, T* features_out, T* weight_out,
                       T* bias_out) {
    Rows grad(classes_, dim_, width_), weight(classes_, dim_, width_);
    Rows moves(classes_, n_, width_), next(classes_, n_, width_);
    Panels first(classes_, n_, width_), crossed(n_, n_, width_);
    copy_in(weight_grad, grad.row(0), grad.ld());
    multiply(logits(grad.row(0), grad.ld(), bias_out, first.all()));
    for (int64_t t = p_.steps - 1; t >= 0; --t) {
      const T* now = predictions + t * classes_ * n_;
      for_panels(2 * classes_, 2 * classes_ * n_, [&](int64_t j, T* residuals) {
        T* along = residuals + classes_ * width_;
        multiply_panel(in_gram(moves, first.panel(j)), j, along);
        descent_cotangents(p_.of, j * width_, now, residuals, moves.row(0), next.row(0), next.ld());
        add_turned(moves, classes_, residuals, n_, crossed.panel(j));
      });
      moves.swap(next);
    }
    Rows both(n_, n_, width_), out(n_, dim_, width_);
    for_each_(n_, n_, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* turned = crossed.panel(i / width_) + i % width_;
        for (int64_t k = 0; k < n_; k += width_) {
          const T* own = crossed.panel(k / width_) + i * width_;
          for (int64_t c = 0; c < std::min(width_, n_ - k); ++c) {
            both.row(i)[k + c] = own[c] + turned[(k + c) * width_];
          }
        }
      }
    });
    multiply({both.row(0), both.ld(), false, given(features_), n_, nullptr, nullptr, out.all(), n_,
              dim_});
    copy_in(p_.weight, weight.row(0), weight.ld());
    const auto add = [&](const Rows& of_samples, const Rows& layer) {
      multiply({of_samples.row(0), of_samples.ld(), true, given(layer), classes_, out.row(0),
                nullptr, out.all(), n_, dim_});
    };
    add(moves, weight);
    sum_residuals(predictions, p_.steps, next.row(0), next.ld());
    add(next, grad);
    for (int64_t i = 0; i < n_; ++i) std::copy_n(out.row(i), dim_, features_out + i * dim_);
    add_moves(moves, classes_, grad, bias_out);
    copy_out(grad.row(0), grad.ld(), weight_out);
  }

  template <class Matrix>
  static Panelled<const T> given(const Matrix& matrix) {
    const Panelled<T> all = matrix.all();
    return {all.data, all.ld, all.panel};
  }

  int64_t samples_of(int64_t panel) const { return std::min(width_, n_ - panel * width_); }

  // shift + layer H'; and base + moves K.
  DescentProduct<T> logits(const T* layer, int64_t ld, const T* shift, Panelled<T> out) const {
    return {layer, ld, false, given(features_t_), dim_, nullptr, shift, out, classes_, n_};
  }
  DescentProduct<T> in_gram(const Rows& moves, const T* base) const {
    return {moves.row(0), moves.ld(), false, given(gram_), n_, base, nullptr, {}, classes_, n_};
  }

  // A product, on all threads.
  void multiply(const DescentProduct<T>& product) const {
    multiply(product, [](int64_t, int64_t) {});
  }

  // The same; of_rows(begin, end) is called on ranges of all rows.
  template <class OfRows>
  void multiply(const DescentProduct<T>& product, const OfRows& of_rows) const {
    constexpr int64_t rows = 24;  // whole tiles at all levels
    const int64_t blocks = divide_up(product.rows, rows);
    for_each_(blocks * divide_up(product.columns, width_), rows * width_ * product.depth,
              [&](int64_t begin, int64_t end) {
                for (int64_t p = 0; p == 0 || p < product.depth; p += kDescentDepth) {
                  const DescentProduct<T> part = part_of(product, p);
                  for (int64_t i = begin; i < end; ++i) {
                    const int64_t row = i % blocks * rows;
                    descent_product(part, row, std::min(row + rows, part.rows), i / blocks,
                                    i / blocks + 1);
                  }
                }
                for (int64_t i = begin; i < end && i < blocks; ++i) {
                  of_rows(i * rows, std::min((i + 1) * rows, product.rows));
                }
              });
  }

  // What the sums over kDescentDepth terms from p on add to those before.
  static DescentProduct<T> part_of(DescentProduct<T> product, int64_t p) {
    product.a += p * (product.turned ? product.lda : 1);
    product.b.data += p * product.b.ld;
    product.depth = std::min(product.depth - p, kDescentDepth);
    if (p > 0) product.base = product.out.data, product.shift = nullptr;
    return product;
  }

  // Panel j of a product's columns, into a whole panel.
  void multiply_panel(DescentProduct<T> product, int64_t j, T* panel) const {
    product.b.data += j * product.b.panel;
    product.out = {panel, width_, 0};
    product.columns = width_;
    descent_product(product, 0, product.rows, 0, 1);
  }

  // panel += a' residuals of the first `depth` rows of a, for `rows` rows of a whole panel.
  void add_turned(const Rows& a, int64_t depth, const T* residuals, int64_t rows, T* panel) const {
    const Panelled<T> out{panel, width_, 0};
    descent_product(
        {a.row(0), a.ld(), true, {residuals, width_, 0}, depth, panel, nullptr, out, rows, width_},
        0, rows, 0, 1);
  }

  // layer += moves H for the first `rows` rows, and the biases, of which there are C or none, by
  // the sums of their rows.
  void add_moves(const Rows& moves, int64_t rows, const Rows& layer, T* bias) const {
    multiply({moves.row(0), moves.ld(), false, given(features_), n_, layer.row(0), nullptr,
              layer.all(), rows, dim_},
             [&](int64_t begin, int64_t end) {
               end = std::min(end, bias == nullptr ? 0 : classes_);
               if (begin < end) descent_row_sums(moves.row(0), moves.ld(), n_, begin, end, bias);
             });
  }

  // work(j, scratch [rows, width]) for every panel of samples.
  template <class Work>
  void for_panels(int64_t rows, int64_t products, const Work& work) const {
    for_each_(divide_up(n_, width_), width_ * products, [&](int64_t begin, int64_t end) {
      const std::unique_ptr<T[]> panel(new T[static_cast<size_t>(rows * width_)]());
      for (int64_t j = begin; j < end; ++j) work(j, panel.get());
    });
  }

  void sum_residuals(const T* predictions, int64_t steps, T* out, int64_t ld) const {
    for_each_(classes_, n_ * p_.steps, [&](int64_t begin, int64_t end) {
      descent_sums(p_.of, predictions, steps, begin, end, out, ld);
    });
  }

  void copy_in(const T* rows, T* out, int64_t ld) const {
    for (int64_t i = 0; i < classes_; ++i) std::copy_n(rows + i * dim_, dim_, out + i * ld);
  }
  void copy_out(const T* rows, int64_t ld, T* out) const {
    for (int64_t i = 0; i < classes_; ++i) std::copy_n(rows + i * ld, dim_, out + i * dim_);
  }

  const DescentProblem<T>& p_;
  int64_t n_, dim_, classes_, width_;
  bool in_samples_;
  const ForEach& for_each_;
  Panels features_, features_t_, gram_;
};

}  // namespace clfast::cpu
