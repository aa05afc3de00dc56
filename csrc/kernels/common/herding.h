// The scores of herding, and how far those of a sum in float may be from the exact ones.
#pragma once
#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace clfast {

// iCaRL's Algorithm 4, where the mean of k picks comes nearest to mu: the largest
// 2 <target, x> - |x|^2 with target = k mu - (sum of the picks before).
CLFAST_HD double herding_score(double product, double sq_norm) { return 2 * product - sq_norm; }

// Whether features of this squared length may be scored: not NaN, and no sum can overflow.
CLFAST_HD bool herding_takes(double sq_norm) { return sq_norm < 0x1p960; }

// Scores no further apart than this are equal, and the smaller row is picked: far below what
// distinguishes float32 features, above the roundings of any order of a sum in double. Without it
// the last bit would choose between two samples that are as far from their mean.
CLFAST_HD double herding_tie(double target_length, double longest) {
  return 0x1p-46 * (target_length + longest) * longest;
}

// What 2 <target, x> in float is off by at most, for rows no longer than `longest`. At most 25
// roundings, of the target, of a panel's terms and of their sum, each of 2^-24 |target| |x|, are
// taken as 32; the second term covers products and entries below the normal range. Infinite where
// a sum may overflow.
CLFAST_HD double herding_slack(int64_t dim, double target_length, double longest) {
  const double most = target_length * longest;
  if (!(most < 0x1p126) || !(target_length < 0x1p126)) return HUGE_VAL;
  const double terms = static_cast<double>(dim);
  return 0x1p-18 * most + 0x1p-124 * terms * (1 + target_length + longest);
}

}  // namespace clfast
