// The parts of gradient descent on softmax regression, and of the sweep back through it; what they
// make up is in softmax_descent_steps.h. Samples are columns: a vector holds one class of several.
#pragma once
#include <cstdint>

#include "simd.h"

namespace clfast::cpu {

template <class T>
struct DescentSamples {
  const int64_t* labels;  // [n]
  int64_t samples, classes;
  T share;  // 1 / n
};

// out = base + scale a b, of a [rows, depth] and b [depth, columns]; base and out have the same
// leading dimension and may be the same; base may be null for 0.
template <class T>
struct MatrixProduct {
  const T* a;
  int64_t lda, rows;
  const T* b;
  int64_t ldb, depth;
  T scale;
  const T* base;
  T* out;
  int64_t ldo;
};

// Columns are taken in units of so many, and up to the leading dimension.
constexpr int64_t kDescentColumns = 32;

// product_columns: columns [begin, end) of out.
// descent_residuals: logits [C, ld] of samples [begin, end) become the gradient of the mean
// cross-entropy by them, (P - Y) / n, 0 behind the last sample; predictions [C, n] become P.
// descent_cotangents: from P and the gradient `along` [C, ld] of the loss by G = (P - Y) / n, G
// into `residuals` [C, ld], and the loss's gradient by the logits, P (along - <P, along>) / n, into
// `along`; 0 behind the last sample.
// descent_transpose: rows [begin, end) of out [., ldo] are columns of `from` [rows, ld], with zeros
// up to the next 16th column.
#define CLFAST_DESCENT(T)                                                                     \
  void product_columns(const MatrixProduct<T>& product, int64_t begin, int64_t end);          \
  void descent_residuals(const DescentSamples<T>& of, int64_t begin, int64_t end, T* logits,  \
                         int64_t ld, T* predictions);                                         \
  void descent_cotangents(const DescentSamples<T>& of, int64_t begin, int64_t end,            \
                          const T* predictions, T* along, T* residuals, int64_t ld);          \
  void descent_transpose(const T* from, int64_t ld, int64_t rows, int64_t begin, int64_t end, \
                         T* out, int64_t ldo);
CLFAST_DESCENT(float)
CLFAST_DESCENT(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_DESCENT(float) CLFAST_DESCENT(double))

}  // namespace clfast::cpu
