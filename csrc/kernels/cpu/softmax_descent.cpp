#include "softmax_descent.h"

namespace clfast::cpu {

#define CLFAST_PICK_DESCENT(T)                                                                   \
  void product_columns(const MatrixProduct<T>& product, int64_t begin, int64_t end) {            \
    CLFAST_CALL_AT_LEVEL(product_columns(product, begin, end));                                  \
  }                                                                                              \
  void descent_residuals(const DescentSamples<T>& of, int64_t begin, int64_t end, T* logits,     \
                         int64_t ld, T* predictions) {                                           \
    CLFAST_CALL_AT_LEVEL(descent_residuals(of, begin, end, logits, ld, predictions));            \
  }                                                                                              \
  void descent_cotangents(const DescentSamples<T>& of, int64_t begin, int64_t end,               \
                          const T* predictions, T* along, T* residuals, int64_t ld) {            \
    CLFAST_CALL_AT_LEVEL(descent_cotangents(of, begin, end, predictions, along, residuals, ld)); \
  }                                                                                              \
  void descent_transpose(const T* from, int64_t ld, int64_t rows, int64_t begin, int64_t end,    \
                         T* out, int64_t ldo) {                                                  \
    CLFAST_CALL_AT_LEVEL(descent_transpose(from, ld, rows, begin, end, out, ldo));               \
  }
CLFAST_PICK_DESCENT(float)
CLFAST_PICK_DESCENT(double)

}  // namespace clfast::cpu
