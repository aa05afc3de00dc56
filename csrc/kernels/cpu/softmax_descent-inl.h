// Included once per SIMD level.
#include "exp-inl.h"
#include "gemm-inl.h"
#include "softmax_descent.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <bool kTurned, class T>
inline void multiply_panels(const DescentProduct<T>& p, int64_t row, int64_t row_end, int64_t panel,
                            int64_t panel_end) {
  constexpr int64_t width = kTileColumns<T>;
  for (; panel < panel_end; ++panel) {
    const int64_t rest = p.columns - panel * width, at = panel * p.out.panel + row * p.out.ld;
    gemm<kTurned>(p.a + (kTurned ? row : row * p.lda), p.lda, row_end - row,
                  RowMajor<T>{p.b.data + panel * p.b.panel, p.b.ld}, rest < width ? rest : width,
                  p.depth, [&](int64_t r, int64_t height, int64_t, int64_t own, const T* tile) {
                    for (int64_t i = r; i < r + height; ++i, tile += width) {
                      T* out = p.out.data + at + i * p.out.ld;
                      const T* base = p.base == nullptr ? out : p.base + at + i * p.out.ld;
                      const Vector<T> shift =
                          (p.shift == nullptr ? T(0) : p.shift[row + i]) - Vector<T>{};
                      for_vectors<T>(own, [&](int64_t j, int64_t lanes) {
                        Vector<T> sum = load(tile + j) + shift;
                        if (p.base != nullptr) sum += load_first(base + j, lanes, T(0));
                        store_first<T>(out + j, lanes, sum);
                      });
                    }
                  });
  }
}

// f(class, column, lanes) for the vectors of a panel of the samples from `first` on, of which the
// last panel may have fewer than columns.
template <class T, class F>
inline __attribute__((always_inline)) void for_panel(const DescentSamples<T>& of, int64_t first,
                                                     const F& f) {
  constexpr int64_t width = kTileColumns<T>;
  const int64_t count = of.samples - first;
  for (int64_t i = 0; i < of.classes; ++i) {
    if (count >= width) {
#pragma GCC unroll 2
      for (int64_t j = 0; j < width; j += kLanes<T>) f(i, j, int64_t{kLanes<T>});
    } else {
      for_vectors<T>(count, [&](int64_t j, int64_t lanes) { f(i, j, lanes); });
    }
  }
}

// f(sample, its label) for the same samples.
template <class T, class F>
inline void for_labels(const DescentSamples<T>& of, int64_t first, const F& f) {
  const int64_t end = first + kTileColumns<T>;
  for (int64_t k = first; k < end && k < of.samples; ++k) f(k, of.labels[k]);
}

template <class T>
inline void predict_panel(const DescentSamples<T>& of, int64_t first, T* logits, T* predictions,
                          const T* base, T* rows, int64_t ld) {
  constexpr int64_t width = kTileColumns<T>;
  Vector<T> top[kTileVectors], sum[kTileVectors];
  const auto each = [&](int64_t i, const auto& f) {
#pragma GCC unroll 2
    for (int v = 0; v < kTileVectors; ++v) f(top[v], sum[v], logits + i * width + v * kLanes<T>);
  };
  each(0, [](auto& most, auto& total, T* z) { most = load(z), total = Vector<T>{}; });
  for (int64_t i = 1; i < of.classes; ++i) {
    each(i, [](auto& most, auto&, T* z) { most = load(z) > most ? load(z) : most; });
  }
  for (int64_t i = 0; i < of.classes; ++i) {
    each(i, [](auto& most, auto& total, T* z) {
      const Vector<T> power = exp_of(load(z) - most);
      store<T>(z, power);
      total += power;
    });
  }
  each(0, [](auto&, auto& total, T*) { total = T(1) / total; });
  for_panel(of, first, [&](int64_t i, int64_t j, int64_t lanes) {
    const Vector<T> p = load(logits + i * width + j) * sum[j / kLanes<T>];
    store_first<T>(predictions + i * of.samples + first + j, lanes, p);
    Vector<T> move = of.rate * p;
    const int64_t at = i * ld + first + j;
    if (base != nullptr) move += load(base + at);
    store<T>(rows + at, move);
  });
  for_labels(of, first, [&](int64_t k, int64_t own) {
    const T before = base == nullptr ? T(0) : base[own * ld + k];
    rows[own * ld + k] = before + of.rate * (predictions[own * of.samples + k] - T(1));
  });
}

template <class T>
inline void undo_panel(const DescentSamples<T>& of, int64_t first, const T* predictions, T* rows,
                       int64_t ld) {
  for_panel(of, first, [&](int64_t i, int64_t j, int64_t lanes) {
    const Vector<T> p = load_first(predictions + i * of.samples + first + j, lanes, T(0));
    store<T>(rows + i * ld + first + j, -of.rate * p);
  });
  for_labels(of, first, [&](int64_t k, int64_t own) {
    rows[own * ld + k] = of.rate * (T(1) - predictions[own * of.samples + k]);
  });
}

