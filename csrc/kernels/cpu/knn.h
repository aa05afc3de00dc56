// Exact k nearest neighbours under squared Euclidean distance; knn_search.h chooses the way.
//
// A sweep forms |k|^2 + |q|^2 - 2<q,k> for blocks of keys and queries in registers, with a rigorous
// bound on its rounding error, and keeps the pairs whose lower bound is not above a cut. The cut is
// guessed from a sample of the keys, and was right if in the end k upper bounds lie below it; where
// the keys are few enough to keep all scores, the sample is all of them. Where the processor
// multiplies bfloat16 fast, the sweep rounds keys and queries to it and widens the bound by what
// rounding took from them. The few pairs that remain get their distance in difference form,
// sum (q_j - k_j)^2, and only those distances decide: the result depends on a query and the keys,
// never on blocking, threads or the rest of the batch. Queries whose guess was wrong, and those
// that keep too many pairs (keys nearer to each other than products of their lengths can tell) get
// the distances of all pairs; so do a few queries, unless the keys were rounded before.
#pragma once
#include <cstdint>
#include <vector>

#include "../common/neighbourhood.h"
#include "../common/rounded_keys.h"
#include "knn_ranking.h"
#include "knn_shortlist.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct KnnProblem {
  const T* queries;  // [B, d]
  Rows keys;         // [M, d]
  int64_t batch, memory_size, dim, k;
  RoundedKeys rounded = {};  // of the keys; may be null
};

// A pair whose distance may matter, by its score: |k|^2 - 2<q,k> less an error bound of the key's.
template <class T>
struct KnnHit {
  T score;
  int32_t key, query;
};

template <class T>
struct KnnSweep {
  Simd level;
  const T* keys;  // [key_count, dim], key_stride from row to row
  int64_t key_stride;
  // [key_count, (dim + 1) / 2], and zeros up to rounded_panel(dim); null: keys are not rounded
  const BFloat16Pair* key_pairs;
  int64_t pair_stride;
  const T* key_terms;  // [key_count], what a key adds to all its scores
  int64_t key_count, dim;
  const T* queries;                 // in panels, see rows.h
  const BFloat16Pair* query_pairs;  // the same in pairs, rounded_panel(dim) deep, for key_pairs
  const BFloat16Pair* query_rows;   // or few of them in rows, as the keys are
  const T* limits;      // of every column: a pair is a hit unless its score is above this
  bool in_tiles;        // whether AMX multiplies pairs
  int64_t query_count;  // columns, less the last panel's padding
  const char* next;     // what the next sweep reads: fetched meanwhile
  int64_t next_size;
};

// Keys in a row: whole register tiles. (AMX takes 32 and the rest; more keys in a row would make
// the sample coarser.)
constexpr int64_t kKnnSampleBlock = 36;
constexpr int64_t kMostInRows = 8;  // of queries

// How many pairs deep a panel of rounded queries is: whole tiles of AMX.
constexpr int64_t rounded_panel(int64_t dim) { return (dim + 31) / 32 * 16; }

// knn_cut: a value that at least `rank` of the values are not above, and no more than a sixteenth
// too many but for ties with the last; none is NaN, and `count` is a multiple of the lanes.
// knn_select: the places of values that are not above the limit. knn_sweep finds hits. knn_open
// lowers the minima [key_count, stride] to the scores above -inf, and keeps the scores [key_count,
// stride] unless that is null; knn_filter finds hits among those.
#define CLFAST_KNN_FUNCTIONS(T)                                                   \
  T knn_cut(const T* values, int64_t count, int64_t rank);                        \
  int64_t knn_select(const T* values, int64_t count, T limit, int32_t* selected); \
  int64_t knn_sweep(const KnnSweep<T>& sweep, KnnHit<T>* hits);                   \
  void knn_open(const KnnSweep<T>& sweep, int64_t stride, T* minima, T* scores);  \
  int64_t knn_filter(const KnnSweep<T>& sweep, int64_t stride, const T* scores, KnnHit<T>* hits);
// knn_round_rows: rows [begin, begin + count), less the offset unless it is null, in bfloat16;
// their squared norms before it, and bounds of the lengths of what rounding took from them; `row`
// is scratch. knn_round_panels: the panels of pack_panels(), [dim, width] in all, in pairs, with
// zeros behind them up to rounded_panel(dim).
#define CLFAST_KNN_ROUNDING                                                                      \
  void knn_round_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, const float* offset, \
                      float* row, BFloat16Pair* out, int64_t out_stride, float* norms,           \
                      float* residuals);                                                         \
  void knn_round_panels(const float* panels, int64_t dim, int64_t width, BFloat16Pair* out);
CLFAST_DECLARE_PER_LEVEL(CLFAST_KNN_FUNCTIONS(float) CLFAST_KNN_FUNCTIONS(double)
                             CLFAST_KNN_ROUNDING)
CLFAST_KNN_FUNCTIONS(float)
CLFAST_KNN_FUNCTIONS(double)
CLFAST_KNN_ROUNDING

