// Logits of the new classes scaled and shifted (BiC), and the gradients.
#pragma once
#include <cstdint>

#include "simd.h"

namespace clfast::cpu {

// Rows [begin, end). bias_correct: out_c = factors_c z_c + offsets_c. bias_correct_gradients: out_c
// = factors_c g_c, and sums [N, 2], of g_c z_c and of g_c over the new classes, where is_new is not
// 0.
#define CLFAST_BIAS_CORRECT(T)                                                                   \
  void bias_correct(const T* logits, const T* factors, const T* offsets, int64_t classes,        \
                    int64_t begin, int64_t end, T* out);                                         \
  void bias_correct_gradients(const T* grad, const T* logits, const T* factors, const T* is_new, \
                              int64_t classes, int64_t begin, int64_t end, T* out, T* sums);
CLFAST_BIAS_CORRECT(float)
CLFAST_BIAS_CORRECT(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_BIAS_CORRECT(float) CLFAST_BIAS_CORRECT(double))

}  // namespace clfast::cpu
