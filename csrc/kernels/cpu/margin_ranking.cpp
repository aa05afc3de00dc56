#include "margin_ranking.h"

#include <algorithm>

#include "../common/margin_ranking.h"

namespace clfast::cpu {
namespace {

// The classes that rank first, in order; of equals the one listed first. How many there are.
template <class T>
int64_t rank(const MarginRankingProblem<T>& p, const T* scores, int64_t* ranking) {
  int64_t found = 0;
  for (int64_t j = 0; j < p.new_count; ++j) {
    const int64_t own = p.new_classes[j];
    const T score = scores[own];
    if (found == p.ranked && !ranks_before(score, scores[ranking[found - 1]])) continue;
    int64_t at = found < p.ranked ? found++ : found - 1;
    for (; at > 0 && ranks_before(score, scores[ranking[at - 1]]); --at) {
      ranking[at] = ranking[at - 1];
    }
    ranking[at] = own;
  }
  return found;
}

template <class T>
void rank_rows(const MarginRankingProblem<T>& p, int64_t begin, int64_t end, int64_t* ranking,
               T* values, T* gradient) {
  for (int64_t row = begin; row < end; ++row) {
    const T* scores = p.cosines + row * p.classes;
    T* out = gradient + row * p.classes;
    std::fill_n(out, p.classes, T(0));
    T sum = T(0);
    const int64_t label = p.labels[row];
    const int64_t count = p.is_new[label] ? 0 : rank(p, scores, ranking);
    for (int64_t i = 0; i < count; ++i) {
      const T excess = p.margin - scores[label] + scores[ranking[i]];
      sum += hinge(excess);
      if (excess > T(0)) {
        out[label] -= p.term_weight;
        out[ranking[i]] += p.term_weight;
      }
    }
    values[row] = sum;
  }
}

}  // namespace

void margin_ranking(const MarginRankingProblem<float>& problem, int64_t begin, int64_t end,
                    int64_t* ranking, float* values, float* gradient) {
  rank_rows(problem, begin, end, ranking, values, gradient);
}
void margin_ranking(const MarginRankingProblem<double>& problem, int64_t begin, int64_t end,
                    int64_t* ranking, double* values, double* gradient) {
  rank_rows(problem, begin, end, ranking, values, gradient);
}

}  // namespace clfast::cpu
