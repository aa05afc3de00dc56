// MbPA: `steps` optimiser steps of the output layer on (1/K) sum_k c_k CE(W h_k + b, y_k), for each
// query on its own (Hebb paper, Eq. 5). Nothing but the state of the query in work is kept.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "../common/optimizer_step.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct MbpaProblem {
  Neighbourhood<T> neighbourhood;
  const T* weight;  // [C, d]
  const T* bias;    // [C], or null: a layer without bias
  int64_t steps;
  T lr;
  Optimizer optimizer;
};

// Elements of T that one query needs in scratch.
template <class T>
int64_t mbpa_scratch(const MbpaProblem<T>& problem);

// Queries [begin, end): delta_weight [B, C, d], delta_bias [B, C]. Returns the first fault.
#define CLFAST_MBPA_UPDATE(T)                                                                \
  Finding mbpa_update(const MbpaProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                      T* delta_weight, T* delta_bias);
CLFAST_MBPA_UPDATE(float)
CLFAST_MBPA_UPDATE(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_MBPA_UPDATE(float) CLFAST_MBPA_UPDATE(double))

}  // namespace clfast::cpu
