// The scores of herding, which of them are equal, and how far a sum in float may be from them.
#pragma once
#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace clfast {

// iCaRL's Algorithm 4: the mean of k picks comes nearest to mu where ||Y + y||^2 is least, with y
// the sample less mu, and Y the sum of these differences of the picks before. That is where
// 2 <target, y> - |y|^2 is largest, with target = -Y. Differences, not features: what the samples
// of a class have in common cancels before anything is rounded.
CLFAST_HD double herding_score(double product, double sq_norm) { return 2 * product - sq_norm; }

// Whether differences of this squared length may be scored: not NaN, and no sum can overflow.
CLFAST_HD bool herding_takes(double sq_norm) { return sq_norm < 0x1p960; }

// Scores no further apart than this are equal, and the smaller row is picked: above what rounding
// makes of mu and of sums of any order, in double, and far below what distinguishes samples.
// Without it the last bit would choose between two that are as far from their mean. `longest` of
// all y.
CLFAST_HD double herding_tie(double target_length, double longest, double mean_length) {
  return (0x1p-46 * (target_length + longest) + 0x1p-48 * mean_length) * longest;
}

// What a score is off by at most that is summed in float, of y in bfloat16, itself the difference
// of two floats: 2^-9 of |target| |y| for y, and 72 roundings of 2^-24 for sums of kHerdingTerms
// terms, which are summed in double; as many of |y|^2; and 2^-23 of |mu| in every entry of y. The
// last term covers what is below the normal range. Infinite where a sum may overflow.
constexpr int64_t kHerdingTerms = 64;
CLFAST_HD double herding_slack(int64_t dim, double target_length, double longest,
                               double mean_length) {
  const double most = target_length * longest, limit = 0x1p60;
  if (!(most < limit && target_length < limit && longest < limit && mean_length < limit)) {
    return HUGE_VAL;
  }
  const double both = target_length + longest, terms = static_cast<double>(dim);
  return 0x1.1p-8 * most + 0x1p-17 * longest * longest + 0x1p-21 * mean_length * both +
         0x1p-120 * terms * (1 + both + mean_length);
}

}  // namespace clfast
