#include "knn.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "../common/distance_error.h"
#include "rows.h"

namespace clfast::cpu {

#define CLFAST_PICK_KNN_FUNCTIONS(T)                                                               \
  int64_t knn_sweep(const KnnSweep<T>& sweep, KnnHit<T>* hits) {                                   \
    CLFAST_CALL_AT_LEVEL(knn_sweep(sweep, hits));                                                  \
  }                                                                                                \
  void knn_open(const KnnSweep<T>& sweep, int64_t stride, T* scores, T* minima) {                  \
    CLFAST_CALL_AT_LEVEL(knn_open(sweep, stride, scores, minima));                                 \
  }                                                                                                \
  int64_t knn_filter(const KnnSweep<T>& sweep, int64_t stride, const T* scores, KnnHit<T>* hits) { \
    CLFAST_CALL_AT_LEVEL(knn_filter(sweep, stride, scores, hits));                                 \
  }
CLFAST_PICK_KNN_FUNCTIONS(float)
CLFAST_PICK_KNN_FUNCTIONS(double)

static void knn_round_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, float* row,
                           BFloat16Pair* out, int64_t out_stride, float* norms, float* residuals) {
  CLFAST_CALL_AT_LEVEL(
      knn_round_rows(rows, begin, count, dim, row, out, out_stride, norms, residuals));
}
static void knn_round_panels(const float* panels, int64_t dim, int64_t width, BFloat16Pair* out) {
  CLFAST_CALL_AT_LEVEL(knn_round_panels(panels, dim, width, out));
}

namespace {

constexpr int64_t kQueryBlock = 128;  // with d = 512 in float32 one block of queries fits the L2
constexpr int64_t kKeyBlock = 96;     // a multiple of the register tile's 6 or 12 rows
constexpr int64_t kFewestOpening = 1024, kMostOpening = 4096;  // keys whose scores are kept
constexpr int64_t kDirectQueries = 3;
// With fewer queries or features, rounding the keys costs more than it spares.
constexpr int64_t kFewestRoundedQueries = 32, kFewestRoundedFeatures = 32;
constexpr int64_t kManyKeys = 16384;
constexpr int64_t kSpareCandidates = 32;
constexpr size_t kSortedTimes = 8;  // with more candidates a neighbour, only the k are sorted
constexpr size_t kSortedByDigit = 64;
constexpr int64_t kFewTimes = 5;  // with fewer keys a neighbour, a shortlist leaves out too little

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

// An upper bound of the length of a row, from its squared norm as it was rounded.
template <class T>
T length(T sq_norm, int64_t dim) {
  return std::sqrt(sq_norm) * (1 + static_cast<T>(dim + 16) * std::numeric_limits<T>::epsilon());
}

// Sorts integers whose lower 32 bits ascend by what is above them, byte by byte: a comparison sort
// mispredicts half of its branches on numbers in no order.
template <class T, class Order>
void sort_by_distance(std::vector<Order>& orders, std::vector<Order>& scratch) {
  const size_t count = orders.size();
  if (count < kSortedByDigit) {
    std::sort(orders.begin(), orders.end());
    return;
  }
  scratch.resize(count);
  for (unsigned shift = 32; shift < 32 + 8 * sizeof(T); shift += 8) {
    const auto digit = [shift](Order order) { return static_cast<uint8_t>(order >> shift); };
    uint32_t ends[256] = {};
    for (const Order order : orders) ++ends[digit(order)];
    if (ends[digit(orders[0])] == count) continue;
    uint32_t end = 0;
    for (uint32_t& e : ends) end = e += end;
    for (size_t i = count; i-- > 0;) scratch[--ends[digit(orders[i])]] = orders[i];
    orders.swap(scratch);
  }
}

// Minima [groups, width] of twice the groups, and again, while `enough` remain; returns how many
// do.
template <class T>
int64_t merge_groups(T* minima, int64_t groups, int64_t width, int64_t enough) {
  while (groups / 2 >= enough) {
    const int64_t half = groups / 2;
    // An odd group at the end goes with the pair before it.
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t to = std::min(g / 2, half - 1);
      for (int64_t q = 0; q < width; ++q) {
        const T other = minima[g * width + q];
        T& kept = minima[to * width + q];
        kept = g % 2 == 0 && g / 2 == to ? other : std::min(kept, other);
      }
    }
    groups = half;
  }
  return groups;
}

}  // namespace

