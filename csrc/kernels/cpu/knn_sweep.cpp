// The sweeps of knn with products of keys and queries.
#include <algorithm>
#include <cstring>
#include <limits>

#include "amx.h"
#include "knn.h"
#include "knn_bounds.h"
#include "rows.h"

namespace clfast::cpu {

#define CLFAST_PICK_KNN_FUNCTIONS(T)                                                               \
  T knn_cut(const T* values, int64_t count, int64_t rank) {                                        \
    CLFAST_CALL_AT_LEVEL(knn_cut(values, count, rank));                                            \
  }                                                                                                \
  int64_t knn_select(const T* values, int64_t count, T limit, int32_t* selected) {                 \
    CLFAST_CALL_AT_LEVEL(knn_select(values, count, limit, selected));                              \
  }                                                                                                \
  int64_t knn_sweep(const KnnSweep<T>& sweep, KnnHit<T>* hits) {                                   \
    CLFAST_CALL_AT(sweep.level, knn_sweep(sweep, hits));                                           \
  }                                                                                                \
  void knn_open(const KnnSweep<T>& sweep, int64_t stride, T* minima, T* scores) {                  \
    CLFAST_CALL_AT(sweep.level, knn_open(sweep, stride, minima, scores));                          \
  }                                                                                                \
  int64_t knn_filter(const KnnSweep<T>& sweep, int64_t stride, const T* scores, KnnHit<T>* hits) { \
    CLFAST_CALL_AT(sweep.level, knn_filter(sweep, stride, scores, hits));                          \
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

// Bytes of a row: with longer ones too many rows of a tile would share a set of the L1 cache.
constexpr int64_t kLongestInPlace = 1024;
constexpr int64_t kKeyBlock = 96;  // a multiple of the register tile's 6 or 12 rows
static_assert(kKeyBlock % kAmxRows == 0);

}  // namespace

template <class T>
void Knn<T>::pack_queries(const KnnTask<T>& t, KnnWorkspace<T>& w) const {
  const int64_t d = problem_.dim;
  KnnQueries<T>& packed = w.queries;
  packed.rows.resize(t.queries * d);
  packed.norms.assign(t.width, T(0));
  for (int64_t q = 0; q < t.queries; ++q) {
    copy_rows({query(t.query_begin + q), kKindOf<T>}, 0, 1, d, offset(), packed.rows.data() + q * d,
              d, &packed.norms[q]);
  }
  if (!in_rows(t)) {
    packed.panels.resize(d * t.width);
    pack_panels(level_, packed.rows.data(), t.queries, d, packed.panels.data());
  }
  if constexpr (sizeof(T) == sizeof(float)) {
    if (way_ != KnnWay::kRounded) return;
    const int64_t stride = rounded_pairs(d);
    packed.lengths.assign(t.width, T(0));
    packed.residuals.assign(t.width, T(0));
    w.row.resize(d);
    // Zeros behind a row fill its last vector.
    packed.pairs.assign(t.queries * stride, BFloat16Pair{});
    knn_round_rows({packed.rows.data(), kKindOf<T>}, 0, t.queries, d, nullptr, w.row.data(),
                   packed.pairs.data(), stride, packed.lengths.data(), packed.residuals.data());
    for (T& l : packed.lengths) l = length(l, d);
    if (in_rows(t)) return;
    packed.pairs.resize(rounded_panel(d) * t.width);
    knn_round_panels(packed.panels.data(), d, t.width, packed.pairs.data());
  }
}

template <class T>
bool Knn<T>::in_place() const {
  return way_ != KnnWay::kRounded && offset_.empty() && problem_.keys.kind == kKindOf<T> &&
         problem_.dim * static_cast<int64_t>(sizeof(T)) <= kLongestInPlace;
}

template <class T>
KnnSweep<T> Knn<T>::sweep_of(const KnnTask<T>& t, KnnWorkspace<T>& w) const {
  KnnSweep<T> sweep{};
  sweep.level = level_;
  sweep.in_tiles = in_tiles_;
  sweep.dim = problem_.dim;
  sweep.key_stride = in_place() ? problem_.dim : padded_stride<T>(problem_.dim);
  sweep.pair_stride = rounded_pairs(problem_.dim);
  if (way_ == KnnWay::kRounded && !rounded_before()) {
    // New elements are zeros, and rounding leaves those behind a row as they are.
    w.pairs.resize(std::max(kKeyBlock * sweep.pair_stride, int64_t{1}));
    sweep.key_pairs = w.pairs.data();
  } else if (way_ == KnnWay::kProducts && !in_place()) {
    w.keys.resize(kKeyBlock * sweep.key_stride);
    sweep.keys = w.keys.data();
  }
  w.row.resize(problem_.dim);
  const int64_t known = kept_ ? sampled_blocks_ * kKnnSampleBlock : kKeyBlock;
  w.key_norms.resize(known);
  w.key_residuals.resize(known, T(0));
  w.key_terms.resize(kKeyBlock);
  sweep.key_terms = w.key_terms.data();
  sweep.queries = w.queries.panels.data();
  (in_rows(t) ? sweep.query_rows : sweep.query_pairs) = w.queries.pairs.data();
  sweep.query_count = t.queries;
  return sweep;
}

// Keys [first, first + count); their norms and residuals go to `at` of the workspace's.
template <class T>
void Knn<T>::load_keys(int64_t first, int64_t count, int64_t at, const KnnBounds<T>& bounds,
                       KnnSweep<T>& sweep, KnnWorkspace<T>& w) const {
  const int64_t d = problem_.dim;
  T* norms = w.key_norms.data() + at;
  if constexpr (sizeof(T) == sizeof(float)) {
    float* residuals = w.key_residuals.data() + at;
    if (rounded_before()) {
      sweep.key_pairs = problem_.rounded.rows + first * sweep.pair_stride;
      for (int64_t i = 0; i < count; ++i) {
        const BFloat16Pair* end = sweep.key_pairs + (i + 1) * sweep.pair_stride;
        memcpy(norms + i, end - 2, sizeof(float));
        memcpy(residuals + i, end - 1, sizeof(float));
      }
    } else if (way_ == KnnWay::kRounded) {
      knn_round_rows(problem_.keys, first, count, d, offset(), w.row.data(), w.pairs.data(),
                     sweep.pair_stride, norms, residuals);
    }
  }
  if (in_place()) {
    sweep.keys = static_cast<const T*>(problem_.keys.data) + first * d;
    sq_norms(problem_.keys, nullptr, first, count, d, w.row.data(), norms);
  } else if (way_ != KnnWay::kRounded) {
    copy_rows(problem_.keys, first, count, d, offset(), w.keys.data(), sweep.key_stride, norms);
  }
  for (int64_t i = 0; i < count; ++i) w.key_terms[i] = bounds.key_term(norms[i]);
  sweep.key_count = count;
}

// Asks for keys [first, first + count) while the next tiles are in work.
template <class T>
void Knn<T>::fetch_next(int64_t first, int64_t count, KnnSweep<T>& sweep) const {
  const bool rounded = rounded_before();
  const void* keys = rounded ? problem_.rounded.rows : problem_.keys.data;
  const int64_t row_bytes = rounded ? sweep.pair_stride * static_cast<int64_t>(sizeof(BFloat16Pair))
                                    : problem_.dim * size_of(problem_.keys.kind);
  sweep.next = static_cast<const char*>(keys) + first * row_bytes;
  sweep.next_size = count * row_bytes;
}

// Blocks are spread evenly over the memory, each at another place of its share: keys may lie there
// in any period.
template <class T>
int64_t Knn<T>::sampled_block(int64_t block) const {
  if (kept_) return block * kKnnSampleBlock;
  const int64_t begin = block * problem_.memory_size / sampled_blocks_;
  const int64_t end = (block + 1) * problem_.memory_size / sampled_blocks_;
  return begin + ((block * 40503) % 65536 * (end - begin - kKnnSampleBlock) >> 16);
}

template <class T>
void Knn<T>::open(int64_t index, KnnWorkspace<T>& w) {
  KnnTask<T>& t = tasks_[index];
  pack_queries(t, w);
  t.minima.assign(groups_ * t.width, std::numeric_limits<T>::infinity());
  if (kept_) w.scores.resize(problem_.memory_size * t.width);
  const KnnBounds<T> bounds(problem_.dim, way_);
  KnnSweep<T> sweep = sweep_of(t, w);
  int64_t begin = sampled_blocks_ * t.range / key_ranges_;
  int64_t end = sampled_blocks_ * (t.range + 1) / key_ranges_;
  if (kept_) {
    begin = t.key_begin / kKnnSampleBlock;
    end = t.key_begin < t.key_end ? divide_up(t.key_end, kKnnSampleBlock) : begin;
  }
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = sampled_block(block), at = kept_ ? first : 0;
    const int64_t count = std::min(kKnnSampleBlock, problem_.memory_size - first);
    load_keys(first, count, at, bounds, sweep, w);
    if (block + 1 < end) {
      const int64_t next = sampled_block(block + 1);
      fetch_next(next, std::min(count, problem_.memory_size - next), sweep);
    }
    // Keys next to each other, which may well be alike, are of different groups.
    knn_open(sweep, t.width, t.minima.data() + block * kKnnSampleBlock % groups_ * t.width,
             kept_ ? w.scores.data() + first * t.width : nullptr);
    for (int64_t i = at; i < at + count; ++i) {
      // The scores of others are no numbers, and no minima.
      if (!(w.key_norms[i] <= std::numeric_limits<T>::max())) continue;
      t.largest_norm = std::max(t.largest_norm, w.key_norms[i]);
      t.largest_residual = std::max(t.largest_residual, w.key_residuals[i]);
    }
  }
}

