// Samples of old classes against the new classes that score highest on them (LUCIR).
#pragma once
#include <cstdint>

namespace clfast::cpu {

template <class T>
struct MarginRankingProblem {
  const T* cosines;            // [N, C]
  const int64_t* labels;       // [N]
  const int64_t* new_classes;  // [P]
  const uint8_t* is_new;       // [C]
  int64_t classes, new_count;  // C, P
  int64_t ranked;              // how many of the new classes count, at most P
  T margin;
  T term_weight;  // of a term in the loss
};

// Rows [begin, end): values [N], the sum of a row's terms, and gradient [N, C]. ranking: `ranked`
// classes of scratch. There is nothing to vectorise in it: few terms a row, from anywhere in it.
void margin_ranking(const MarginRankingProblem<float>& problem, int64_t begin, int64_t end,
                    int64_t* ranking, float* values, float* gradient);
void margin_ranking(const MarginRankingProblem<double>& problem, int64_t begin, int64_t end,
                    int64_t* ranking, double* values, double* gradient);

}  // namespace clfast::cpu
