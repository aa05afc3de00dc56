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
  T rate;  // -lr / n
};

// Where element (r, c) of a matrix lies, with w the panel_columns() of rows.h: at [c / w * panel +
// r * ld + c % w]. Panels of their own have ld = w; of a row-major matrix, panel is w.
template <class T>
struct Panelled {
  T* data;
  int64_t ld, panel;
};

// out = base + shift + a b, of a [rows, depth] and b [depth, columns]. The rows of a lie lda apart,
// or its columns where it is turned. base lies as out does, and may be out; a row has one shift;
// both may be null for 0.
template <class T>
struct DescentProduct {
  const T* a;
  int64_t lda;
  bool turned;
  Panelled<const T> b;
  int64_t depth;
  const T *base, *shift;
  Panelled<T> out;
  int64_t rows, columns;
};

// A panel [C, w] of the w samples from `first` on, where there are so many; predictions [C, n] of a
// step; rows of samples [C, ld], of which the panel's columns are written. N = -lr (P - Y) / n is
// -lr times the gradient of the mean cross-entropy by the logits.
//
// descent_product: rows [row, row_end) of panels [panel, panel_end) of out.
// descent_predict: the softmax P of a panel of logits, which becomes scratch, and rows = base + N;
// base may be null for 0.
// descent_undo: rows = -N.
// descent_sums: rows [row, row_end) of out, the sum of N over `steps` steps, whose predictions lie
// behind one another.
// descent_cotangents: of panels [2, C, w], the second one the gradient U of the loss by N, becomes
// Q = -lr P (U - <P, U>) / n, the loss's gradient by the logits, and the first one N; rows = base +
// Q; base may be null for 0.
// descent_row_sums: sums += the sums of rows [., count] from `row` up to `row_end`.
// descent_turned: rows [count, ld] of out from a panel [dim, w], with room for `dim` up to the next
// multiple of 16.
#define CLFAST_DESCENT(T)                                                                          \
  void descent_product(const DescentProduct<T>& product, int64_t row, int64_t row_end,             \
                       int64_t panel, int64_t panel_end);                                          \
  void descent_predict(const DescentSamples<T>& of, int64_t first, T* logits, T* predictions,      \
                       const T* base, T* rows, int64_t ld);                                        \
  void descent_undo(const DescentSamples<T>& of, int64_t first, const T* predictions, T* rows,     \
                    int64_t ld);                                                                   \
  void descent_sums(const DescentSamples<T>& of, const T* predictions, int64_t steps, int64_t row, \
                    int64_t row_end, T* out, int64_t ld);                                          \
  void descent_cotangents(const DescentSamples<T>& of, int64_t first, const T* predictions,        \
                          T* panels, const T* base, T* rows, int64_t ld);                          \
  void descent_row_sums(const T* rows, int64_t ld, int64_t count, int64_t row, int64_t row_end,    \
                        T* sums);                                                                  \
  void descent_turned(const T* panel, int64_t dim, int64_t count, T* out, int64_t ld);
CLFAST_DESCENT(float)
CLFAST_DESCENT(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_DESCENT(float) CLFAST_DESCENT(double))

}  // namespace clfast::cpu
