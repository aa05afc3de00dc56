#include "knn_ranking.h"

#include <algorithm>
#include <limits>

#include "../common/ordering.h"
#include "rows.h"

namespace clfast::cpu {

namespace {

constexpr size_t kSortedTimes = 8;  // with more candidates a neighbour, only the k are sorted
constexpr size_t kSortedByByte = 64;

// Of values >= 0 by their bits [first, end_bit), whole bytes: by those below they ascend already,
// those above are alike. `sorted` is scratch. Byte by byte: a comparison sort mispredicts half of
// its branches on numbers in no order.
template <class Value>
void sort_by_byte(std::vector<Value>& values, std::vector<Value>& sorted, unsigned first,
                  unsigned end_bit) {
  const size_t count = values.size();
  if (count < kSortedByByte) {
    std::sort(values.begin(), values.end());
    return;
  }
  sorted.resize(count);
  for (unsigned shift = first; shift < end_bit; shift += 8) {
    const auto digit = [shift](Value value) { return static_cast<uint8_t>(value >> shift); };
    uint32_t ends[256] = {};
    for (const Value value : values) ++ends[digit(value)];
    if (ends[digit(values[0])] == count) continue;
    uint32_t end = 0;
    for (uint32_t& e : ends) end = e += end;
    for (size_t i = count; i-- > 0;) sorted[--ends[digit(values[i])]] = values[i];
    values.swap(sorted);
  }
}

}  // namespace

template <class T>
void KnnRanking<T>::clear() {
  rows.clear();
  distances.clear();
}

template <class T>
void KnnRanking<T>::measure(const T* query, Rows keys, int64_t dim) {
  row_.resize(dim);
  distances.resize(rows.size());
  sq_distances(query, keys, rows.data(), 0, static_cast<int64_t>(rows.size()), dim, row_.data(),
               distances.data());
}

template <class T>
void KnnRanking<T>::write_nearest(int64_t k, T* sq_distances, int64_t* indices) {
  nearest_.resize(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    nearest_[i] = order_of(distances[i]);
    nearest_[i] = nearest_[i] << 32 | static_cast<uint32_t>(i);
  }
  if (rows.size() > kSortedTimes * static_cast<size_t>(k)) {
    std::nth_element(nearest_.begin(), nearest_.begin() + k, nearest_.end());
    std::sort(nearest_.begin(), nearest_.begin() + k);
  } else {
    sort_by_byte(nearest_, sorted_, 32, 32 + 8 * sizeof(T));
  }
  for (int64_t i = 0; i < k; ++i) {
    // NaN comes out as one and the same.
    sq_distances[i] = distance_of(static_cast<decltype(order_of(T{}))>(nearest_[i] >> 32));
    indices[i] = rows[static_cast<uint32_t>(nearest_[i])];
  }
}

template <class T>
void KnnRanking<T>::rerank(const T* query, Rows keys, int64_t dim, const int64_t* candidates,
                           int64_t count, int64_t k, T* sq_distances, int64_t* indices) {
  clear();
  int64_t largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (candidates[i] >= 0) rows.push_back(candidates[i]);
    largest = std::max(largest, candidates[i]);
  }
  unsigned bits = 0;
  while (largest >> bits != 0) bits += 8;
  sort_by_byte(rows, sorted_rows_, 0, bits);
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  measure(query, keys, dim);
  const int64_t found = std::min(k, static_cast<int64_t>(rows.size()));
  if (found > 0) write_nearest(found, sq_distances, indices);
  std::fill(sq_distances + found, sq_distances + k, std::numeric_limits<T>::infinity());
  std::fill(indices + found, indices + k, int64_t{-1});
}

template class KnnRanking<float>;
template class KnnRanking<double>;

}  // namespace clfast::cpu
