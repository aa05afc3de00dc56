#include "knn.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

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
constexpr int64_t kMinKeyRange = 1024;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

template <class T>
T or_infinity(T x) {
  return std::isnan(x) ? std::numeric_limits<T>::infinity() : x;
}

}  // namespace

template <class T>
Knn<T>::Knn(const KnnProblem<T>& problem, int64_t threads)
    : problem_(problem), direct_(problem.batch <= kDirectQueries) {
  query_blocks_ = divide_up(problem.batch, kQueryBlock);
  // More ranges than threads need would only lengthen the shortlists: each starts from nothing.
  const int64_t most = std::max<int64_t>(1, problem.memory_size / kMinKeyRange);
  key_ranges_ = 1;
  while (key_ranges_ < most && (query_blocks_ * key_ranges_) % threads != 0 &&
         query_blocks_ * key_ranges_ < 4 * threads) {
    ++key_ranges_;
  }
  lists_.resize(static_cast<size_t>(problem.batch * key_ranges_));
  for (Shortlist& list : lists_) {
    list.tighten_at = static_cast<size_t>(2 * problem.k + 64);
    list.cut = std::numeric_limits<T>::infinity();
  }
}

// The k-th smallest upper bound, widened by the rounding of the distance in difference form (26
// units, twice): a pair whose lower bound lies above cannot be among the k nearest.
template <class T>
T Knn<T>::cut_of(std::vector<Candidate>& candidates) const {
  const auto kth = candidates.begin() + (problem_.k - 1);
  std::nth_element(candidates.begin(), kth, candidates.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return or_infinity(a.upper) < or_infinity(b.upper);
                   });
  return or_infinity(kth->upper) * (1 + 64 * std::numeric_limits<T>::epsilon());
}

template <class T>
void Knn<T>::tighten(Shortlist& list) const {
  list.cut = cut_of(list.candidates);
  const auto beyond = [&](const Candidate& c) { return c.lower > list.cut; };
  list.candidates.erase(std::remove_if(list.candidates.begin(), list.candidates.end(), beyond),
                        list.candidates.end());
  list.tighten_at = std::max(static_cast<size_t>(2 * problem_.k + 64), 2 * list.candidates.size());
}

template <class T>
void Knn<T>::add(Shortlist& list, const Candidate& candidate) const {
  if (candidate.lower > list.cut) return;
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
  for (int64_t q = 0; q < queries; ++q) {
    const T* query = problem_.queries + (query_begin + q) * d;
    for (int64_t j = 0; j < d; ++j) columns[j * width + q] = query[j];
    cut[q] = lists[q * key_ranges_].cut;
  }
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
  std::vector<Candidate>& all = lists_[query * key_ranges_].candidates;
  for (int64_t range = 1; range < key_ranges_; ++range) {
    std::vector<Candidate>& more = lists_[query * key_ranges_ + range].candidates;
    all.insert(all.end(), more.begin(), more.end());
  }
  const T cut = cut_of(all);

  std::vector<int64_t> rows;
  std::vector<T> distances;
  for (const Candidate& c : all) {
    if (c.lower > cut) continue;
    rows.push_back(c.key);
    distances.push_back(c.lower);
  }
  if (!direct_) {
    std::vector<T> scratch(problem_.dim);
    sq_distances(problem_.queries + query * problem_.dim, problem_.keys, rows.data(), 0,
                 static_cast<int64_t>(rows.size()), problem_.dim, scratch.data(), distances.data());
  }

  struct Neighbour {
    decltype(order_of(T{})) order;
    T distance;
    int64_t row;
  };
  const auto nearer = [](const Neighbour& a, const Neighbour& b) {
    return a.order != b.order ? a.order < b.order : a.row < b.row;
  };
  std::vector<Neighbour> nearest;
  for (size_t i = 0; i < rows.size(); ++i) {
    nearest.push_back({order_of(distances[i]), distances[i], rows[i]});
  }
  const auto kth = nearest.begin() + problem_.k;
  if (kth != nearest.end()) std::nth_element(nearest.begin(), kth, nearest.end(), nearer);
  std::sort(nearest.begin(), kth, nearer);
  for (int64_t i = 0; i < problem_.k; ++i) {
    sq_distances_out[i] = nearest[i].distance;
    indices_out[i] = nearest[i].row;
  }
}

template class Knn<float>;
template class Knn<double>;

}  // namespace clfast::cpu
