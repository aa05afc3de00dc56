#include "knn.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

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
constexpr int64_t kFirstKeyBlock = 12;
constexpr int64_t kDirectQueries = 3;
constexpr int64_t kManyKeys = 16384;
constexpr int64_t kSpareCandidates = 32;
constexpr int64_t kFewTimes = 8;  // with fewer keys a neighbour, a shortlist leaves out too little

template <class T>
constexpr ScalarKind kOwnKind =
    sizeof(T) == sizeof(float) ? ScalarKind::kFloat32 : ScalarKind::kFloat64;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// An upper bound, widened by the rounding of the distance in difference form (26 units, twice): a
// pair whose lower bound lies above cannot be nearer than a pair below it. A NaN says nothing.
template <class T>
T widened(T upper) {
  return std::isnan(upper) ? std::numeric_limits<T>::infinity()
                           : upper * (1 + 64 * std::numeric_limits<T>::epsilon());
}

}  // namespace

template <class T>
Knn<T>::Knn(const KnnProblem<T>& problem, int64_t threads)
    : problem_(problem),
      few_keys_(problem.memory_size <= kFewTimes * problem.k),
      direct_(problem.batch <= kDirectQueries),
      shortlist_(static_cast<size_t>(2 * problem.k + kSpareCandidates)),
      longest_(std::max(4 * shortlist_, static_cast<size_t>(problem.memory_size / 16))) {
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
    list.cut = std::numeric_limits<T>::infinity();
    list.everything = false;
  }
}

template <class T>
T Knn<T>::cut_of(const std::vector<Candidate>& candidates, KnnWorkspace<T>& w) const {
  // Upper bounds of squares are >= 0, so their bits order.
  w.orders.resize(candidates.size());
  for (size_t i = 0; i < candidates.size(); ++i) {
    w.orders[i] = order_of(std::max(candidates[i].upper, T(0)));
  }
  const auto kth = w.orders.begin() + (problem_.k - 1);
  std::nth_element(w.orders.begin(), kth, w.orders.end());
  return widened(distance_of(*kth));
}

template <class T>
void Knn<T>::tighten(Shortlist& list, KnnWorkspace<T>& w) const {
  list.cut = cut_of(list.candidates, w);
  const auto beyond = [&](const Candidate& c) { return c.lower > list.cut; };
  list.candidates.erase(std::remove_if(list.candidates.begin(), list.candidates.end(), beyond),
                        list.candidates.end());
}

template <class T>
void Knn<T>::add(Shortlist& list, const Candidate& candidate, KnnWorkspace<T>& w) const {
  if (list.everything || candidate.lower > list.cut) return;
  std::vector<Candidate>& candidates = list.candidates;
  // Where many bounds overlap, a list that was just cut back may still be long: it may double.
  const bool full = candidates.size() == candidates.capacity();
  if (full && candidates.size() >= shortlist_) {
    tighten(list, w);
    if (candidates.size() > longest_) {
      list.everything = true;
      list.cut = -std::numeric_limits<T>::infinity();
      std::vector<Candidate>().swap(candidates);
      return;
    }
    if (2 * candidates.size() > candidates.capacity()) candidates.reserve(2 * candidates.size());
    if (candidate.lower > list.cut) return;
  } else if (full) {
    candidates.reserve(shortlist_);
  }
  candidates.push_back(candidate);
  if (problem_.k == 1) list.cut = std::min(list.cut, widened(candidate.upper));
}

template <class T>
void Knn<T>::sweep(int64_t index, KnnWorkspace<T>& w) {
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
      scan_directly(q, key_begin, key_end, lists_[q * key_ranges_ + range], w);
    }
  } else {
    sweep_block(query_begin, query_end, key_begin, key_end,
                &lists_[query_begin * key_ranges_ + range], w);
  }
}

template <class T>
void Knn<T>::scan_directly(int64_t query, int64_t key_begin, int64_t key_end, Shortlist& list,
                           KnnWorkspace<T>& w) {
  const int64_t d = problem_.dim;
  w.row.resize(d);
  T distances[kKeyBlock];
  for (int64_t key = key_begin; key < key_end; key += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, key_end - key);
    sq_distances(problem_.queries + query * d, problem_.keys, nullptr, key, count, d, w.row.data(),
                 distances);
    for (int64_t i = 0; i < count; ++i) add(list, {distances[i], distances[i], key + i}, w);
  }
}

// -2 q as columns, padded with zeros to a multiple of the lanes, and |q|^2.
template <class T>
void Knn<T>::pack_queries(int64_t query_begin, int64_t queries, int64_t width,
                          KnnWorkspace<T>& w) const {
  const int64_t d = problem_.dim;
  const T* first_query = problem_.queries + query_begin * d;
  w.columns.assign(d * width, T(0));
  // A cache line of every query at a time, so that the columns are written line by line.
  constexpr int64_t step = 64 / sizeof(T);
  for (int64_t first = 0; first < d; first += step) {
    const int64_t last = std::min(first + step, d);
    for (int64_t q = 0; q < queries; ++q) {
      for (int64_t j = first; j < last; ++j) w.columns[j * width + q] = -2 * first_query[q * d + j];
    }
  }
  w.query_norms.assign(width, T(0));
  w.row.resize(d);
  sq_norms({first_query, kOwnKind<T>}, nullptr, 0, queries, d, w.row.data(), w.query_norms.data());
}