// Where keys stand close together far from zero, bounds relative to their length are wide: what all
// have in common is then taken from keys and queries. Empty where they do not.
template <class T>
std::vector<T> common_offset(const KnnProblem<T>& problem);

// A block of queries less the offset, as the sweeps read it.
template <class T>
struct KnnQueries {
  std::vector<T> rows, panels, norms;
  std::vector<T> lengths, residuals;  // before rounding, and of what it took
  std::vector<BFloat16Pair> pairs;    // panels, or rows where there are few
};

// What one thread needs while it works on some tasks.
template <class T>
struct KnnWorkspace {
  KnnQueries<T> queries;
  std::vector<T> keys, key_norms, key_residuals, key_terms, row, distances;
  std::vector<T> scores;  // [keys, width], where all are kept
  std::vector<T> cuts, limits, column;
  std::vector<BFloat16Pair> pairs;
  std::vector<KnnHit<T>> hits;
  std::vector<int32_t> selected;
  std::vector<KnnOrder<T>> orders;
  KnnRanking<T> ranking;
};

// A block of queries against a range of keys.
template <class T>
struct KnnTask {
  int64_t query_begin, queries, width;  // columns: the queries, and zeros that fill the last panel
  int64_t range, key_begin, key_end;
  // [groups, width], the smallest scores of every group among this task's share of the sample
  std::vector<T> minima;
  T largest_norm = 0, largest_residual = 0;  // of that share
};

template <class T>
struct KnnBounds;  // knn_bounds.h

enum class KnnWay {
  kRounded,   // products in bfloat16
  kProducts,  // products in T
  kDirect,    // the distances of all pairs
};

// Independent openings (of the sample), then independent sweeps, then one finish per query. Calls
// of a kind may run concurrently, each thread with a workspace of its own.
template <class T>
class Knn {
 public:
  // queries: those of the problem that are searched.
  Knn(const KnnProblem<T>& problem, const std::vector<int64_t>& queries, KnnWay way,
      int64_t threads);
  static KnnWay first_way(const KnnProblem<T>& problem);

  int64_t openings() const;
  void open(int64_t index, KnnWorkspace<T>& workspace);
  int64_t sweeps() const;
  void sweep(int64_t index, KnnWorkspace<T>& workspace);
  // False, and nothing written, if queries[index] defeats this way.
  bool finish(int64_t index, KnnWorkspace<T>& workspace, T* sq_distances, int64_t* indices);

 private:
  // A task opens as it sweeps where the sample is all its own.
  bool opens_alone() const { return kept_ || key_ranges_ == 1; }
  void plan_tasks(int64_t threads);
  size_t plan_sample();  // returns how many candidates a query is likely to have
  const T* offset() const { return offset_.empty() ? nullptr : offset_.data(); }
  const T* query(int64_t index) const { return problem_.queries + queries_[index] * problem_.dim; }
  KnnShortlist<T>& list(const KnnTask<T>& task, int64_t q) {
    return lists_[(task.query_begin + q) * key_ranges_ + task.range];
  }

  void scan(const KnnTask<T>& task, KnnWorkspace<T>& w);
  bool collect(int64_t index, KnnWorkspace<T>& w);
  void pack_queries(const KnnTask<T>& task, KnnWorkspace<T>& w) const;
  bool in_place() const;  // whether sweeps read keys where they lie
  bool rounded_before() const { return way_ == KnnWay::kRounded && problem_.rounded.rows; }
  // Whether rounded queries are read as rows: so few that panels would be half empty.
  bool in_rows(const KnnTask<T>& task) const {
    return rounded_before() && task.queries <= kMostInRows && level_ >= Simd::kAvx512Bf16;
  }
  KnnSweep<T> sweep_of(const KnnTask<T>& task, KnnWorkspace<T>& w) const;
  void load_keys(int64_t first, int64_t count, int64_t at, const KnnBounds<T>& bounds,
                 KnnSweep<T>& sweep, KnnWorkspace<T>& w) const;
  void fetch_next(int64_t first, int64_t count, KnnSweep<T>& sweep) const;
  int64_t first_cuts(int64_t index, const KnnBounds<T>& bounds, KnnWorkspace<T>& w);
  int64_t sampled_block(int64_t block) const;

  KnnProblem<T> problem_;
  const std::vector<int64_t>& queries_;
  KnnWay way_;
  Simd level_;     // of the sweeps
  bool in_tiles_;  // which multiply bfloat16 by AMX
  // So few keys that the sample is all of them: their scores are kept, and no sweep follows.
  bool kept_;
  KnnShortlistSize size_ = {};
  int64_t key_ranges_ = 1;
  int64_t sampled_blocks_ = 0, groups_ = 0,
          rank_ = 0;                    // the cut is at the rank_-th smallest minimum of groups
  std::vector<T> offset_;               // taken from keys and queries alike; may be empty
  std::vector<KnnTask<T>> tasks_;       // [query blocks, key_ranges]
  std::vector<KnnShortlist<T>> lists_;  // [queries, key_ranges]
};

extern template class Knn<float>;
extern template class Knn<double>;

}  // namespace clfast::cpu
