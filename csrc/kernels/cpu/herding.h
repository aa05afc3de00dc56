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

// Ranges of members begin at multiples of kHerdingRows, so that sums have one order whatever the
// threads, and end there or with the last member.
constexpr int64_t kHerdingRows = 256;

// Arrays of a number a member are so long: whole blocks of any level.
static inline int64_t padded_members(int64_t count) { return (count + 63) / 64 * 64; }
static inline int64_t column_pairs(int64_t dim) { return (dim + 1) / 2; }

// herding_sum: the sum [dim] of members [begin, end).
// herding_pack: members [begin, end) less `mean`, in bfloat16, into `packed` [padded_members(),
// column_pairs()], whose order is the level's own; and their sq_norms [padded_members()], summed in
// float where that has enough range, infinite behind the last member.
// herding_scores: scores [padded_members()] of members [begin, end); the largest is returned (a NaN
// is passed over). target [2 column_pairs()].
// herding_next: the first member from `begin` on whose score is not below `least`, else `end`.
// herding_exact: the score of a member in double.
#define CLFAST_HERDING(T)                                                                      \
  void herding_sum(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum);        \
  void herding_pack(const HerdingClass<T>& of, const double* mean, int64_t begin, int64_t end, \
                    float* packed, double* sq_norms);                                          \
  double herding_exact(const HerdingClass<T>& of, const double* mean, const double* target,    \
                       int64_t member);
#define CLFAST_HERDING_OF_ALL()                                                              \
  CLFAST_HERDING(float)                                                                      \
  CLFAST_HERDING(double)                                                                     \
  double herding_scores(const float* packed, int64_t pairs, const float* target,             \
                        const double* sq_norms, int64_t begin, int64_t end, double* scores); \
  int64_t herding_next(const double* scores, double least, int64_t begin, int64_t end);
CLFAST_HERDING_OF_ALL()
CLFAST_DECLARE_PER_LEVEL(CLFAST_HERDING_OF_ALL())

}  // namespace clfast::cpu
