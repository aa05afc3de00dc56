// Exact k nearest neighbours under squared Euclidean distance.
//
// A sweep forms |k|^2 + |q|^2 - 2<q,k> for blocks of keys and queries in registers, with a rigorous
// bound on its rounding error, and keeps the pairs whose lower bound does not exceed the k-th
// smallest upper bound seen so far. A first bound comes from the opening keys: of k groups of them
// each has a key as near as its nearest. Where the processor multiplies bfloat16 fast, the sweep
// rounds keys and queries to it and widens the bound by what rounding took from them; when that
// leaves too many pairs, a second sweep does without. The few that remain get their distance in
// difference form, sum (q_j - k_j)^2, and only those distances decide: the result depends on a
// query and the keys, never on blocking, threads or the rest of the batch.
#pragma once
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../common/neighbourhood.h"
#include "../common/ordering.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct KnnProblem {
  const T* queries;  // [B, d]
  Rows keys;         // [M, d]
  int64_t batch, memory_size, dim, k;
};

// A pair whose distance may matter, by its score: |k|^2 - 2<q,k> less an error bound of the key's.
template <class T>
struct KnnHit {
  T score;
  int32_t key, query;
};

template <class T>
struct KnnSweep {
  const T* keys;  // [key_count, dim], key_stride from row to row
  int64_t key_stride;
  const BFloat16Pair* key_pairs;  // [key_count, (dim + 1) / 2], or null: the keys are not rounded
  int64_t pair_stride;
  const T* key_terms;  // [key_count], what a key adds to all its scores
  int64_t key_count, dim;
  const T* queries;                 // -2 q in panels, see rows.h
  const BFloat16Pair* query_pairs;  // the same in pairs, for key_pairs
  const T* limits;      // of every column: a pair is a hit unless its score is above this
  int64_t query_count;  // columns, less the last panel's padding
  const char* next;     // what the next sweep reads: fetched meanwhile
  int64_t next_size;
};

constexpr int64_t kKnnGroup = 4;  // keys

// knn_sweep finds hits. knn_open keeps the scores, [key_count, stride], and lowers the minima
// [key_count / kKnnGroup, rounded up; stride] of every group to those above -inf; knn_filter then
// finds hits.
#define CLFAST_KNN_FUNCTIONS(T)                                                  \
  int64_t knn_sweep(const KnnSweep<T>& sweep, KnnHit<T>* hits);                  \
  void knn_open(const KnnSweep<T>& sweep, int64_t stride, T* scores, T* minima); \
  int64_t knn_filter(const KnnSweep<T>& sweep, int64_t stride, const T* scores, KnnHit<T>* hits);
// knn_round_rows: rows [begin, begin + count) in bfloat16, their squared norms before it, and
// bounds of the lengths of what rounding took from them; `row` is scratch. knn_round_panels: the
// panels of pack_panels(), [dim, width] in all, in pairs.
#define CLFAST_KNN_ROUNDING                                                                   \
  void knn_round_rows(Rows rows, int64_t begin, int64_t count, int64_t dim, float* row,       \
                      BFloat16Pair* out, int64_t out_stride, float* norms, float* residuals); \
  void knn_round_panels(const float* panels, int64_t dim, int64_t width, BFloat16Pair* out);
CLFAST_DECLARE_PER_LEVEL(CLFAST_KNN_FUNCTIONS(float) CLFAST_KNN_FUNCTIONS(double)
                             CLFAST_KNN_ROUNDING)

// What one thread needs while it works; reused from call to call.
template <class T>
struct KnnWorkspace {
  std::vector<T> panels, query_norms, limits, keys, key_norms, key_terms, row, distances;
  std::vector<T> scores, minima, column;
  std::vector<T> cuts, query_lengths, query_residuals, key_residuals;
  std::vector<BFloat16Pair> query_pairs, key_pairs;
  std::vector<KnnHit<T>> hits;
  std::vector<int64_t> rows;
  std::vector<decltype(order_of(T{}))> orders;
  // The order of a distance above, 32 bits below.
  std::vector<std::conditional_t<sizeof(T) == sizeof(float), uint64_t, unsigned __int128>> nearest,
      sorted;
};

// Independent sweeps (a block of queries against a range of keys), then one finish per query.
// sweep() calls may run concurrently with each other, and finish() calls with each other, each
// thread with a workspace of its own.
template <class T>
class Knn {
 public:
  Knn(const KnnProblem<T>& problem, int64_t threads);
  int64_t sweeps() const { return few_keys_ ? 0 : query_blocks_ * key_ranges_; }
  void sweep(int64_t index, KnnWorkspace<T>& workspace);
  void finish(int64_t query, KnnWorkspace<T>& workspace, T* sq_distances, int64_t* indices);

 private:
  struct Candidate {
    T lower, upper;
    int64_t key;
  };
  struct Shortlist {
    std::vector<Candidate> candidates;
    T cut;
    bool everything;  // too many bounds overlap: finish() looks at every key
  };

  bool sweep_block(int64_t query_begin, int64_t query_end, int64_t key_begin, int64_t key_end,
                   bool rounded, Shortlist* lists, KnnWorkspace<T>& w);
  void scan_directly(int64_t query, int64_t key_begin, int64_t key_end, Shortlist& list,
                     KnnWorkspace<T>& w);
  void pack_queries(int64_t query_begin, int64_t queries, int64_t width, bool rounded,
                    KnnWorkspace<T>& w) const;
  void add(Shortlist& list, const Candidate& candidate, size_t longest, KnnWorkspace<T>& w) const;
  void tighten(Shortlist& list, KnnWorkspace<T>& w) const;
  T cut_of(const std::vector<Candidate>& candidates, KnnWorkspace<T>& w) const;

  KnnProblem<T> problem_;
  bool few_keys_;     // nearly all would stay on a shortlist: no sweep, finish() looks at every key
  bool rounded_;      // the first sweep looks for candidates with keys and queries in bfloat16
  bool direct_;       // so few queries that streaming the keys costs less than packing the queries
  size_t shortlist_;  // candidates at which a shortlist is cut back
  size_t longest_;    // candidates that a shortlist may keep
  int64_t query_blocks_, key_ranges_;
  std::vector<Shortlist> lists_;  // [B, key_ranges]
};

extern template class Knn<float>;
extern template class Knn<double>;

}  // namespace clfast::cpu
