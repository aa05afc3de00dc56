// Herding of one class: which of its rows bring the mean of the picks nearest to the mean of all.
#pragma once
#include <cstdint>

#include "../common/herding.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct HerdingClass {
  const T* features;       // [N, dim]
  const int64_t* members;  // [count], rows of features, ascending
  int64_t count, dim;
};

// Sums are formed of so many rows at a time, whatever the threads.
constexpr int64_t kHerdingRows = 256;

// herding_sums: sum [dim] of members [begin, end) and their sq_norms.
// herding_scores: scores [count] of members [begin, end) by products in T; the largest is returned
// (a NaN is passed over).
// herding_next: the first member from `begin` on, `end` if there is none, whose score is not below
// `least`.
// herding_product: <target, member>, summed in double.
#define CLFAST_HERDING(T)                                                                   \
  void herding_sums(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum,     \
                    double* sq_norms);                                                      \
  double herding_scores(const HerdingClass<T>& of, const T* target, const double* sq_norms, \
                        int64_t begin, int64_t end, double* scores);                        \
  double herding_product(const HerdingClass<T>& of, const double* target, int64_t member);
#define CLFAST_HERDING_OF_ALL(T) \
  CLFAST_HERDING(float)          \
  CLFAST_HERDING(double)         \
  int64_t herding_next(const double* scores, double least, int64_t begin, int64_t end);
CLFAST_HERDING_OF_ALL()
CLFAST_DECLARE_PER_LEVEL(CLFAST_HERDING_OF_ALL())

}  // namespace clfast::cpu