template <class T>
int64_t Knn<T>::openings() const {
  return way_ == KnnWay::kDirect || opens_alone() ? 0 : sweeps();
}

// The cuts of a task's queries, from the sample of all tasks with the same queries unless it opened
// alone; returns how many give up at once.
template <class T>
int64_t Knn<T>::first_cuts(int64_t index, const KnnBounds<T>& bounds, KnnWorkspace<T>& w) {
  const KnnTask<T>& t = tasks_[index];
  const KnnTask<T>* const same = opens_alone() ? &t : &t - t.range;
  const int64_t count = opens_alone() ? 1 : key_ranges_;
  T norm = 0, residual = 0;
  for (int64_t range = 0; range < count; ++range) {
    norm = std::max(norm, same[range].largest_norm);
    residual = std::max(residual, same[range].largest_residual);
  }
  const T longest = length(norm, problem_.dim);
  w.cuts.resize(t.queries);
  w.limits.assign(t.width, -std::numeric_limits<T>::infinity());
  w.column.assign(round_up(groups_, kLine<T>), std::numeric_limits<T>::infinity());
  int64_t defeated = 0;
  for (int64_t q = 0; q < t.queries; ++q) {
    for (int64_t g = 0; g < groups_; ++g) {
      w.column[g] = same[0].minima[g * t.width + q];
      for (int64_t range = 1; range < count; ++range) {
        w.column[g] = std::min(w.column[g], same[range].minima[g * t.width + q]);
      }
    }
    const T cut = knn_cut(w.column.data(), static_cast<int64_t>(w.column.size()), rank_);
    KnnShortlist<T>& found = list(t, q);
    found.cut = widened(bounds.bounds(w.queries, q, cut, norm, longest, residual, 0).upper);
    // Where the bounds let through far more of the sample than that, they will of the memory.
    const T limit = bounds.limit(w.queries, q, found.cut, longest, residual);
    const auto passes = [limit](T minimum) { return !(minimum > limit); };
    if (!kept_ && std::count_if(w.column.begin(), w.column.end(), passes) > 4 * rank_) {
      found.give_up();
      ++defeated;
    }
    w.cuts[q] = found.cut;
  }
  return defeated;
}

