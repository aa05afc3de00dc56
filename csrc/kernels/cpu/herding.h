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

// Arrays of a number a member are so long: whole blocks of any level; and a member has room for so
// many pairs of columns, in the order of any level.
static inline int64_t padded_members(int64_t count) { return (count + 63) / 64 * 64; }
static inline int64_t column_pairs(int64_t dim) { return (dim + 31) / 32 * 16; }

// Columns that are rounded at a time; and terms of |y|^2 that are summed in float, on no fewer than
// 8 lanes, before they are added up in double.
constexpr int64_t kHerdingColumns = 64, kHerdingTerms = 512;
static inline int64_t target_pairs(int64_t dim) {
  return (dim + kHerdingColumns - 1) / kHerdingColumns * kHerdingColumns / 2;
}

// Of the members, as the shortlist sees them: `packed` [padded_members(), column_pairs()] are their
// differences from an origin, at kHerdingLength, rounded to pairs of 16-bit integers, in an order
// that is the level's own; lengths and squares [padded_members()] theirs before, infinite squares
// behind the last member.
struct HerdingShort {
  float *packed, *lengths, *squares;
};

// herding_sum: the sum [dim] of members [begin, end).
// herding_pack: members [begin, end) less `origin`, their sq_norms [count], summed in float where
// that has enough range, and herding_sum of them: all at one reading.
// herding_target: the target [dim] at kHerdingLength in pairs [target_pairs()]; |target|^2.
// herding_scores: scores [padded_members()] of members [begin, end) for a target of that length;
// the largest is returned (a NaN is passed over).
// herding_next: the first member from `begin` on whose score is not below `least`, else `end`.
// herding_exact: the score of a member in double, up to what all have in common.
// herding_advance: the target once a member is picked.
#define CLFAST_HERDING(T)                                                                        \
  void herding_sum(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum);          \
  void herding_pack(const HerdingClass<T>& of, const double* origin, int64_t begin, int64_t end, \
                    const HerdingShort& out, double* sq_norms, double* sum);                     \
  double herding_exact(const HerdingClass<T>& of, const double* origin, const double* target,    \
                       int64_t member);                                                          \
  void herding_advance(const HerdingClass<T>& of, const double* mean, int64_t member,            \
                       double* target);
#define CLFAST_HERDING_OF_ALL()                                                          \
  CLFAST_HERDING(float)                                                                  \
  CLFAST_HERDING(double)                                                                 \
  double herding_target(const double* target, int64_t dim, float* pairs);                \
  float herding_scores(const HerdingShort& of, int64_t dim, const float* target,         \
                       double target_length, int64_t begin, int64_t end, float* scores); \
  int64_t herding_next(const float* scores, double least, int64_t begin, int64_t end);
CLFAST_HERDING_OF_ALL()
CLFAST_DECLARE_PER_LEVEL(CLFAST_HERDING_OF_ALL())

}  // namespace clfast::cpu
