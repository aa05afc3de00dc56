// The sweeps of knn with products of keys and queries.
#include <algorithm>
#include <cmath>
#include <limits>

#include "../common/distance_error.h"
#include "knn.h"
#include "rows.h"

namespace clfast::cpu {

#define CLFAST_PICK_KNN_FUNCTIONS(T)                                   \
  int64_t knn_sweep(const KnnSweep<T>& sweep, KnnHit<T>* hits) {       \
    CLFAST_CALL_AT_LEVEL(knn_sweep(sweep, hits));                      \
  }                                                                    \
  void knn_open(const KnnSweep<T>& sweep, int64_t stride, T* minima) { \
    CLFAST_CALL_AT_LEVEL(knn_open(sweep, stride, minima));             \
  }
CLFAST_PICK_KNN_FUNCTIONS(float)
CLFAST_PICK_KNN_FUNCTIONS(double)

void knn_round_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, const float* offset,
                    float* row, BFloat16Pair* out, int64_t out_stride, float* norms,
                    float* residuals) {
  CLFAST_CALL_AT_LEVEL(
      knn_round_rows(rows, begin, count, dim, offset, row, out, out_stride, norms, residuals));
}
void knn_round_panels(const float* panels, int64_t dim, int64_t width, BFloat16Pair* out) {
  CLFAST_CALL_AT_LEVEL(knn_round_panels(panels, dim, width, out));
}

namespace {

constexpr int64_t kKeyBlock = 96;  // a multiple of the register tile's 6 or 12 rows

template <class T>
constexpr ScalarKind kOwnKind =
    sizeof(T) == sizeof(float) ? ScalarKind::kFloat32 : ScalarKind::kFloat64;

// An upper bound of the length of a row, from its squared norm as it was rounded.
template <class T>
T length(T sq_norm, int64_t dim) {
  return std::sqrt(sq_norm) * (1 + static_cast<T>(dim + 16) * std::numeric_limits<T>::epsilon());
}

}  // namespace

template <class T>
struct KnnBounds {
  T error, tiny;
  bool rounded;

  KnnBounds(int64_t dim, bool rounded) : rounded(rounded) {
    const auto [relative, absolute] = distance_error<T>(dim);
    error = relative;
    // Products of bfloat16 take and give zero for what is below the normal range.
    tiny = rounded ? 4 * absolute : absolute;
  }
  // What a query adds to all its scores.
  T query_term(const KnnTask<T>& task, int64_t q) const {
    return task.norms[q] - error * task.norms[q];
  }
  // How far a score may be from that of the pair before rounding, for keys up to a length and with
  // residuals up to a length: 2 |<q, k> - <q^, k^>| with <q, k - k^> and <q - q^, k^>.
  T slack(const KnnTask<T>& task, int64_t q, T key_length, T key_residual) const {
    return rounded ? T(2.0002) * (task.lengths[q] * key_residual +
                                  task.residuals[q] * (key_length + key_residual))
                   : T(0);
  }
  // From the lower bound of a pair to the upper.
  T width(const KnnTask<T>& task, int64_t q, T key_norm, T extra) const {
    return 2 * (error * (key_norm + task.norms[q]) + tiny + extra);
  }
};

template <class T>
void Knn<T>::pack_queries(KnnTask<T>& t, KnnWorkspace<T>& w) const {
  const int64_t d = problem_.dim;
  w.queries.resize(t.queries * d);
  t.norms.assign(t.width, T(0));
  for (int64_t q = 0; q < t.queries; ++q) {
    copy_rows({query(t.query_begin + q), kOwnKind<T>}, 0, 1, d, offset(), w.queries.data() + q * d,
              d, &t.norms[q]);
  }
  t.panels.resize(d * t.width);
  pack_panels(w.queries.data(), t.queries, d, T(-2), t.panels.data());
  if constexpr (sizeof(T) == sizeof(float)) {
    if (way_ != KnnWay::kRounded) return;
    const int64_t depth = (d + 1) / 2;
    t.pairs.resize(depth * t.width);
    knn_round_panels(t.panels.data(), d, t.width, t.pairs.data());
    t.lengths.assign(t.width, T(0));
    t.residuals.assign(t.width, T(0));
    w.row.resize(d);
    w.pairs.resize(depth);
    for (int64_t q = 0; q < t.queries; ++q) {
      knn_round_rows({w.queries.data(), kOwnKind<T>}, q, 1, d, nullptr, w.row.data(),
                     w.pairs.data(), depth, &t.lengths[q], &t.residuals[q]);
      t.lengths[q] = length(t.lengths[q], d);
    }
  }
}

