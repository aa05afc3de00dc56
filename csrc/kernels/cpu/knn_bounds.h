// From the scores of a sweep to bounds of squared distances.
#pragma once
#include <cmath>
#include <limits>

#include "../common/distance_error.h"
#include "knn.h"

namespace clfast::cpu {

// An upper bound of the length of a row, from its squared norm as it was rounded.
template <class T>
T length(T sq_norm, int64_t dim) {
  return std::sqrt(sq_norm) * (1 + static_cast<T>(dim + 16) * std::numeric_limits<T>::epsilon());
}

// Scores, with the key's and the query's terms added, are within error (|k|^2 + |q|^2) + tiny of
// the distance.
template <class T>
struct KnnBounds {
  const KnnWay way;
  T error, tiny;

  KnnBounds(int64_t dim, KnnWay way) : way(way) {
    const auto [relative, absolute] = distance_error<T>(dim);
    error = relative;
    // Products of bfloat16 take and give zero for what is below the normal range.
    tiny = way == KnnWay::kRounded ? 4 * absolute : absolute;
  }

  T key_term(T norm) const { return norm - error * norm - tiny; }
  // The largest score of a pair whose lower bound is not above the cut, for keys up to a length and
  // with residuals up to a length.
  T limit(const KnnQueries<T>& queries, int64_t q, T cut, T key_length, T key_residual) const {
    return cut - query_term(queries, q) + slack(queries, q, key_length, key_residual);
  }
  KnnCandidate<T> bounds(const KnnQueries<T>& queries, int64_t q, T score, T key_norm, T key_length,
                         T key_residual, int64_t key) const {
    constexpr T kLargest = std::numeric_limits<T>::max();
    const T extra = slack(queries, q, key_length, key_residual);
    const T lower = score + query_term(queries, q) - extra;
    const T width = 2 * (error * (key_norm + queries.norms[q]) + tiny + extra);
    // A product that overflowed says that the key may be near, not that it is.
    return {lower, lower >= -kLargest ? lower + width : std::numeric_limits<T>::infinity(), key};
  }

 private:
  T query_term(const KnnQueries<T>& queries, int64_t q) const {
    return queries.norms[q] - error * queries.norms[q];
  }
  // How far a score may be from that of the pair before rounding: 2 |<q, k> - <q^, k^>| with
  // <q, k - k^> and <q - q^, k^>.
  T slack(const KnnQueries<T>& queries, int64_t q, T key_length, T key_residual) const {
    return way == KnnWay::kRounded
               ? T(2.0002) * (queries.lengths[q] * key_residual +
                              queries.residuals[q] * (key_length + key_residual))
               : T(0);
  }
};

}  // namespace clfast::cpu