template <class T>
inline void sum_residuals(const DescentSamples<T>& of, const T* predictions, int64_t steps,
                          int64_t row, int64_t row_end, T* out, int64_t ld) {
  const int64_t n = of.samples;
  for (int64_t i = row; i < row_end; ++i) {
    for (int64_t k = 0; k < n; ++k) out[i * ld + k] = T(0);
  }
  for (int64_t t = 0; t < steps; ++t) {
    for (int64_t i = row; i < row_end; ++i) {
      const T* p = predictions + (t * of.classes + i) * n;
      for_vectors<T>(n, [&](int64_t k, int64_t lanes) {
        T* sum = out + i * ld + k;
        store<T>(sum, load(sum) + load_first(p + k, lanes, T(0)));
      });
    }
  }
  for (int64_t k = 0; k < n; ++k) {
    const int64_t own = of.labels[k];
    if (own >= row && own < row_end) out[own * ld + k] -= static_cast<T>(steps);
  }
  for (int64_t i = row; i < row_end; ++i) {
    for (int64_t k = 0; k < n; ++k) out[i * ld + k] *= of.rate;
  }
}

template <class T>
inline void cotangents_of_panel(const DescentSamples<T>& of, int64_t first, const T* predictions,
                                T* panels, const T* base, T* rows, int64_t ld) {
  constexpr int64_t width = kTileColumns<T>;
  T* along = panels + of.classes * width;
  Vector<T> mean[kTileVectors] = {};
  for_panel(of, first, [&](int64_t i, int64_t j, int64_t lanes) {
    const Vector<T> p = load_first(predictions + i * of.samples + first + j, lanes, T(0));
    mean[j / kLanes<T>] += p * load(along + i * width + j);
  });
  for_panel(of, first, [&](int64_t i, int64_t j, int64_t lanes) {
    const Vector<T> p = load_first(predictions + i * of.samples + first + j, lanes, T(0));
    const int64_t at = i * ld + first + j;
    T* own = along + i * width + j;
    Vector<T> slope = of.rate * p * (load(own) - mean[j / kLanes<T>]);
    store<T>(own, slope);
    if (base != nullptr) slope += load(base + at);
    store<T>(rows + at, slope);
    store<T>(panels + i * width + j, of.rate * p);
  });
  for_labels(of, first, [&](int64_t k, int64_t own) {
    panels[own * width + k - first] = of.rate * (predictions[own * of.samples + k] - T(1));
  });
}

template <class T>
inline void add_row_sums(const T* rows, int64_t ld, int64_t count, int64_t row, int64_t row_end,
                         T* sums) {
  for (; row < row_end; ++row) {
    Vector<T> sum = {};
    for_vectors<T>(count, [&](int64_t j, int64_t lanes) {
      sum += load_first(rows + row * ld + j, lanes, T(0));
    });
    sums[row] += sum_lanes<T>(sum);
  }
}

#define CLFAST_DESCENT_OF(T)                                                                       \
  void descent_product(const DescentProduct<T>& product, int64_t row, int64_t row_end,             \
                       int64_t panel, int64_t panel_end) {                                         \
    if (product.turned) {                                                                          \
      multiply_panels<true>(product, row, row_end, panel, panel_end);                              \
    } else {                                                                                       \
      multiply_panels<false>(product, row, row_end, panel, panel_end);                             \
    }                                                                                              \
  }                                                                                                \
  void descent_predict(const DescentSamples<T>& of, int64_t first, T* logits, T* predictions,      \
                       const T* base, T* rows, int64_t ld) {                                       \
    predict_panel(of, first, logits, predictions, base, rows, ld);                                 \
  }                                                                                                \
  void descent_undo(const DescentSamples<T>& of, int64_t first, const T* predictions, T* rows,     \
                    int64_t ld) {                                                                  \
    undo_panel(of, first, predictions, rows, ld);                                                  \
  }                                                                                                \
  void descent_sums(const DescentSamples<T>& of, const T* predictions, int64_t steps, int64_t row, \
                    int64_t row_end, T* out, int64_t ld) {                                         \
    sum_residuals(of, predictions, steps, row, row_end, out, ld);                                  \
  }                                                                                                \
  void descent_cotangents(const DescentSamples<T>& of, int64_t first, const T* predictions,        \
                          T* panels, const T* base, T* rows, int64_t ld) {                         \
    cotangents_of_panel(of, first, predictions, panels, base, rows, ld);                           \
  }                                                                                                \
  void descent_row_sums(const T* rows, int64_t ld, int64_t count, int64_t row, int64_t row_end,    \
                        T* sums) {                                                                 \
    add_row_sums(rows, ld, count, row, row_end, sums);                                             \
  }                                                                                                \
  void descent_turned(const T* panel, int64_t dim, int64_t count, T* out, int64_t ld) {            \
    transpose(panel, kTileColumns<T>, dim, count, out, ld, (dim + 15) / 16 * 16);                  \
  }
CLFAST_DESCENT_OF(float)
CLFAST_DESCENT_OF(double)
#undef CLFAST_DESCENT_OF

}  // namespace clfast::cpu::CLFAST_LEVEL
