// The pairs of one query that may be among its k nearest, while keys go by in ascending order.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "../common/ordering.h"

namespace clfast::cpu {

// Bounds of a squared distance; they are equal where it is known.
template <class T>
struct KnnCandidate {
  T lower, upper;
  int64_t key;
};

template <class T>
using KnnOrder = decltype(order_of(T{}));

// An upper bound, widened by the rounding of the distance in difference form (26 units in float,
// twice; in double the bounds' own d units are wider): a pair whose lower bound lies above cannot
// be nearer than a pair below it. A NaN says nothing.
template <class T>
T widened(T upper) {
  return std::isnan(upper) ? std::numeric_limits<T>::infinity()
                           : upper * (1 + 64 * std::numeric_limits<T>::epsilon());
}

// The widened k-th smallest upper bound of at least k candidates.
template <class T>
T cut_of(const std::vector<KnnCandidate<T>>& candidates, int64_t k,
         std::vector<KnnOrder<T>>& orders) {
  orders.resize(candidates.size());
  // Upper bounds of squares are >= 0, so their bits order.
  for (size_t i = 0; i < candidates.size(); ++i) {
    orders[i] = order_of(std::max(candidates[i].upper, T(0)));
  }
  std::nth_element(orders.begin(), orders.begin() + (k - 1), orders.end());
  return widened(distance_of(orders[k - 1]));
}

struct KnnShortlistSize {
  int64_t k;
  size_t capacity;  // candidates at which a list is cut back
  size_t longest;   // candidates that it may keep then
};

template <class T>
struct KnnShortlist {
  std::vector<KnnCandidate<T>> candidates;
  T cut = std::numeric_limits<T>::infinity();  // a pair with a larger lower bound is out
  size_t full = 0;
  bool defeated = false;  // too many bounds overlap: the list gave up, and is empty

  void add(const KnnCandidate<T>& candidate, const KnnShortlistSize& size,
           std::vector<KnnOrder<T>>& orders) {
    if (defeated || candidate.lower > cut) return;
    if (candidates.size() >= std::max(full, size.capacity)) {
      cut = std::min(cut, cut_of(candidates, size.k, orders));
      const auto beyond = [this](const KnnCandidate<T>& c) { return c.lower > cut; };
      candidates.erase(std::remove_if(candidates.begin(), candidates.end(), beyond),
                       candidates.end());
      if (candidates.size() > size.longest) {
        give_up();
        return;
      }
      // Where many bounds overlap, a list that was just cut back may still be long: it may double.
      full = 2 * candidates.size();
      if (candidate.lower > cut) return;
    }
    candidates.push_back(candidate);
  }

  void give_up() {
    defeated = true;
    cut = -std::numeric_limits<T>::infinity();
    std::vector<KnnCandidate<T>>().swap(candidates);
  }

  // The same as add() for a known distance: the k nearest are enough, and among equals the first.
  // The list starts with a cut of NaN, which orders behind all.
  void add_exact(T distance, int64_t key, const KnnShortlistSize& size,
                 std::vector<KnnOrder<T>>& orders) {
    const size_t k = static_cast<size_t>(size.k);
    if (candidates.size() >= k && order_of(distance) >= order_of(cut)) return;
    candidates.push_back({distance, distance, key});
    if (candidates.size() < size.capacity) return;
    orders.resize(candidates.size());
    for (size_t i = 0; i < candidates.size(); ++i) orders[i] = order_of(candidates[i].lower);
    std::nth_element(orders.begin(), orders.begin() + (k - 1), orders.end());
    const KnnOrder<T> last = orders[k - 1];
    size_t equal = k;  // places for candidates as far as the last
    for (size_t i = 0; i < k; ++i) equal -= orders[i] < last;
    size_t kept = 0;
    for (const KnnCandidate<T>& c : candidates) {
      const KnnOrder<T> order = order_of(c.lower);
      if (order > last || (order == last && equal == 0)) continue;
      equal -= order == last;
      candidates[kept++] = c;
    }
    candidates.resize(kept);
    cut = distance_of(last);
  }
};

}  // namespace clfast::cpu
