#include "knn.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>

#include "../common/ordering.h"
#include "rows.h"

namespace clfast::cpu {

#define CLFAST_PICK_KNN_FUNCTIONS(T)                             \
  int64_t knn_sweep(const KnnSweep<T>& sweep, KnnHit<T>* hits) { \
    CLFAST_CALL_AT_LEVEL(knn_sweep(sweep, hits));                \
  }                                                              \
  int64_t knn_lanes(T tag) { CLFAST_CALL_AT_LEVEL(knn_lanes(tag)); }
CLFAST_PICK_KNN_FUNCTIONS(float)
CLFAST_PICK_KNN_FUNCTIONS(double)

namespace {

constexpr int64_t kQueryBlock = 128;  // with d = 512 in float32 one block of queries fits the L2
constexpr int64_t kKeyBlock = 96;     // a multiple of the register tile's 6 or 12 rows
constexpr int64_t kDirectQueries = 3;
constexpr int64_t kManyKeys = 16384;
constexpr int64_t kSpareCandidates = 32;
constexpr int64_t kFewTimes = 8;  // with fewer keys a neighbour, a shortlist leaves out too little

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Holds the order of a distance and 32 bits.
template <class T>
using Wide = std::conditional_t<sizeof(T) == sizeof(float), uint64_t, unsigned __int128>;

}  // namespace

template <class T>
Knn<T>::Knn(const KnnProblem<T>& problem, int64_t threads)
    : problem_(problem),
      direct_(problem.batch <= kDirectQueries || problem.memory_size <= kFewTimes * problem.k) {
  // Threads share out few keys by queries, many keys by ranges of keys: a range more means a
  // shortlist more to fill, a block of queries more means another pass over the keys.
  const bool many_keys = problem.memory_size >= kManyKeys;
  const int64_t share = many_keys ? problem.batch : divide_up(problem.batch, threads);
  const int64_t block = std::min(kQueryBlock, std::max(share, knn_lanes(T{})));
  query_blocks_ = divide_up(problem.batch, block);
  key_ranges_ = 1;
  while (many_keys && (query_blocks_ * key_ranges_) % threads != 0 &&
         query_blocks_ * key_ranges_ < 4 * threads) {
    ++key_ranges_;
  }
  lists_.resize(static_cast<size_t>(problem.batch * key_ranges_));
  for (Shortlist& list : lists_) {
    list.tighten_at = static_cast<size_t>(problem.memory_size <= kFewTimes * problem.k
                                              ? problem.memory_size + 1
                                              : 2 * problem.k + kSpareCandidates);
    list.cut = std::numeric_limits<T>::infinity();
  }
}

// The k-th smallest upper bound, widened by the rounding of the distance in difference form (26
// units, twice): a pair whose lower bound lies above cannot be among the k nearest.
template <class T>
T Knn<T>::cut_of(const std::vector<Candidate>& candidates) const {
  // Upper bounds of squares are >= 0, so their bits order; a NaN, which is unknown, counts as last.
  std::vector<decltype(order_of(T{}))> orders(candidates.size());
  for (size_t i = 0; i < orders.size(); ++i) {
    orders[i] = order_of(std::max(candidates[i].upper, T(0)));
  }
  const auto kth = orders.begin() + (problem_.k - 1);
  std::nth_element(orders.begin(), kth, orders.end());
  const T upper = distance_of(*kth);
  return std::isnan(upper) ? std::numeric_limits<T>::infinity()
                           : upper * (1 + 64 * std::numeric_limits<T>::epsilon());
}

template <class T>
void Knn<T>::tighten(Shortlist& list) const {
  list.cut = cut_of(list.candidates);
  const auto beyond = [&](const Candidate& c) { return c.lower > list.cut; };
  list.candidates.erase(std::remove_if(list.candidates.begin(), list.candidates.end(), beyond),
                        list.candidates.end());
  list.tighten_at =
      std::max(static_cast<size_t>(2 * problem_.k + kSpareCandidates), 2 * list.candidates.size());
}

template <class T>
void Knn<T>::add(Shortlist& list, const Candidate& candidate) const {
  if (candidate.lower > list.cut) return;
  if (list.candidates.empty()) list.candidates.reserve(list.tighten_at);
  list.candidates.push_back(candidate);
  if (list.candidates.size() >= list.tighten_at) tighten(list);
}

template <class T>
void Knn<T>::sweep(int64_t index) {
  const int64_t block = index / key_ranges_, range = index % key_ranges_;
  const int64_t queries = divide_up(problem_.batch, query_blocks_);
  const int64_t keys = divide_up(problem_.memory_size, key_ranges_);
  const int64_t query_begin = block * queries;
  const int64_t query_end = std::min(query_begin + queries, problem_.batch);
  const int64_t key_begin = range * keys;
  const int64_t key_end = std::min(key_begin + keys, problem_.memory_size);
  if (query_begin >= query_end || key_begin >= key_end) return;
  if (direct_) {
    for (int64_t q = query_begin; q < query_end; ++q) {
      scan_directly(q, key_begin, key_end, lists_[q * key_ranges_ + range]);
    }
  } else {
    sweep_block(query_begin, query_end, key_begin, key_end,
                &lists_[query_begin * key_ranges_ + range]);
  }
}

template <class T>
void Knn<T>::scan_directly(int64_t query, int64_t key_begin, int64_t key_end, Shortlist& list) {
  const int64_t d = problem_.dim;
  std::vector<T> scratch(d);
  T distances[kKeyBlock];
  for (int64_t key = key_begin; key < key_end; key += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, key_end - key);
    sq_distances(problem_.queries + query * d, problem_.keys, nullptr, key, count, d,
                 scratch.data(), distances);
    for (int64_t i = 0; i < count; ++i) add(list, {distances[i], distances[i], key + i});
  }
}

