// Candidates of one query, ranked by their distances.
#pragma once
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../common/neighbourhood.h"

namespace clfast::cpu {

template <class T>
class KnnRanking {
 public:
  std::vector<int64_t> rows;  // of the keys, ascending
  std::vector<T> distances;   // [rows], in difference form

  void clear();
  void measure(const T* query, Rows keys, int64_t dim);
  // The first k by distance and then by row; NaN comes last.
  void write_nearest(int64_t k, T* sq_distances, int64_t* indices);
  // The same of the rows among `count` candidates, of which those below 0 are none and several of a
  // row count once; row -1 at an infinite distance where there are fewer than k.
  void rerank(const T* query, Rows keys, int64_t dim, const int64_t* candidates, int64_t count,
              int64_t k, T* sq_distances, int64_t* indices);

 private:
  // The order of a distance above, its place among the candidates in the 32 bits below: one integer
  // that orders by distance and then by row.
  using Order = std::conditional_t<sizeof(T) == sizeof(float), uint64_t, unsigned __int128>;

  std::vector<Order> nearest_, sorted_;
  std::vector<int64_t> sorted_rows_;
  std::vector<T> row_;
};

extern template class KnnRanking<float>;
extern template class KnnRanking<double>;

}  // namespace clfast::cpu
