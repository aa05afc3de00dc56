#include "softmax_descent.h"

namespace clfast::cpu {

#define CLFAST_PICK_DESCENT(T)                                                                     \
  void descent_product(const DescentProduct<T>& product, int64_t row, int64_t row_end,             \
                       int64_t panel, int64_t panel_end) {                                         \
    CLFAST_CALL_AT_LEVEL(descent_product(product, row, row_end, panel, panel_end));                \
  }                                                                                                \
  void descent_predict(const DescentSamples<T>& of, int64_t first, T* logits, T* predictions,      \
                       const T* base, T* rows, int64_t ld) {                                       \
    CLFAST_CALL_AT_LEVEL(descent_predict(of, first, logits, predictions, base, rows, ld));         \
  }                                                                                                \
  void descent_undo(const DescentSamples<T>& of, int64_t first, const T* predictions, T* rows,     \
                    int64_t ld) {                                                                  \
    CLFAST_CALL_AT_LEVEL(descent_undo(of, first, predictions, rows, ld));                          \
  }                                                                                                \
  void descent_sums(const DescentSamples<T>& of, const T* predictions, int64_t steps, int64_t row, \
                    int64_t row_end, T* out, int64_t ld) {                                         \
    CLFAST_CALL_AT_LEVEL(descent_sums(of, predictions, steps, row, row_end, out, ld));             \
  }                                                                                                \
  void descent_cotangents(const DescentSamples<T>& of, int64_t first, const T* predictions,        \
                          T* panels, const T* base, T* rows, int64_t ld) {                         \
    CLFAST_CALL_AT_LEVEL(descent_cotangents(of, first, predictions, panels, base, rows, ld));      \
  }                                                                                                \
  void descent_row_sums(const T* rows, int64_t ld, int64_t count, int64_t row, int64_t row_end,    \
                        T* sums) {                                                                 \
    CLFAST_CALL_AT_LEVEL(descent_row_sums(rows, ld, count, row, row_end, sums));                   \
  }                                                                                                \
  void descent_turned(const T* panel, int64_t dim, int64_t count, T* out, int64_t ld) {            \
    CLFAST_CALL_AT_LEVEL(descent_turned(panel, dim, count, out, ld));                              \
  }
CLFAST_PICK_DESCENT(float)
CLFAST_PICK_DESCENT(double)

}  // namespace clfast::cpu
