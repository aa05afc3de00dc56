// The picks of one class, one after another, from the parts in herding.h.
#pragma once
#include <cmath>

#include "herding.h"

namespace clfast::cpu {

constexpr int64_t kHerdingFirst = 16;  // members whose mean is subtracted from all

static inline int64_t herding_chunks(int64_t count) {
  return (count + kHerdingRows - 1) / kHerdingRows;
}

struct HerdingScratch {
  HerdingShort members;
  double* sq_norms;                // [count], infinite once picked
  float* scores;                   // [padded_members()]
  int64_t* nearest;                // [count], members that are scored again
  double* exact;                   // [count], their scores
  double* sums;                    // [herding_chunks(), dim]
  double* best;                    // [herding_chunks()]
  double *origin, *mean, *target;  // [dim]
  float* rounded;                  // [target_pairs()]
};

// The first m picks of the class, -1 behind its last member. False, and nothing picked, where a
// feature is NaN, infinite or so large that a score could overflow.
//
// Products of integers shortlist, and double decides: every member whose score is so near to the
// best that rounding could have put it behind is scored again in double.
//
// for_each(chunks, work) calls work(begin, end) on ranges of chunks, in any order, on any threads.
template <class T, class ForEach>
bool herding_picks(const HerdingClass<T>& of, int64_t m, const HerdingScratch& s,
                   const ForEach& for_each, int64_t* picks) {
  const int64_t count = of.count, dim = of.dim, chunks = herding_chunks(count);
  // Back and forth in turns: what was read last is in the cache yet.
  bool forth = false;
  const auto for_chunks = [&](const auto& work) {
    forth = !forth;
    for_each(chunks, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t c = forth ? i : first + last - 1 - i, begin = c * kHerdingRows;
        work(c, begin, count - begin < kHerdingRows ? count : begin + kHerdingRows);
      }
    });
  };
  // Members are packed before the mean is known, less a mean of the first. That changes all scores
  // of a pick by one number where the target is less it too.
  const int64_t few = count < kHerdingFirst ? count : kHerdingFirst;
  herding_sum(of, 0, few, s.origin);
  for (int64_t j = 0; j < dim; ++j) s.origin[j] /= static_cast<double>(few);
  for_chunks([&](int64_t c, int64_t begin, int64_t end) {
    herding_pack(of, s.origin, begin, end, s.members, s.sq_norms, s.sums + c * dim);
  });
  double sq_origin = 0, sq_shift = 0, longest = 0;
  for (int64_t j = 0; j < dim; ++j) {
    double sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += s.sums[c * dim + j];
    s.mean[j] = sum / static_cast<double>(count);
    s.target[j] = s.mean[j] - s.origin[j];
    sq_origin += s.origin[j] * s.origin[j];
    sq_shift += s.target[j] * s.target[j];
  }
  for (int64_t i = 0; i < count; ++i) {
    if (!herding_takes(s.sq_norms[i])) return false;
    longest = s.sq_norms[i] > longest ? s.sq_norms[i] : longest;
  }
  const double origin_length = std::sqrt(sq_origin);
  // Of sums in float, of differences of floats. No member is further from the mean, and the
  // furthest is at least a third as far, for the origin is a mean of members.
  longest = (1 + 0x1p-16) * std::sqrt(longest) + 0x1p-22 * origin_length + std::sqrt(sq_shift);
  for (int64_t k = count; k < m; ++k) picks[k] = -1;
  for (int64_t k = 0; k < (m < count ? m : count); ++k) {
    const double length = std::sqrt(herding_target(s.target, dim, s.rounded));
    for_chunks([&](int64_t c, int64_t begin, int64_t end) {
      s.best[c] = static_cast<double>(
          herding_scores(s.members, dim, s.rounded, length, begin, end, s.scores));
    });
    double best = -HUGE_VAL;
    for (int64_t c = 0; c < chunks; ++c) best = s.best[c] > best ? s.best[c] : best;
    const double tie = herding_tie(length, longest, origin_length);
    const double slack = herding_slack(dim, length, longest, origin_length);
    const double least = best - 2 * slack - tie;
    int64_t found = 0;
    best = -HUGE_VAL;
    for (int64_t i = herding_next(s.scores, least, 0, count); i < count;
         i = herding_next(s.scores, least, i + 1, count)) {
      if (s.sq_norms[i] == HUGE_VAL) continue;  // is picked already
      s.nearest[found] = i;
      s.exact[found] = herding_exact(of, s.origin, s.target, i);
      best = s.exact[found] > best ? s.exact[found] : best;
      ++found;
    }
    int64_t first = 0;
    while (s.exact[first] < best - tie) ++first;
    const int64_t pick = s.nearest[first];
    picks[k] = of.members[pick];
    s.sq_norms[pick] = HUGE_VAL;
    s.members.squares[pick] = HUGE_VALF;
    herding_advance(of, s.mean, pick, s.target);
  }
  return true;
}

}  // namespace clfast::cpu