template <class T>
KnnSweep<T> Knn<T>::sweep_of(const KnnTask<T>& t, KnnWorkspace<T>& w) const {
  const bool rounded = way_ == KnnWay::kRounded;
  KnnSweep<T> sweep{};
  sweep.dim = problem_.dim;
  sweep.key_stride = padded_stride<T>(problem_.dim);
  sweep.pair_stride = padded_stride<float>((problem_.dim + 1) / 2);
  if (rounded) {
    w.pairs.resize(std::max(kKeyBlock * sweep.pair_stride, int64_t{1}));
    sweep.key_pairs = w.pairs.data();
  } else {
    w.keys.resize(kKeyBlock * sweep.key_stride);
    sweep.keys = w.keys.data();
  }
  w.row.resize(problem_.dim);
  w.key_norms.resize(kKeyBlock);
  w.key_residuals.assign(kKeyBlock, T(0));
  w.key_terms.resize(kKeyBlock);
  sweep.key_terms = w.key_terms.data();
  sweep.queries = t.panels.data();
  sweep.query_pairs = t.pairs.data();
  sweep.query_count = t.queries;
  return sweep;
}

template <class T>
void Knn<T>::load_keys(int64_t first, int64_t count, const KnnBounds<T>& bounds, KnnSweep<T>& sweep,
                       KnnWorkspace<T>& w) const {
  const int64_t d = problem_.dim;
  T* norms = w.key_norms.data();
  if constexpr (sizeof(T) == sizeof(float)) {
    if (bounds.rounded) {
      knn_round_rows(problem_.keys, first, count, d, offset(), w.row.data(), w.pairs.data(),
                     sweep.pair_stride, norms, w.key_residuals.data());
    }
  }
  if (!bounds.rounded) {
    copy_rows(problem_.keys, first, count, d, offset(), w.keys.data(), sweep.key_stride, norms);
  }
  for (int64_t i = 0; i < count; ++i) {
    w.key_terms[i] = norms[i] - bounds.error * norms[i] - bounds.tiny;
  }
  sweep.key_count = count;
}

// Asks for keys [first, first + count) while the next tiles are in work.
template <class T>
static void fetch_next(const KnnProblem<T>& problem, int64_t first, int64_t count,
                       KnnSweep<T>& sweep) {
  const int64_t row_bytes = problem.dim * size_of(problem.keys.kind);
  sweep.next = static_cast<const char*>(problem.keys.data) + first * row_bytes;
  sweep.next_size = count * row_bytes;
}

// Blocks are spread evenly over the memory, each at another place of its share: keys may lie there
// in any period.
template <class T>
int64_t Knn<T>::sampled_block(int64_t block) const {
  const int64_t begin = block * problem_.memory_size / sampled_blocks_;
  const int64_t end = (block + 1) * problem_.memory_size / sampled_blocks_;
  const int64_t room = std::max(end - begin - kKnnSampleBlock, int64_t{0});
  return begin + ((block * 40503) % 65536 * room >> 16);
}

template <class T>
void Knn<T>::open(int64_t index, KnnWorkspace<T>& w) {
  KnnTask<T>& t = tasks_[index];
  pack_queries(t, w);
  t.minima.assign(groups_ * t.width, std::numeric_limits<T>::infinity());
  const KnnBounds<T> bounds(problem_.dim, way_ == KnnWay::kRounded);
  KnnSweep<T> sweep = sweep_of(t, w);
  const int64_t count = std::min(kKnnSampleBlock, problem_.memory_size);
  const int64_t end = sampled_blocks_ * (t.range + 1) / key_ranges_;
  for (int64_t block = sampled_blocks_ * t.range / key_ranges_; block < end; ++block) {
    load_keys(sampled_block(block), count, bounds, sweep, w);
    if (block + 1 < end) fetch_next(problem_, sampled_block(block + 1), count, sweep);
    // Keys next to each other, which may well be alike, are of different groups.
    knn_open(sweep, t.width, t.minima.data() + block * kKnnSampleBlock % groups_ * t.width);
    for (int64_t i = 0; i < count; ++i) {
      t.largest_norm = std::max(t.largest_norm, w.key_norms[i]);
      t.largest_residual = std::max(t.largest_residual, w.key_residuals[i]);
    }
  }
}