template <class T>
Knn<T>::Knn(const KnnProblem<T>& problem, int64_t threads)
    : problem_(problem),
      few_keys_(problem.memory_size <= kFewTimes * problem.k),
      rounded_(sizeof(T) == sizeof(float) && simd_level() == Simd::kAvx512Bf16 &&
               problem.batch >= kFewestRoundedQueries && problem.dim >= kFewestRoundedFeatures),
      direct_(problem.batch <= kDirectQueries),
      shortlist_(static_cast<size_t>(2 * problem.k + kSpareCandidates)),
      longest_(std::max(4 * shortlist_, static_cast<size_t>(problem.memory_size / 16))) {
  // Threads share out few keys by queries, many keys by ranges of keys: a range more means a
  // shortlist more to fill, a block of queries more means another pass over the keys.
  const bool many_keys = problem.memory_size >= kManyKeys;
  const int64_t share = many_keys ? problem.batch : divide_up(problem.batch, threads);
  const int64_t block = std::min(kQueryBlock, std::max(share, panel_columns(T{}) / 2));
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
void Knn<T>::add(Shortlist& list, const Candidate& candidate, size_t longest,
                 KnnWorkspace<T>& w) const {
  if (list.everything || candidate.lower > list.cut) return;
  std::vector<Candidate>& candidates = list.candidates;
  // Where many bounds overlap, a list that was just cut back may still be long: it may double.
  const bool full = candidates.size() == candidates.capacity();
  if (full && candidates.size() >= shortlist_) {
    tighten(list, w);
    if (candidates.size() > longest) {
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
    Shortlist* lists = &lists_[query_begin * key_ranges_ + range];
    if (rounded_) {
      if (sweep_block(query_begin, query_end, key_begin, key_end, true, lists, w)) return;
      for (int64_t q = 0; q < query_end - query_begin; ++q) {
        lists[q * key_ranges_] = {{}, std::numeric_limits<T>::infinity(), false};
      }
    }
    sweep_block(query_begin, query_end, key_begin, key_end, false, lists, w);
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
    for (int64_t i = 0; i < count; ++i)
      add(list, {distances[i], distances[i], key + i}, longest_, w);
  }
}

template <class T>
void Knn<T>::pack_queries(int64_t query_begin, int64_t queries, int64_t width, bool rounded,
                          KnnWorkspace<T>& w) const {
  const int64_t d = problem_.dim;
  const T* first_query = problem_.queries + query_begin * d;
  w.panels.resize(d * width);
  pack_panels(first_query, queries, d, T(-2), w.panels.data());
  w.query_norms.assign(width, T(0));
  w.row.resize(d);
  sq_norms({first_query, kOwnKind<T>}, nullptr, 0, queries, d, w.row.data(), w.query_norms.data());
  if constexpr (sizeof(T) == sizeof(float)) {
    if (!rounded) return;
    const int64_t depth = (d + 1) / 2;
    w.query_pairs.resize(depth * width);
    knn_round_panels(w.panels.data(), d, width, w.query_pairs.data());
    w.query_lengths.assign(width, T(0));
    w.query_residuals.assign(width, T(0));
    w.key_pairs.resize(depth);
    for (int64_t q = 0; q < queries; ++q) {
      knn_round_rows({first_query, kOwnKind<T>}, q, 1, d, w.row.data(), w.key_pairs.data(), depth,
                     &w.query_lengths[q], &w.query_residuals[q]);
      w.query_lengths[q] = length(w.query_lengths[q], d);
    }
  }
}

template <class T>
bool Knn<T>::sweep_block(int64_t query_begin, int64_t query_end, int64_t key_begin, int64_t key_end,
                         bool rounded, Shortlist* lists, KnnWorkspace<T>& w) {
  const int64_t d = problem_.dim, queries = query_end - query_begin;
  const int64_t panel = panel_columns(T{});
  const int64_t width = divide_up(queries, panel) * panel;
  const int64_t key_stride = padded_stride<T>(d);
  const int64_t pair_stride = padded_stride<float>((d + 1) / 2);
  // Of the first sweep too many candidates would cost more than a second sweep.
  const size_t longest = rounded ? 4 * shortlist_ : longest_;
  const int64_t row_bytes = d * size_of(problem_.keys.kind);
  pack_queries(query_begin, queries, width, rounded, w);
  const auto [error, absolute] = distance_error<T>(d);
  // Products of bfloat16 take and give zero for what is below the normal range.
  const T tiny = rounded ? 4 * absolute : absolute;
  const auto query_term = [&, error = error](int64_t q) {
    return w.query_norms[q] - error * w.query_norms[q];
  };
  w.limits.assign(width, -std::numeric_limits<T>::infinity());
  w.cuts.assign(width, -std::numeric_limits<T>::infinity());
  if (rounded) {
    w.key_pairs.resize(kKeyBlock * pair_stride);
  } else {
    w.keys.resize(kKeyBlock * key_stride);
  }
  w.hits.resize(kKeyBlock * width);

  // With g groups a neighbour, about -g ln(1 - 1/g) k of their keys lie below the k-th smallest of
  // the groups' minima, the first bound: 1.1 k for g = 6.
  const int64_t opening = std::min(
      key_end - key_begin, std::clamp(6 * kKnnGroup * problem_.k, kFewestOpening, kMostOpening));
  const int64_t groups = divide_up(opening, kKnnGroup);
  w.scores.resize(opening * width);
  w.minima.assign(groups * width, std::numeric_limits<T>::infinity());
  w.key_norms.resize(std::max(opening, kKeyBlock));
  w.key_residuals.assign(w.key_norms.size(), T(0));
  w.key_terms.resize(kKeyBlock);
  // How far a score may be from that of the pair before rounding, for keys up to a length and with
  // residuals up to a length: 2 |<q, k> - <q^, k^>| with <q, k - k^> and <q - q^, k^>.
  const auto slack = [&](int64_t q, T key_length, T key_residual) {
    return rounded ? T(2.0002) * (w.query_lengths[q] * key_residual +
                                  w.query_residuals[q] * (key_length + key_residual))
                   : T(0);
  };
  bool overflowed = false;

  KnnSweep<T> sweep;
  sweep.keys = w.keys.data();
  sweep.key_stride = key_stride;
  sweep.key_pairs = rounded ? w.key_pairs.data() : nullptr;
  sweep.pair_stride = pair_stride;
  sweep.query_pairs = w.query_pairs.data();
  sweep.key_terms = w.key_terms.data();
  sweep.dim = d;
  sweep.queries = w.panels.data();
  sweep.limits = w.limits.data();
  sweep.query_count = queries;
  // The limits of a block of keys, whose norms and residuals begin at `at` of the workspace's.
  const auto set_limits = [&](int64_t at, int64_t count) {
    T norm = 0, residual = 0;
    for (int64_t i = at; i < at + count; ++i) {
      norm = std::max(norm, w.key_norms[i]);
      residual = std::max(residual, w.key_residuals[i]);
    }
    const T longest_key = length(norm, d);
    for (int64_t q = 0; q < queries; ++q) w.limits[q] = w.cuts[q] + slack(q, longest_key, residual);
  };
  const auto load_keys = [&](int64_t first, int64_t count, int64_t at) {
    T* norms = w.key_norms.data() + at;
    if constexpr (sizeof(T) == sizeof(float)) {
      if (rounded) {
        knn_round_rows(problem_.keys, first, count, d, w.row.data(), w.key_pairs.data(),
                       pair_stride, norms, w.key_residuals.data() + at);
      }
    }
    if (!rounded) copy_rows(problem_.keys, first, count, d, w.keys.data(), key_stride, norms);
    for (int64_t i = 0; i < count; ++i) w.key_terms[i] = norms[i] - error * norms[i] - tiny;
    const int64_t next = std::min(kKeyBlock, key_end - first - count);
    sweep.key_count = count;
    sweep.next = static_cast<const char*>(problem_.keys.data) + (first + count) * row_bytes;
    sweep.next_size = next * row_bytes;
  };
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const auto add_hits = [&](int64_t found, int64_t first_key, int64_t at) {
    for (int64_t i = 0; i < found; ++i) {
      const KnnHit<T>& hit = w.hits[i];
      if (hit.query >= queries) continue;  // a key with a NaN is a hit of every column
      Shortlist& list = lists[hit.query * key_ranges_];
      const T norm = w.key_norms[at + hit.key];
      const T extra = slack(hit.query, length(norm, d), w.key_residuals[at + hit.key]);
      const T lower = hit.score + query_term(hit.query) - extra;
      const T width_of_bound = 2 * (error * (norm + w.query_norms[hit.query]) + tiny + extra);
      // A product that overflowed says that the key may be near, not that it is.
      const T upper = lower > -kInfinity ? lower + width_of_bound : kInfinity;
      add(list, {lower, upper, first_key + hit.key}, longest, w);
      w.cuts[hit.query] = list.cut - query_term(hit.query);
      overflowed |= list.everything;
    }
  };

  for (int64_t done = 0; done < opening; done += kKeyBlock) {
    load_keys(key_begin + done, std::min(kKeyBlock, opening - done), done);
    knn_open(sweep, width, w.scores.data() + done * width,
             w.minima.data() + done / kKnnGroup * width);
  }
  const T largest_norm = *std::max_element(w.key_norms.begin(), w.key_norms.begin() + opening);
  const T largest_residual =
      *std::max_element(w.key_residuals.begin(), w.key_residuals.begin() + opening);
  const int64_t merged = merge_groups(w.minima.data(), groups, width, 3 * problem_.k);
  for (int64_t q = 0; q < queries; ++q) {
    Shortlist& list = lists[q * key_ranges_];
    const T width_of_bound = 2 * (error * (largest_norm + w.query_norms[q]) + tiny) +
                             slack(q, length(largest_norm, d), largest_residual);
    if (merged >= problem_.k) {
      w.column.resize(merged);
      for (int64_t g = 0; g < merged; ++g) w.column[g] = w.minima[g * width + q];
      const auto kth = w.column.begin() + (problem_.k - 1);
      std::nth_element(w.column.begin(), kth, w.column.end());
      list.cut = widened(*kth + query_term(q) + width_of_bound);
    }
    w.cuts[q] = list.cut - query_term(q);
  }
  for (int64_t done = 0; done < opening; done += kKeyBlock) {
    sweep.key_count = std::min(kKeyBlock, opening - done);
    set_limits(done, sweep.key_count);
    const int64_t found = knn_filter(sweep, width, w.scores.data() + done * width, w.hits.data());
    add_hits(found, key_begin + done, done);
    if (rounded && overflowed) return false;
  }
  for (int64_t key = key_begin + opening; key < key_end; key += kKeyBlock) {
    load_keys(key, std::min(kKeyBlock, key_end - key), 0);
    set_limits(0, sweep.key_count);
    add_hits(knn_sweep(sweep, w.hits.data()), key, 0);
    if (rounded && overflowed) return false;
  }
  return true;
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
  const size_t k = static_cast<size_t>(problem_.k);
  if (w.rows.size() > kSortedTimes * k) {
    std::nth_element(w.nearest.begin(), w.nearest.begin() + problem_.k, w.nearest.end());
    std::sort(w.nearest.begin(), w.nearest.begin() + problem_.k);
  } else {
    sort_by_distance<T>(w.nearest, w.sorted);
  }
  for (int64_t i = 0; i < problem_.k; ++i) {
    const size_t place = static_cast<uint32_t>(w.nearest[i]);
    sq_distances_out[i] = w.distances[place];
    indices_out[i] = w.rows[place];
  }
}

template class Knn<float>;
template class Knn<double>;

}  // namespace clfast::cpu