template <class T>
void Knn<T>::sweep(int64_t index, KnnWorkspace<T>& w) {
  const KnnTask<T>& t = tasks_[index];
  if (way_ == KnnWay::kDirect) return scan(t, w);
  if (opens_alone()) {
    open(index, w);
  } else {
    pack_queries(t, w);
  }
  const KnnBounds<T> bounds(problem_.dim, way_);
  int64_t defeated = first_cuts(index, bounds, w);
  KnnSweep<T> sweep = sweep_of(t, w);
  sweep.limits = w.limits.data();
  w.hits.resize(kKeyBlock * t.width);
  for (int64_t key = t.key_begin; key < t.key_end && defeated < t.queries; key += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, t.key_end - key), at = kept_ ? key : 0;
    if (kept_) {
      sweep.key_count = count;
    } else {
      load_keys(key, count, at, bounds, sweep, w);
      fetch_next(key + count, std::min(kKeyBlock, t.key_end - key - count), sweep);
    }
    const T* norms = w.key_norms.data() + at;
    const T* residuals = w.key_residuals.data() + at;
    const T longest = length(*std::max_element(norms, norms + count), problem_.dim);
    const T residual = *std::max_element(residuals, residuals + count);
    for (int64_t q = 0; q < t.queries; ++q) {
      w.limits[q] = bounds.limit(w.queries, q, w.cuts[q], longest, residual);
    }
    const int64_t found =
        kept_ ? knn_filter(sweep, t.width, w.scores.data() + key * t.width, w.hits.data())
              : knn_sweep(sweep, w.hits.data());
    for (int64_t i = 0; i < found; ++i) {
      const KnnHit<T>& hit = w.hits[i];
      if (hit.query >= t.queries) continue;  // a key with a NaN is a hit of every column
      KnnShortlist<T>& candidates = list(t, hit.query);
      if (candidates.defeated) continue;
      candidates.add(
          bounds.bounds(w.queries, hit.query, hit.score, norms[hit.key],
                        length(norms[hit.key], problem_.dim), residuals[hit.key], key + hit.key),
          size_, w.orders);
      w.cuts[hit.query] = candidates.cut;
      defeated += candidates.defeated;
    }
  }
}

template class Knn<float>;
template class Knn<double>;

}  // namespace clfast::cpu