template <class T>
void Knn<T>::sweep_block(int64_t query_begin, int64_t query_end, int64_t key_begin, int64_t key_end,
                         Shortlist* lists, KnnWorkspace<T>& w) {
  const int64_t d = problem_.dim, queries = query_end - query_begin;
  const int64_t lanes = knn_lanes(T{});
  const int64_t width = divide_up(queries, lanes) * lanes;
  const bool widen = problem_.keys.kind != kOwnKind<T>;
  pack_queries(query_begin, queries, width, w);
  // With u = epsilon / 2, a sum of d products rounds by at most d u / (1 - d u) of |q||k|, which is
  // at most (|q|^2 + |k|^2) / 2, and a norm by as much of itself; 16 u more cover the additions
  // that join them. Taken twice, the true distance is within error (|k|^2 + |q|^2) + tiny of |k|^2
  // + |q|^2 - 2<q,k> as computed here.
  const T units = std::min(static_cast<T>(d + 16) * std::numeric_limits<T>::epsilon(), T(0.5));
  const T error = units / (1 - units);
  const T tiny = static_cast<T>(2 * d + 16) * std::numeric_limits<T>::min();
  const auto query_term = [&](int64_t q) { return w.query_norms[q] - error * w.query_norms[q]; };
  w.limits.assign(width, -std::numeric_limits<T>::infinity());
  for (int64_t q = 0; q < queries; ++q) w.limits[q] = lists[q * key_ranges_].cut - query_term(q);
  if (widen) w.widened.resize(kKeyBlock * d);
  w.key_norms.resize(kKeyBlock);
  w.key_terms.resize(kKeyBlock);
  w.hits.resize(kKeyBlock * width);

  KnnSweep<T> sweep;
  sweep.dim = d;
  sweep.key_terms = w.key_terms.data();
  sweep.queries = w.columns.data();
  sweep.limits = w.limits.data();
  sweep.query_count = width;

  // Until a shortlist has k entries everything is a hit: blocks start small and grow.
  int64_t block = problem_.k < kKeyBlock ? kFirstKeyBlock : kKeyBlock;
  for (int64_t key = key_begin; key < key_end;) {
    const int64_t count = std::min(block, key_end - key);
    if (widen) {
      widen_rows(problem_.keys, nullptr, key, count, d, w.widened.data(), d);
      sweep.keys = w.widened.data();
    } else {
      sweep.keys = static_cast<const T*>(problem_.keys.data) + key * d;
    }
    const T* norms = w.key_norms.data();
    sq_norms({sweep.keys, kOwnKind<T>}, nullptr, 0, count, d, w.row.data(), w.key_norms.data());
    for (int64_t i = 0; i < count; ++i) w.key_terms[i] = norms[i] - error * norms[i] - tiny;
    sweep.key_count = count;
    const int64_t found = knn_sweep(sweep, w.hits.data());
    for (int64_t i = 0; i < found; ++i) {
      const KnnHit<T>& hit = w.hits[i];
      if (hit.query >= queries) continue;
      Shortlist& list = lists[hit.query * key_ranges_];
      const T lower = hit.score + query_term(hit.query);
      const T width_of_bound = 2 * (error * (norms[hit.key] + w.query_norms[hit.query]) + tiny);
      add(list, {lower, lower + width_of_bound, key + hit.key}, w);
      w.limits[hit.query] = list.cut - query_term(hit.query);
    }
    key += count;
    block = std::min(2 * block, kKeyBlock);
  }
}

template <class T>
void Knn<T>::finish(int64_t query, KnnWorkspace<T>& w, T* sq_distances_out, int64_t* indices_out) {
  w.rows.clear();
  bool everything = few_keys_;
  for (int64_t range = 0; range < key_ranges_; ++range) {
    everything = everything || lists_[query * key_ranges_ + range].everything;
  }
  if (everything) {
    w.rows.resize(problem_.memory_size);
    std::iota(w.rows.begin(), w.rows.end(), int64_t{0});
  } else {
    // Keys come in ascending order, in every list and from list to list.
    std::vector<Candidate>& all = lists_[query * key_ranges_].candidates;
    for (int64_t range = 1; range < key_ranges_; ++range) {
      std::vector<Candidate>& more = lists_[query * key_ranges_ + range].candidates;
      all.insert(all.end(), more.begin(), more.end());
    }
    const T cut = cut_of(all, w);
    for (const Candidate& c : all) {
      if (!(c.lower > cut)) w.rows.push_back(c.key);
    }
  }
  w.row.resize(problem_.dim);
  w.distances.resize(w.rows.size());
  sq_distances(problem_.queries + query * problem_.dim, problem_.keys,
               everything ? nullptr : w.rows.data(), 0, static_cast<int64_t>(w.rows.size()),
               problem_.dim, w.row.data(), w.distances.data());

  // Distance above, place among the candidates below: one integer that orders by distance and then
  // by row.
  w.nearest.resize(w.rows.size());
  for (size_t i = 0; i < w.rows.size(); ++i) {
    w.nearest[i] = order_of(w.distances[i]);
    w.nearest[i] = w.nearest[i] << 32 | static_cast<uint32_t>(i);
  }
  const auto kth = w.nearest.begin() + problem_.k;
  if (kth != w.nearest.end()) std::nth_element(w.nearest.begin(), kth, w.nearest.end());
  std::sort(w.nearest.begin(), kth);
  for (int64_t i = 0; i < problem_.k; ++i) {
    const size_t place = static_cast<uint32_t>(w.nearest[i]);
    sq_distances_out[i] = w.distances[place];
    indices_out[i] = w.rows[place];
  }
}

template class Knn<float>;
template class Knn<double>;

}  // namespace clfast::cpu
