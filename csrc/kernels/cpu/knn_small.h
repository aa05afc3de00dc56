// Exact k nearest neighbours in a memory whose keys, once packed, stay in the cache. Queries pass
// by it in blocks; a query has all its scores at once, with the bounds of knn_bounds.h, and gets
// the distances of every key within them.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "knn.h"

namespace clfast::cpu {

// knn_score: scores[r][c] = terms[c] - 2 <row r, column c of the panels>. knn_minima: the smallest
// score above -inf of each group, +inf where there is none; column c is of group c % groups.
// Columns and groups are multiples of the lanes, and a row of scores has `columns`.
#define CLFAST_KNN_SMALL_FUNCTIONS(T)                                                        \
  void knn_score(const T* rows, int64_t stride, int64_t count, const T* panels, int64_t dim, \
                 const T* terms, int64_t columns, T* scores);                                \
  void knn_minima(const T* scores, int64_t columns, int64_t groups, T* minima);
CLFAST_DECLARE_PER_LEVEL(CLFAST_KNN_SMALL_FUNCTIONS(float) CLFAST_KNN_SMALL_FUNCTIONS(double))

// Independent packings, then independent blocks of queries. Calls of a kind may run concurrently,
// each thread with a workspace of its own.
template <class T>
class KnnSmall {
 public:
  static bool suits(const KnnProblem<T>& problem);
  KnnSmall(const KnnProblem<T>& problem, int64_t threads);

  int64_t packings() const;
  void pack(int64_t index, KnnWorkspace<T>& w);
  int64_t blocks() const;
  void search(int64_t index, KnnWorkspace<T>& w, T* sq_distances, int64_t* indices) const;

 private:
  void collect(int64_t q, const T* scores, T largest_norm, KnnWorkspace<T>& w) const;
  bool in_place(ScalarKind kind) const { return offset_.empty() && kind == kKindOf<T>; }
  const T* offset() const { return offset_.empty() ? nullptr : offset_.data(); }

  KnnProblem<T> problem_;
  std::vector<T> offset_;
  int64_t columns_, groups_, block_;
  std::unique_ptr<T[]> panels_;  // of the keys, as their norms and terms
  std::vector<T> norms_, terms_;
};

extern template class KnnSmall<float>;
extern template class KnnSmall<double>;

}  // namespace clfast::cpu
