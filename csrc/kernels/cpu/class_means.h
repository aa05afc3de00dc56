// Class means of unit features, as iCaRL and nearest-class-mean classifiers take them.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "simd.h"

namespace clfast::cpu {

// class_mean: mean of the features members[0..count), each scaled to unit length when `normalize`,
// the mean scaled again; zeros when count is 0. scratch: d elements; sum: d doubles.
#define CLFAST_CLASS_MEANS(T)                                                        \
  void class_mean(Rows features, int64_t dim, const int64_t* members, int64_t count, \
                  bool normalize, T* scratch, double* sum, T* out);
CLFAST_CLASS_MEANS(float)
CLFAST_CLASS_MEANS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_CLASS_MEANS(float) CLFAST_CLASS_MEANS(double))

}  // namespace clfast::cpu