template <class T>
void Knn<T>::sweep_block(int64_t query_begin, int64_t query_end, int64_t key_begin, int64_t key_end,
                         Shortlist* lists) {
  const int64_t d = problem_.dim, queries = query_end - query_begin;
  const int64_t lanes = knn_lanes(T{});
  const int64_t width = divide_up(queries, lanes) * lanes;
  const bool widen = problem_.keys.kind !=
                     (sizeof(T) == sizeof(float) ? ScalarKind::kFloat32 : ScalarKind::kFloat64);

  std::vector<T> columns(d * width, T(0)), query_norms(width, T(0)), scratch(d);
  std::vector<T> cut(width, -std::numeric_limits<T>::infinity());
  // A cache line of every query at a time, so that the columns are written line by line.
  constexpr int64_t step = 64 / sizeof(T);
  for (int64_t first = 0; first < d; first += step) {
    const int64_t last = std::min(first + step, d);
    for (int64_t q = 0; q < queries; ++q) {
      const T* query = problem_.queries + (query_begin + q) * d;
      for (int64_t j = first; j < last; ++j) columns[j * width + q] = query[j];
    }
  }
  for (int64_t q = 0; q < queries; ++q) cut[q] = lists[q * key_ranges_].cut;
  const ScalarKind own = sizeof(T) == sizeof(float) ? ScalarKind::kFloat32 : ScalarKind::kFloat64;
  sq_norms({problem_.queries, own}, nullptr, query_begin, queries, d, scratch.data(),
           query_norms.data());

  std::vector<T> widened(widen ? kKeyBlock * d : 0), norms(kKeyBlock);
  // Uninitialised: one hit for every pair of a block at most, usually next to none.
  std::unique_ptr<KnnHit<T>[]> hits(new KnnHit<T>[kKeyBlock * width]);

  KnnSweep<T> sweep;
  sweep.dim = d;
  sweep.queries = columns.data();
  sweep.query_sq_norms = query_norms.data();
  sweep.cut = cut.data();
  sweep.query_count = width;
  // A sum of d products rounds by at most d units of |q||k| <= (|q|^2 + |k|^2) / 2, a norm by d
  // units of itself; 16 more cover the final additions, and 2 the second half of each.
  sweep.error = static_cast<T>(d + 16) * std::numeric_limits<T>::epsilon();
  sweep.tiny = static_cast<T>(2 * d + 16) * std::numeric_limits<T>::min();

  for (int64_t key = key_begin; key < key_end; key += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, key_end - key);
    if (widen) {
      widen_rows(problem_.keys, nullptr, key, count, d, widened.data(), d);
      sweep.keys = widened.data();
    } else {
      sweep.keys = static_cast<const T*>(problem_.keys.data) + key * d;
    }
    if (problem_.key_sq_norms != nullptr) {
      sweep.key_sq_norms = problem_.key_sq_norms + key;
    } else {
      sq_norms({sweep.keys, own}, nullptr, 0, count, d, scratch.data(), norms.data());
      sweep.key_sq_norms = norms.data();
    }
    sweep.key_count = count;
    const int64_t found = knn_sweep(sweep, hits.get());
    for (int64_t i = 0; i < found; ++i) {
      const KnnHit<T>& hit = hits[i];
      if (hit.query >= queries) continue;
      Shortlist& list = lists[hit.query * key_ranges_];
      add(list, {hit.lower, hit.upper, key + hit.key});
      cut[hit.query] = list.cut;
    }
  }
}

template <class T>
void Knn<T>::finish(int64_t query, T* sq_distances_out, int64_t* indices_out) {
  // Keys come in ascending order, in every list and from list to list.
  std::vector<Candidate>& all = lists_[query * key_ranges_].candidates;
  for (int64_t range = 1; range < key_ranges_; ++range) {
    std::vector<Candidate>& more = lists_[query * key_ranges_ + range].candidates;
    all.insert(all.end(), more.begin(), more.end());
  }
  std::vector<int64_t> rows;
  std::vector<T> distances;
  if (direct_) {
    for (const Candidate& c : all) {
      rows.push_back(c.key);
      distances.push_back(c.lower);
    }
  } else {
    const T cut = cut_of(all);
    for (const Candidate& c : all) {
      if (!(c.lower > cut)) rows.push_back(c.key);
    }
    std::vector<T> scratch(problem_.dim);
    distances.resize(rows.size());
    sq_distances(problem_.queries + query * problem_.dim, problem_.keys, rows.data(), 0,
                 static_cast<int64_t>(rows.size()), problem_.dim, scratch.data(), distances.data());
  }

  // Distance above, place among the candidates below: one integer that orders by distance and then
  // by row.
  std::vector<Wide<T>> nearest(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    nearest[i] = static_cast<Wide<T>>(order_of(distances[i])) << 32 | static_cast<uint32_t>(i);
  }
  const auto kth = nearest.begin() + problem_.k;
  if (kth != nearest.end()) std::nth_element(nearest.begin(), kth, nearest.end());
  std::sort(nearest.begin(), kth);
  for (int64_t i = 0; i < problem_.k; ++i) {
    const size_t place = static_cast<uint32_t>(nearest[i]);
    sq_distances_out[i] = distances[place];
    indices_out[i] = rows[place];
  }
}

template class Knn<float>;
template class Knn<double>;

}  // namespace clfast::cpu
