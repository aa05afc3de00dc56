#include "knn_ranking.h"

#include <algorithm>

#include "../common/ordering.h"
#include "rows.h"

namespace clfast::cpu {

namespace {

constexpr size_t kSortedTimes = 8;  // with more candidates a neighbour, only the k are sorted
constexpr size_t kSortedByDigit = 64;

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

// Byte by byte: a comparison sort mispredicts half of its branches on numbers in no order. The
// lower 32 bits ascend already.
template <class T>
void KnnRanking<T>::sort_by_digit() {
  const size_t count = nearest_.size();
  sorted_.resize(count);
  for (unsigned shift = 32; shift < 32 + 8 * sizeof(T); shift += 8) {
    const auto digit = [shift](Order order) { return static_cast<uint8_t>(order >> shift); };
    uint32_t ends[256] = {};
    for (const Order order : nearest_) ++ends[digit(order)];
    if (ends[digit(nearest_[0])] == count) continue;
    uint32_t end = 0;
    for (uint32_t& e : ends) end = e += end;
    for (size_t i = count; i-- > 0;) sorted_[--ends[digit(nearest_[i])]] = nearest_[i];
    nearest_.swap(sorted_);
  }
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
  } else if (rows.size() < kSortedByDigit) {
    std::sort(nearest_.begin(), nearest_.end());
  } else {
    sort_by_digit();
  }
  for (int64_t i = 0; i < k; ++i) {
    // NaN comes out as one and the same.
    sq_distances[i] = distance_of(static_cast<decltype(order_of(T{}))>(nearest_[i] >> 32));
    indices[i] = rows[static_cast<uint32_t>(nearest_[i])];
  }
}

template class KnnRanking<float>;
template class KnnRanking<double>;

}  // namespace clfast::cpu
