// The class whose mean is nearest. A product of features and means in register tiles gives every
// distance with a bound on its rounding; where more than one class lies within the bound of the
// smallest, the distances in difference form decide.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct NearestMeanProblem {
  Rows features;           // [N, d]
  const T* means;          // [C, d], no empty class among them
  const T* means_t;        // [d, width], the same as columns
  const T* mean_sq_norms;  // [C]
  int64_t dim, num_classes;
  int64_t width;  // >= C, a multiple of 16; columns beyond C may hold anything finite
};

// Elements of T in the scratch of one thread.
template <class T>
int64_t nearest_class_mean_scratch(const NearestMeanProblem<T>& problem);

// labels[begin .. end).
#define CLFAST_NEAREST_CLASS_MEAN(T)                                                        \
  void nearest_class_mean(const NearestMeanProblem<T>& problem, int64_t begin, int64_t end, \
                          T* scratch, int64_t* labels);
CLFAST_NEAREST_CLASS_MEAN(float)
CLFAST_NEAREST_CLASS_MEAN(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_NEAREST_CLASS_MEAN(float) CLFAST_NEAREST_CLASS_MEAN(double))

// Features that go through the tiles together: a multiple of the tile's 6 or 12 rows.
constexpr int64_t kNearestMeanBlock = 24;

}  // namespace clfast::cpu