template <class T>
int64_t Knn<T>::openings() const {
  // A task that has the whole sample to itself opens as it sweeps.
  return way_ == KnnWay::kDirect || key_ranges_ == 1 ? 0 : sweeps();
}

// The cuts of a task's queries, from the sample of all tasks with the same queries.
template <class T>
void Knn<T>::first_cuts(int64_t index, const KnnBounds<T>& bounds, KnnWorkspace<T>& w) {
  const KnnTask<T>& t = tasks_[index];
  const KnnTask<T>* const same = &t - t.range;
  T norm = 0, residual = 0;
  for (int64_t range = 0; range < key_ranges_; ++range) {
    norm = std::max(norm, same[range].largest_norm);
    residual = std::max(residual, same[range].largest_residual);
  }
  w.cuts.assign(t.width, -std::numeric_limits<T>::infinity());
  w.limits.assign(t.width, -std::numeric_limits<T>::infinity());
  w.column.resize(groups_);
  for (int64_t q = 0; q < t.queries; ++q) {
    KnnShortlist<T>& found = list(t, q);
    if (rank_ <= groups_) {
      for (int64_t g = 0; g < groups_; ++g) {
        w.column[g] = same[0].minima[g * t.width + q];
        for (int64_t range = 1; range < key_ranges_; ++range) {
          w.column[g] = std::min(w.column[g], same[range].minima[g * t.width + q]);
        }
      }
      const auto last = w.column.begin() + (rank_ - 1);
      std::nth_element(w.column.begin(), last, w.column.end());
      const T extra = bounds.slack(t, q, length(norm, problem_.dim), residual);
      found.cut = widened(*last + bounds.query_term(t, q) + bounds.width(t, q, norm, extra));
    }
    w.cuts[q] = found.cut - bounds.query_term(t, q);
  }
}

template <class T>
void Knn<T>::sweep(int64_t index, KnnWorkspace<T>& w) {
  const KnnTask<T>& t = tasks_[index];
  if (way_ == KnnWay::kDirect) return scan(t, w);
  if (key_ranges_ == 1) open(index, w);
  const KnnBounds<T> bounds(problem_.dim, way_ == KnnWay::kRounded);
  first_cuts(index, bounds, w);
  KnnSweep<T> sweep = sweep_of(t, w);
  sweep.limits = w.limits.data();
  w.hits.resize(kKeyBlock * t.width);
  int64_t defeated = 0;
  for (int64_t key = t.key_begin; key < t.key_end && defeated < t.queries; key += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, t.key_end - key);
    load_keys(key, count, bounds, sweep, w);
    fetch_next(problem_, key + count, std::min(kKeyBlock, t.key_end - key - count), sweep);
    const T norm = *std::max_element(w.key_norms.begin(), w.key_norms.begin() + count);
    const T residual = *std::max_element(w.key_residuals.begin(), w.key_residuals.begin() + count);
    const T longest = length(norm, problem_.dim);
    for (int64_t q = 0; q < t.queries; ++q) {
      w.limits[q] = w.cuts[q] + bounds.slack(t, q, longest, residual);
    }
    const int64_t found = knn_sweep(sweep, w.hits.data());
    for (int64_t i = 0; i < found; ++i) {
      const KnnHit<T>& hit = w.hits[i];
      if (hit.query >= t.queries) continue;  // a key with a NaN is a hit of every column
      KnnShortlist<T>& candidates = list(t, hit.query);
      if (candidates.defeated) continue;
      const T key_norm = w.key_norms[hit.key];
      const T extra =
          bounds.slack(t, hit.query, length(key_norm, problem_.dim), w.key_residuals[hit.key]);
      const T lower = hit.score + bounds.query_term(t, hit.query) - extra;
      // A product that overflowed says that the key may be near, not that it is.
      constexpr T kInfinity = std::numeric_limits<T>::infinity();
      const T upper =
          lower > -kInfinity ? lower + bounds.width(t, hit.query, key_norm, extra) : kInfinity;
      candidates.add({lower, upper, key + hit.key}, size_, w.orders);
      w.cuts[hit.query] = candidates.cut - bounds.query_term(t, hit.query);
      defeated += candidates.defeated;
    }
  }
}

template class Knn<float>;
template class Knn<double>;

}  // namespace clfast::cpu
