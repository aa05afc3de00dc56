// How a search is planned, the scan without products, and what decides in the end. The sweeps with
// products are in knn_sweep.cpp.
#include "knn.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "rows.h"

namespace clfast::cpu {

namespace {

// With so many elements a block of queries, in panels, fits the L2 cache.
constexpr int64_t kBlockElements = 65536, kSmallestBlock = 128, kLargestBlock = 512;
constexpr int64_t kScanBytes = 1 << 18, kMostScanned = 96;  // keys that stay in L2 for all queries
constexpr int64_t kDirectQueries = 3;
// With fewer queries or features, rounding the keys costs more than it spares.
constexpr int64_t kFewestRoundedQueries = 32, kFewestRoundedFeatures = 32;
constexpr int64_t kManyKeys = 16384;
constexpr int64_t kWorthSharing = 1 << 18;  // elements of keys
constexpr int64_t kFewTimes = 5;  // with fewer keys a neighbour, a shortlist leaves out too little
constexpr int64_t kSpareCandidates = 32;
constexpr int64_t kMostKept = 1 << 19;  // scores of a block of queries
constexpr int64_t kFewestSampled = 1024, kMostSampled = 16384;
constexpr int64_t kOffsetRows = 64;
constexpr size_t kSortedTimes = 8;  // with more candidates a neighbour, only the k are sorted
constexpr size_t kSortedByDigit = 64;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

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

}  // namespace

template <class T>
KnnWay Knn<T>::first_way(const KnnProblem<T>& problem) {
  // So few queries that streaming the keys costs less than packing the queries, or so few keys.
  if (problem.batch <= kDirectQueries || problem.memory_size <= kFewTimes * problem.k) {
    return KnnWay::kDirect;
  }
  const bool rounded = sizeof(T) == sizeof(float) && simd_level() == Simd::kAvx512Bf16 &&
                       problem.batch >= kFewestRoundedQueries &&
                       problem.dim >= kFewestRoundedFeatures;
  return rounded ? KnnWay::kRounded : KnnWay::kProducts;
}

template <class T>
Knn<T>::Knn(const KnnProblem<T>& problem, const std::vector<int64_t>& queries, KnnWay way,
            int64_t threads)
    : problem_(problem),
      queries_(queries),
      way_(way),
      few_keys_(problem.memory_size <= kFewTimes * problem.k),
      kept_(problem.memory_size < kManyKeys &&
            problem.memory_size * std::min(kSmallestBlock, static_cast<int64_t>(queries.size())) <=
                kMostKept) {
  if (few_keys_) return;
  plan_tasks(threads);
  const size_t fewest = static_cast<size_t>(2 * problem.k + kSpareCandidates);
  size_ = {problem.k, fewest, fewest};
  if (way != KnnWay::kDirect) plan_sample();
  if (way < KnnWay::kDifferences) choose_offset();
  lists_.resize(queries.size() * static_cast<size_t>(key_ranges_));
  for (KnnShortlist<T>& list : lists_) {
    list.candidates.reserve(size_.capacity / 2 / static_cast<size_t>(key_ranges_));
    if (way == KnnWay::kDirect) list.cut = std::numeric_limits<T>::quiet_NaN();
  }
}

// Threads share out few keys by queries, many keys and the keys of few queries by ranges of keys: a
// range more means a shortlist more to fill, a block of queries more means another pass over the
// keys.
template <class T>
void Knn<T>::plan_tasks(int64_t threads) {
  const int64_t count = static_cast<int64_t>(queries_.size());
  const bool many_keys = problem_.memory_size >= kManyKeys;
  const int64_t share = many_keys ? count : divide_up(count, threads);
  int64_t fitting = kBlockElements / std::max(problem_.dim, int64_t{1});
  if (kept_) fitting = std::min(fitting, kMostKept / problem_.memory_size);
  const int64_t largest = std::clamp(fitting, kSmallestBlock, kLargestBlock);
  int64_t blocks = divide_up(count, std::min(largest, std::max(share, panel_columns(T{}) / 2)));
  if (!many_keys && blocks > threads) blocks = round_up(blocks, threads);
  const bool by_keys =
      many_keys || (blocks < threads && problem_.memory_size * problem_.dim >= kWorthSharing);
  while (by_keys && (blocks * key_ranges_) % threads != 0 && blocks * key_ranges_ < 4 * threads) {
    ++key_ranges_;
  }
  const int64_t queries = divide_up(count, blocks);
  const int64_t keys = round_up(divide_up(problem_.memory_size, key_ranges_), kKnnSampleBlock);
  for (int64_t begin = 0; begin < count; begin += queries) {
    for (int64_t range = 0; range < key_ranges_; ++range) {
      KnnTask<T> task{};
      task.query_begin = begin;
      task.queries = std::min(queries, count - begin);
      task.width = round_up(task.queries, panel_columns(T{}));
      task.range = range;
      task.key_begin = std::min(range * keys, problem_.memory_size);
      task.key_end = std::min(task.key_begin + keys, problem_.memory_size);
      tasks_.push_back(std::move(task));
    }
  }
}

// Of S sampled keys about r = k S / M are nearer than a query's k-th neighbour, give or take
// sqrt(r): the guess is at r + 3 sqrt(r) + 4, and twice that where it may have failed. Scores are
// kept as minima of groups of them, eight for every place of the guess: enough for two near keys to
// meet in one seldom. Where all keys are sampled, each of the k best groups has a key as near as
// its minimum, and nothing is guessed.
template <class T>
void Knn<T>::plan_sample() {
  const int64_t size = problem_.memory_size;
  const int64_t wanted =
      kept_ ? size + kKnnSampleBlock - 1
            : std::min(std::clamp(size / 32, kFewestSampled, kMostSampled), size / 4);
  sampled_blocks_ = wanted / kKnnSampleBlock;
  const int64_t sample = sampled_blocks_ * kKnnSampleBlock;
  const double expected = static_cast<double>(problem_.k) * sample / static_cast<double>(size);
  rank_ = static_cast<int64_t>(std::ceil(expected + 3 * std::sqrt(expected) + 4));
  if (way_ == KnnWay::kDifferences) rank_ *= 2;
  if (kept_) rank_ = problem_.k;
  groups_ = std::min(round_up((kept_ ? 4 : 8) * rank_, kKnnSampleBlock), sample);
  const double passed = static_cast<double>(rank_) * size / sample;
  // More would cost more than another sweep.
  size_.longest = std::max(
      {3 * size_.capacity / 4, static_cast<size_t>(3 * passed), static_cast<size_t>(size / 32)});
  size_.capacity = 4 * size_.longest / 3 + 1;
}

// Where keys stand close together far from zero, bounds relative to their length are wide: what
// all have in common is taken from keys and queries.
template <class T>
void Knn<T>::choose_offset() {
  const int64_t d = problem_.dim;
  const int64_t count = std::min(kOffsetRows, problem_.memory_size / kOffsetRows);
  std::vector<T> row(d), mean(d, T(0));
  T norms = 0, norm;
  for (int64_t i = 0; i < count; ++i) {
    copy_rows(problem_.keys, i * (problem_.memory_size / count), 1, d, nullptr, row.data(), d,
              &norm);
    norms += norm / static_cast<T>(count);
    for (int64_t j = 0; j < d; ++j) mean[j] += row[j] / static_cast<T>(count);
  }
  T sq_length = 0;
  for (int64_t j = 0; j < d; ++j) sq_length += mean[j] * mean[j];
  // False, too, where one of them overflowed or is not a number.
  if (sq_length > norms / 4 && norms <= std::numeric_limits<T>::max()) offset_.swap(mean);
}

template <class T>
int64_t Knn<T>::sweeps() const {
  return static_cast<int64_t>(tasks_.size());
}

template <class T>
void Knn<T>::scan(const KnnTask<T>& task, KnnWorkspace<T>& w) {
  const int64_t d = problem_.dim;
  const int64_t row_bytes = std::max(d * size_of(problem_.keys.kind), int64_t{1});
  const int64_t block = std::clamp(kScanBytes / row_bytes, int64_t{1}, kMostScanned);
  w.row.resize(d);
  w.distances.resize(block);
  for (int64_t key = task.key_begin; key < task.key_end; key += block) {
    const int64_t count = std::min(block, task.key_end - key);
    for (int64_t q = 0; q < task.queries; ++q) {
      sq_distances(query(task.query_begin + q), problem_.keys, nullptr, key, count, d, w.row.data(),
                   w.distances.data());
      KnnShortlist<T>& found = list(task, q);
      for (int64_t i = 0; i < count; ++i) {
        found.add_exact(w.distances[i], key + i, size_, w.orders);
      }
    }
  }
}

template <class T>
bool Knn<T>::collect(int64_t index, KnnWorkspace<T>& w) {
  w.rows.clear();
  if (few_keys_) {
    w.rows.resize(problem_.memory_size);
    std::iota(w.rows.begin(), w.rows.end(), int64_t{0});
    return true;
  }
  KnnShortlist<T>* const lists = &lists_[index * key_ranges_];
  // Keys come in ascending order, in every list and from list to list.
  std::vector<KnnCandidate<T>>& all = lists[0].candidates;
  for (int64_t range = 0; range < key_ranges_; ++range) {
    if (lists[range].defeated) return false;
    if (range > 0) {
      all.insert(all.end(), lists[range].candidates.begin(), lists[range].candidates.end());
    }
  }
  if (static_cast<int64_t>(all.size()) < problem_.k) return false;
  const T cut = cut_of(all, problem_.k, w.orders);
  for (int64_t range = 0; range < key_ranges_; ++range) {
    if (way_ != KnnWay::kDirect && !(cut <= lists[range].cut)) return false;
  }
  for (const KnnCandidate<T>& c : all) {
    if (!(c.lower > cut)) w.rows.push_back(c.key);
  }
  return true;
}

template <class T>
bool Knn<T>::finish(int64_t index, KnnWorkspace<T>& w, T* sq_distances_out, int64_t* indices_out) {
  if (!collect(index, w)) return false;
  w.row.resize(problem_.dim);
  w.distances.resize(w.rows.size());
  sq_distances(query(index), problem_.keys, few_keys_ ? nullptr : w.rows.data(), 0,
               static_cast<int64_t>(w.rows.size()), problem_.dim, w.row.data(), w.distances.data());

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
  return true;
}

template class Knn<float>;
template class Knn<double>;

}  // namespace clfast::cpu
