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
// all y. (y may be taken from another origin than mu, with the target moved as much, which changes
// all scores by one number: with the lengths that they have there, the bound holds, too, and is
// wider by a small factor.)
CLFAST_HD double herding_tie(double target_length, double longest, double origin_length) {
  return (0x1p-46 * (target_length + longest) + 0x1p-48 * origin_length) * longest;
}

// Rows and targets are scored as integers, rounded at this length: products of two, and of parts of
// two, stay below 2^31 by the inequality of Cauchy and Schwarz, whatever the dimension.
constexpr double kHerdingLength = 32000;

// Rows shorter than this count as zeros.
constexpr double kHerdingShortest = 0x1p-100;

// What a score is off by at most that is formed of rounded rows y and targets, which are off by
// half a unit in every entry and what float makes of that: 2 sqrt(dim) / 32000 of |target| |y|;
// 2^-17 for sums of |y|^2 and for lengths in float, and for scores in float; and 2^-23 of what is
// subtracted from the sample in every entry of y, the difference of two floats. The last terms
// cover what is too short, or below the normal range. Infinite where a number in float may
// overflow.
CLFAST_HD double herding_slack(int64_t dim, double target_length, double longest,
                               double origin_length) {
  const double most = target_length * longest, limit = 0x1p60;
  if (!(most < limit && target_length < limit && longest < limit && origin_length < limit)) {
    return HUGE_VAL;
  }
  const double both = target_length + longest, terms = static_cast<double>(dim);
  // Of one of them: half a unit an entry, and a fiftieth of that.
  const double rounding = 0.51 * std::sqrt(terms) / kHerdingLength;
  return 2 * (2 + rounding) * rounding * most + 0x1p-17 * longest * (longest + target_length) +
         0x1p-21 * origin_length * both + 2 * kHerdingShortest * target_length +
         0x1p-118 * terms * (1 + both + origin_length);
}

}  // namespace clfast
