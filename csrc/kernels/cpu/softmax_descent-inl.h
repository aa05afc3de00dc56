// Included once per SIMD level.
#include "exp-inl.h"
#include "gemm-inl.h"
#include "softmax_descent.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void multiply_columns(const MatrixProduct<T>& p, int64_t begin, int64_t end) {
  gemm(p.a, p.lda, p.rows, RowMajor<T>{p.b + begin, p.ldb}, end - begin, p.depth,
       [&](int64_t r, int64_t height, int64_t c, int64_t width, const T* tile) {
         for (int64_t i = 0; i < height; ++i) {
           const int64_t at = (r + i) * p.ldo + begin + c;
           const T* sums = tile + i * kTileColumns<T>;
           T* out = p.out + at;
           if (p.base == nullptr) {
             for (int64_t j = 0; j < width; ++j) out[j] = p.scale * sums[j];
           } else {
             const T* base = p.base + at;
             for (int64_t j = 0; j < width; ++j) out[j] = base[j] + p.scale * sums[j];
           }
         }
       });
}

// f(first, count) for the samples among columns [begin, end), some at a time; the columns of
// `array` [rows, ld] behind them become 0.
template <class T, class F>
inline void for_samples(int64_t samples, int64_t rows, int64_t begin, int64_t end, T* array,
                        int64_t ld, F&& f) {
  const int64_t last = samples < end ? samples : end;
  for (int64_t k = begin; k < last; k += kDescentColumns) {
    f(k, last - k < kDescentColumns ? last - k : kDescentColumns);
  }
  for (int64_t k = last > begin ? last : begin; k < end; ++k) {
    for (int64_t i = 0; i < rows; ++i) array[i * ld + k] = T(0);
  }
}

template <class T>
inline void residuals_of_samples(const DescentSamples<T>& of, int64_t begin, int64_t end, T* logits,
                                 int64_t ld, T* predictions) {
  for_samples(of.samples, of.classes, begin, end, logits, ld, [&](int64_t first, int64_t count) {
    T top[kDescentColumns], sum[kDescentColumns];
    for (int64_t k = 0; k < count; ++k) top[k] = logits[first + k], sum[k] = T(0);
    for (int64_t i = 1; i < of.classes; ++i) {
      const T* z = logits + i * ld + first;
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) top[k] = z[k] > top[k] ? z[k] : top[k];
    }
    for (int64_t i = 0; i < of.classes; ++i) {
      T* z = logits + i * ld + first;
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        z[k] = exp_of(z[k] - top[k]);
        sum[k] += z[k];
      }
    }
    for (int64_t k = 0; k < count; ++k) sum[k] = T(1) / sum[k];
    for (int64_t i = 0; i < of.classes; ++i) {
      T *z = logits + i * ld + first, *p = predictions + i * of.samples + first;
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        p[k] = z[k] * sum[k];
        z[k] = of.share * p[k];
      }
    }
    for (int64_t k = first; k < first + count; ++k) {
      T& own = logits[of.labels[k] * ld + k];
      own = of.share * (predictions[of.labels[k] * of.samples + k] - T(1));
    }
  });
}

template <class T>
inline void cotangents_of_samples(const DescentSamples<T>& of, int64_t begin, int64_t end,
                                  const T* predictions, T* along, T* residuals, int64_t ld) {
  for_samples(of.samples, of.classes, begin, end, along, ld, [&](int64_t first, int64_t count) {
    T mean[kDescentColumns];
    for (int64_t k = 0; k < count; ++k) mean[k] = T(0);
    for (int64_t i = 0; i < of.classes; ++i) {
      const T *p = predictions + i * of.samples + first, *u = along + i * ld + first;
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) mean[k] += p[k] * u[k];
    }
    for (int64_t i = 0; i < of.classes; ++i) {
      const T* p = predictions + i * of.samples + first;
      T *u = along + i * ld + first, *g = residuals + i * ld + first;
#pragma omp simd
      for (int64_t k = 0; k < count; ++k) {
        u[k] = of.share * p[k] * (u[k] - mean[k]);
        g[k] = of.share * p[k];
      }
    }
    for (int64_t k = first; k < first + count; ++k) {
      residuals[of.labels[k] * ld + k] =
          of.share * (predictions[of.labels[k] * of.samples + k] - T(1));
    }
  });
}

template <class T>
inline void transpose_columns(const T* from, int64_t ld, int64_t rows, int64_t begin, int64_t end,
                              T* out, int64_t ldo) {
  transpose(from + begin, ld, rows, end - begin, out + begin * ldo, ldo, (rows + 15) / 16 * 16);
}

#define CLFAST_DESCENT_OF(T)                                                                  \
  void product_columns(const MatrixProduct<T>& product, int64_t begin, int64_t end) {         \
    multiply_columns(product, begin, end);                                                    \
  }                                                                                           \
  void descent_residuals(const DescentSamples<T>& of, int64_t begin, int64_t end, T* logits,  \
                         int64_t ld, T* predictions) {                                        \
    residuals_of_samples(of, begin, end, logits, ld, predictions);                            \
  }                                                                                           \
  void descent_cotangents(const DescentSamples<T>& of, int64_t begin, int64_t end,            \
                          const T* predictions, T* along, T* residuals, int64_t ld) {         \
    cotangents_of_samples(of, begin, end, predictions, along, residuals, ld);                 \
  }                                                                                           \
  void descent_transpose(const T* from, int64_t ld, int64_t rows, int64_t begin, int64_t end, \
                         T* out, int64_t ldo) {                                               \
    transpose_columns(from, ld, rows, begin, end, out, ldo);                                  \
  }
CLFAST_DESCENT_OF(float)
CLFAST_DESCENT_OF(double)
#undef CLFAST_DESCENT_OF

}  // namespace clfast::cpu::CLFAST_LEVEL
