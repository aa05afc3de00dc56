// Hebb paper, Eq. 4: dw_i = 1/|N_i| sum_{k in N_i} c_k h_k, db_i = 1/|N_i| sum_{k in N_i} c_k.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "simd.h"

namespace clfast::cpu {

// Queries [begin, end) of delta_weight [B, C, d] and delta_bias [B, C]; classes where select [C]
// (null: all) is false stay zero. scratch: d + C + K elements. Returns the first fault.
#define CLFAST_HEBBIAN_UPDATE(T)                                                                   \
  Finding hebbian_update(const Neighbourhood<T>& neighbourhood, const bool* select, int64_t begin, \
                         int64_t end, T* scratch, T* delta_weight, T* delta_bias);
CLFAST_HEBBIAN_UPDATE(float)
CLFAST_HEBBIAN_UPDATE(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_HEBBIAN_UPDATE(float) CLFAST_HEBBIAN_UPDATE(double))

}  // namespace clfast::cpu
