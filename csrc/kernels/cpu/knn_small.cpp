#include "knn_small.h"

#include <algorithm>
#include <limits>

#include "knn_bounds.h"
#include "rows.h"

namespace clfast::cpu {

namespace {

#define CLFAST_PICK_KNN_SMALL_FUNCTIONS(T)                                                     \
  void knn_score(const T* rows, int64_t stride, int64_t count, const T* panels, int64_t dim,   \
                 const T* terms, int64_t columns, T* scores) {                                 \
    CLFAST_CALL_AT_LEVEL(knn_score(rows, stride, count, panels, dim, terms, columns, scores)); \
  }                                                                                            \
  void knn_minima(const T* scores, int64_t columns, int64_t groups, T* minima) {               \
    CLFAST_CALL_AT_LEVEL(knn_minima(scores, columns, groups, minima));                         \
  }
CLFAST_PICK_KNN_SMALL_FUNCTIONS(float)
CLFAST_PICK_KNN_SMALL_FUNCTIONS(double)

constexpr int64_t kSmallBytes = 1 << 20;  // of packed keys
constexpr int64_t kMostKeys = 4096;
constexpr int64_t kKeysAQuery = 100;  // with more, packing the keys costs more than the queries do
// Queries of a block: few enough that they and their scores stay in the cache beside the keys.
constexpr int64_t kSmallestBlock = 12, kLargestBlock = 96;  // tiles have up to 12 rows
constexpr int64_t kBlockElements = 24576, kBlockScores = 65536;
constexpr int64_t kWorthSharing = 1 << 16;  // elements to pack
constexpr int64_t kSharedSets =
    4096;  // bytes from row to row at which a tile's rows share sets of L1

}  // namespace

template <class T>
bool KnnSmall<T>::suits(const KnnProblem<T>& p) {
  return p.memory_size <= kMostKeys &&
         p.memory_size * p.dim * static_cast<int64_t>(sizeof(T)) <= kSmallBytes &&
         p.memory_size <= kKeysAQuery * p.batch;
}

// Each of the k best groups has a key that scores its minimum: four groups a neighbour, so that two
// near keys seldom meet in one.
template <class T>
KnnSmall<T>::KnnSmall(const KnnProblem<T>& problem, int64_t threads)
    : problem_(problem), offset_(common_offset(problem)) {
  // Panels have two vectors a row: with an odd number of vectors, half of the last is not computed.
  const int64_t lanes = panel_columns<T>(simd_level()) / 2;
  columns_ = round_up(problem.memory_size, lanes);
  groups_ = std::min(round_up(4 * problem.k, lanes), columns_);
  const int64_t fitting =
      std::min(kBlockElements / std::max(problem.dim, int64_t{1}), kBlockScores / columns_);
  const int64_t largest = std::clamp(fitting, kSmallestBlock, kLargestBlock);
  const int64_t rounds = threads * divide_up(problem.batch, threads * largest);
  block_ = divide_up(problem.batch, rounds);
  // Uninitialised on purpose: pack() writes every element.
  panels_.reset(new T[round_up(problem.memory_size, panel_columns<T>(simd_level())) * problem.dim]);
  norms_.resize(problem.memory_size);
  terms_.assign(columns_, std::numeric_limits<T>::infinity());
}

template <class T>
int64_t KnnSmall<T>::packings() const {
  const bool worth_sharing = problem_.memory_size * problem_.dim >= kWorthSharing;
  return worth_sharing ? divide_up(problem_.memory_size, panel_columns<T>(simd_level())) : 1;
}

template <class T>
void KnnSmall<T>::pack(int64_t index, KnnWorkspace<T>& w) {
  const int64_t d = problem_.dim, width = panel_columns<T>(simd_level());
  const int64_t share = round_up(divide_up(problem_.memory_size, packings()), width);
  const int64_t end = std::min((index + 1) * share, problem_.memory_size);
  const KnnBounds<T> bounds(d, KnnWay::kProducts);
  w.keys.resize(width * d);
  for (int64_t first = index * share; first < end; first += width) {
    const int64_t count = std::min(width, end - first);
    const T* rows = w.keys.data();
    if (in_place(problem_.keys.kind)) {
      rows = static_cast<const T*>(problem_.keys.data) + first * d;
      sq_norms(problem_.keys, nullptr, first, count, d, nullptr, norms_.data() + first);
    } else {
      copy_rows(problem_.keys, first, count, d, offset(), w.keys.data(), d, norms_.data() + first);
    }
    pack_panels(simd_level(), rows, count, d, panels_.get() + first * d);
    for (int64_t i = first; i < first + count; ++i) terms_[i] = bounds.key_term(norms_[i]);
  }
}

template <class T>
int64_t KnnSmall<T>::blocks() const {
  return divide_up(problem_.batch, block_);
}

template <class T>
void KnnSmall<T>::search(int64_t index, KnnWorkspace<T>& w, T* sq_distances,
                         int64_t* indices) const {
  const int64_t d = problem_.dim, k = problem_.k;
  const int64_t begin = index * block_, count = std::min(block_, problem_.batch - begin);
  const T* rows = problem_.queries + begin * d;
  int64_t stride = d;
  w.queries.norms.resize(count);
  const Rows as_they_lie{rows, kKindOf<T>};
  if (in_place(kKindOf<T>) && d * static_cast<int64_t>(sizeof(T)) < kSharedSets) {
    sq_norms(as_they_lie, nullptr, 0, count, d, nullptr, w.queries.norms.data());
  } else {
    stride = padded_stride<T>(d);
    w.queries.rows.resize(count * stride);
    rows = w.queries.rows.data();
    copy_rows(as_they_lie, 0, count, d, offset(), w.queries.rows.data(), stride,
              w.queries.norms.data());
  }
  T largest_norm = 0;
  for (const T norm : norms_) {
    // The scores of others are no numbers, and no minima.
    if (norm <= std::numeric_limits<T>::max()) largest_norm = std::max(largest_norm, norm);
  }
  w.scores.resize(count * columns_);
  knn_score(rows, stride, count, panels_.get(), d, terms_.data(), columns_, w.scores.data());
  for (int64_t q = 0; q < count; ++q) {
    const int64_t at = begin + q;
    collect(q, w.scores.data() + q * columns_, largest_norm, w);
    w.ranking.measure(problem_.queries + at * d, problem_.keys, d);
    w.ranking.write_nearest(k, sq_distances + at * k, indices + at * k);
  }
}

template <class T>
void KnnSmall<T>::collect(int64_t q, const T* scores, T largest_norm, KnnWorkspace<T>& w) const {
  w.column.resize(groups_);
  knn_minima(scores, columns_, groups_, w.column.data());
  const T cut = knn_cut(w.column.data(), groups_, problem_.k);
  const KnnBounds<T> bounds(problem_.dim, KnnWay::kProducts);
  const T upper = bounds.bounds(w.queries, q, cut, largest_norm, T(0), T(0), 0).upper;
  const T limit = bounds.limit(w.queries, q, widened(upper), T(0), T(0));
  w.selected.resize(problem_.memory_size);
  const int64_t selected = knn_select(scores, problem_.memory_size, limit, w.selected.data());
  w.ranking.clear();
  w.ranking.rows.assign(w.selected.begin(), w.selected.begin() + selected);
}

template class KnnSmall<float>;
template class KnnSmall<double>;

}  // namespace clfast::cpu
