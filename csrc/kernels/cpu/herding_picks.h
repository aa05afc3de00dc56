// The picks of one class, one after another, from the parts in herding.h.
#pragma once
#include <cmath>

#include "herding.h"

namespace clfast::cpu {

static inline int64_t herding_chunks(int64_t count) {
  return (count + kHerdingRows - 1) / kHerdingRows;
}

struct HerdingScratch {
  float* packed;              // [padded_members(), column_pairs()]
  double *sq_norms, *scores;  // [padded_members()]
  double *sums, *best;        // [herding_chunks(), dim], [herding_chunks()]
  double *mean, *target;      // [dim]
  float* rounded;             // [2 column_pairs()]
};

// The first m picks of the class, -1 behind its last member. False, and nothing picked, where a
// feature is NaN, infinite or so large that a score could overflow.
//
// Products in bfloat16 shortlist, and double decides: every member whose score is so near to the
// best that rounding could have put it behind is scored again in double.
//
// for_each(chunks, work) calls work(begin, end) on ranges of chunks, in any order, on any threads.
template <class T, class ForEach>
bool herding_picks(const HerdingClass<T>& of, int64_t m, const HerdingScratch& s,
                   const ForEach& for_each, int64_t* picks) {
  const int64_t count = of.count, dim = of.dim, chunks = herding_chunks(count);
  const auto for_chunks = [&](const auto& work) {
    for_each(chunks, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) {
        const int64_t begin = c * kHerdingRows;
        work(c, begin, count - begin < kHerdingRows ? count : begin + kHerdingRows);
      }
    });
  };
  for_chunks([&](int64_t c, int64_t begin, int64_t end) {
    herding_sum(of, begin, end, s.sums + c * dim);
  });
  double sq_mean = 0, longest = 0;
  for (int64_t j = 0; j < dim; ++j) {
    double sum = 0;
    for (int64_t c = 0; c < chunks; ++c) sum += s.sums[c * dim + j];
    s.mean[j] = sum / static_cast<double>(count);
    s.target[j] = 0;
    sq_mean += s.mean[j] * s.mean[j];
  }
  for_chunks([&](int64_t, int64_t begin, int64_t end) {
    herding_pack(of, s.mean, begin, end, s.packed, s.sq_norms);
  });
  for (int64_t i = 0; i < count; ++i) {
    if (!herding_takes(s.sq_norms[i])) return false;
    longest = s.sq_norms[i] > longest ? s.sq_norms[i] : longest;
  }
  const double mean_length = std::sqrt(sq_mean);
  // Of sums in float, of differences of floats.
  longest = (1 + 0x1p-16) * std::sqrt(longest) + 0x1p-22 * mean_length;
  if (dim % 2 != 0) s.rounded[dim] = 0;
  for (int64_t k = count; k < m; ++k) picks[k] = -1;
  for (int64_t k = 0; k < (m < count ? m : count); ++k) {
    double sq_length = 0;
    for (int64_t j = 0; j < dim; ++j) {
      s.rounded[j] = static_cast<float>(s.target[j]);
      sq_length += s.target[j] * s.target[j];
    }
    for_chunks([&](int64_t c, int64_t begin, int64_t end) {
      s.best[c] =
          herding_scores(s.packed, column_pairs(dim), s.rounded, s.sq_norms, begin, end, s.scores);
    });
    double best = -HUGE_VAL;
    for (int64_t c = 0; c < chunks; ++c) best = s.best[c] > best ? s.best[c] : best;
    const double length = std::sqrt(sq_length), tie = herding_tie(length, longest, mean_length);
    const double slack = herding_slack(dim, length, longest, mean_length);
    const double least = best - 2 * slack - tie;
    best = -HUGE_VAL;
    for (int64_t i = herding_next(s.scores, least, 0, count); i < count;
         i = herding_next(s.scores, least, i + 1, count)) {
      if (s.sq_norms[i] == HUGE_VAL) {  // is picked already
        s.scores[i] = -HUGE_VAL;
        continue;
      }
      s.scores[i] = herding_exact(of, s.mean, s.target, i);
      best = s.scores[i] > best ? s.scores[i] : best;
    }
    const int64_t pick = herding_next(s.scores, best - tie, 0, count);
    picks[k] = of.members[pick];
    s.sq_norms[pick] = HUGE_VAL;
    const T* row = of.features + picks[k] * dim;
    for (int64_t j = 0; j < dim; ++j) s.target[j] -= static_cast<double>(row[j]) - s.mean[j];
  }
  return true;
}

}  // namespace clfast::cpu
