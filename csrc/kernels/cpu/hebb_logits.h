// Logits of the output layer adapted at each query (Hebb paper, Eq. 7):
// W + (1 - E) dW_MbPA + E eta dW_Hebb, without a tensor of size [B, C, d].
#pragma once
#include "mbpa_update.h"

namespace clfast::cpu {

template <class T>
struct HebbLogitsProblem {
  MbpaProblem<T> mbpa;     // steps = 0: no MbPA part
  const T* queries;        // [B, d]
  const T* base_logits;    // [B, C]
  const T* base_bias;      // [C], what base_logits still lack, or null
  const T* interpolation;  // [C], E
  T eta;
  const bool* select;     // [C], classes with a Hebbian update, or null: all
  const T* key_sq_norms;  // [M], or null: the dot products are formed from the keys
};

template <class T>
int64_t hebb_logits_scratch(const HebbLogitsProblem<T>& problem);

// Queries [begin, end) of out [B, C]. Returns the first fault.
#define CLFAST_HEBB_LOGITS(T)                                                                      \
  Finding hebb_logits(const HebbLogitsProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                      T* out);
CLFAST_HEBB_LOGITS(float)
CLFAST_HEBB_LOGITS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_HEBB_LOGITS(float) CLFAST_HEBB_LOGITS(double))

}  // namespace clfast::cpu
