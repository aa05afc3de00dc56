// Hebb paper, Eq. 8: the classifier's prediction mixed with that of the neighbours' labels, whose
// weights are e^{theta <h_k, h>}. All sums are log-sum-exps, so no theta <h_k, h> overflows.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct MixtureProblem {
  Neighbourhood<T> neighbourhood;
  const T* logits;               // [B, C]
  const T* queries;              // [B, d]
  T theta, log_gamma, log_rest;  // log gamma and log(1 - gamma), -infinity allowed
  bool joint;             // the paper's unnormalised sum, else a mixture of two distributions
  const T* key_sq_norms;  // [M], or null
};

// Queries [begin, end) of out [B, C]. scratch: d + 2 K + 2 C elements. Returns the first fault.
#define CLFAST_MIXTURE_LOG_PROBS(T)                                                       \
  Finding mixture_log_probs(const MixtureProblem<T>& problem, int64_t begin, int64_t end, \
                            T* scratch, T* out);
CLFAST_MIXTURE_LOG_PROBS(float)
CLFAST_MIXTURE_LOG_PROBS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_MIXTURE_LOG_PROBS(float) CLFAST_MIXTURE_LOG_PROBS(double))

}  // namespace clfast::cpu
