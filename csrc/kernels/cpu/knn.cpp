// How a search is planned, the distances of all pairs, and what is left of a shortlist in the end.
// The sweeps with products are in knn_sweep.cpp.
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
constexpr int64_t kFewestDirectQueries = 5, kMostDirectQueries = 16, kFeaturesADirectQuery = 48;
// With fewer queries or features, rounding the keys costs more than it spares.
constexpr int64_t kFewestRoundedQueries = 32, kFewestRoundedFeatures = 32;
constexpr int64_t kFewestRoundedProducts = 1 << 23;  // where keys were rounded before
constexpr int64_t kManyKeys = 16384;
constexpr int64_t kWorthSharing = 1 << 18;  // elements of keys
constexpr int64_t kFewTimes = 2;  // with fewer keys a neighbour, a shortlist leaves out too little
constexpr int64_t kSpareCandidates = 32;
constexpr int64_t kMostKept = 1 << 19;  // scores of a block of queries
constexpr int64_t kFewestSampled = 1024, kMostSampled = 16384;
constexpr int64_t kFewestOffsetRows = 8, kMostOffsetRows = 64;

// The level whose vectors the queries fill: in longer ones half would be padding.
template <class T>
Simd sweep_level(int64_t queries) {
  constexpr int64_t lanes = 32 / static_cast<int64_t>(sizeof(T));  // of AVX2
  return simd_level() > Simd::kAvx2 && queries <= lanes ? Simd::kAvx2 : simd_level();
}

}  // namespace

template <class T>
KnnWay Knn<T>::first_way(const KnnProblem<T>& problem) {
  if (problem.memory_size <= kFewTimes * problem.k) return KnnWay::kDirect;
  const bool rounds = sizeof(T) == sizeof(float) && problem.dim >= kFewestRoundedFeatures &&
                      (simd_level() >= Simd::kAvx512Bf16 || amx_in_use());
  if (rounds && problem.rounded.rows != nullptr &&
      problem.batch * problem.memory_size * problem.dim >= kFewestRoundedProducts) {
    return KnnWay::kRounded;
  }
  const int64_t direct =
      std::min(kFewestDirectQueries + problem.dim / kFeaturesADirectQuery, kMostDirectQueries);
  // So few queries that streaming the keys costs less than packing the queries.
  if (problem.batch <= direct) return KnnWay::kDirect;
  return rounds && problem.batch >= kFewestRoundedQueries ? KnnWay::kRounded : KnnWay::kProducts;
}

template <class T>
Knn<T>::Knn(const KnnProblem<T>& problem, const std::vector<int64_t>& queries, KnnWay way,
            int64_t threads)
    : problem_(problem),
      queries_(queries),
      way_(way),
      level_(way == KnnWay::kProducts ? sweep_level<T>(static_cast<int64_t>(queries.size()))
                                      : simd_level()),
      in_tiles_(amx_in_use()),
      kept_(problem.memory_size < kManyKeys &&
            problem.memory_size * std::min(kSmallestBlock, static_cast<int64_t>(queries.size())) <=
                kMostKept) {
  plan_tasks(threads);
  const size_t fewest = static_cast<size_t>(2 * problem.k + kSpareCandidates);
  size_ = {problem.k, fewest, fewest};
  size_t usual = fewest;
  if (way != KnnWay::kDirect) {
    usual = plan_sample();
    if constexpr (sizeof(T) == sizeof(float)) {
      if (rounded_before()) {
        offset_.assign(problem.rounded.offset, problem.rounded.offset + problem.dim);
      }
    }
    if (!rounded_before()) offset_ = common_offset(problem);
  }
  lists_.resize(queries.size() * static_cast<size_t>(key_ranges_));
  for (KnnShortlist<T>& list : lists_) {
    list.candidates.reserve(usual / static_cast<size_t>(key_ranges_));
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
  const int64_t smallest = way_ == KnnWay::kDirect ? 2 : panel_columns<T>(level_) / 2;
  int64_t blocks = divide_up(count, std::min(largest, std::max(share, smallest)));
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
      task.width = round_up(task.queries, panel_columns<T>(level_));
      task.range = range;
      task.key_begin = std::min(range * keys, problem_.memory_size);
      task.key_end = std::min(task.key_begin + keys, problem_.memory_size);
      tasks_.push_back(std::move(task));
    }
  }
}

// Of S sampled keys about r = k S / M are nearer than a query's k-th neighbour, give or take
// sqrt(r): the guess is at r + 3 sqrt(r) + 4. Scores are kept as minima of groups of them, eight
// for every place of the guess: enough for two near keys to meet in one seldom. Where all keys are
// sampled, each of the k best groups has a key as near as its minimum, and nothing is guessed.
template <class T>
size_t Knn<T>::plan_sample() {
  const int64_t size = problem_.memory_size;
  const int64_t wanted =
      kept_ ? size + kKnnSampleBlock - 1
            : std::min(std::clamp(size / 32, kFewestSampled, kMostSampled), size / 4);
  sampled_blocks_ = wanted / kKnnSampleBlock;
  const int64_t sample = sampled_blocks_ * kKnnSampleBlock;
  const double expected = static_cast<double>(problem_.k) * sample / static_cast<double>(size);
  rank_ = static_cast<int64_t>(std::ceil(expected + 3 * std::sqrt(expected) + 4));
  if (kept_) rank_ = problem_.k;
  groups_ = std::min(round_up((kept_ ? 4 : 8) * rank_, kKnnSampleBlock), sample);
  const double passed = static_cast<double>(rank_) * size / sample;
  // More would cost more than another sweep.
  size_.longest = std::max(
      {3 * size_.capacity / 4, static_cast<size_t>(3 * passed), static_cast<size_t>(size / 32)});
  size_.capacity = 4 * size_.longest / 3 + 1;
  return std::min(static_cast<size_t>(2 * passed), static_cast<size_t>(size));
}

template <class T>
std::vector<T> common_offset(const KnnProblem<T>& problem) {
  const int64_t d = problem.dim;
  const int64_t count = std::min(kMostOffsetRows, problem.memory_size / 8);
  if (count < kFewestOffsetRows) return {};
  std::vector<T> row(d), mean(d, T(0));
  T norms = 0, norm;
  for (int64_t i = 0; i < count; ++i) {
    copy_rows(problem.keys, i * (problem.memory_size / count), 1, d, nullptr, row.data(), d, &norm);
    norms += norm / static_cast<T>(count);
    for (int64_t j = 0; j < d; ++j) mean[j] += row[j] / static_cast<T>(count);
  }
  T sq_length = 0;
  for (int64_t j = 0; j < d; ++j) sq_length += mean[j] * mean[j];
  // False, too, where one of them overflowed or is not a number.
  const bool close = sq_length > norms / 4 && norms <= std::numeric_limits<T>::max();
  return close ? mean : std::vector<T>{};
}
template std::vector<float> common_offset(const KnnProblem<float>&);
template std::vector<double> common_offset(const KnnProblem<double>&);

template <class T>
int64_t Knn<T>::sweeps() const {
  return static_cast<int64_t>(tasks_.size());
}

template <class T>
void Knn<T>::scan(const KnnTask<T>& task, KnnWorkspace<T>& w) {
  const int64_t d = problem_.dim;
  const int64_t row_bytes = std::max(d * static_cast<int64_t>(sizeof(T)), int64_t{1});
  const int64_t block = std::clamp(kScanBytes / row_bytes, int64_t{1}, kMostScanned);
  std::vector<const T*> queries(task.queries);
  for (int64_t q = 0; q < task.queries; ++q) queries[q] = query(task.query_begin + q);
  w.row.resize(d);
  w.distances.resize(task.queries * block);
  w.selected.resize(block);
  for (int64_t key = task.key_begin; key < task.key_end; key += block) {
    const int64_t count = std::min(block, task.key_end - key);
    if (task.queries == 1) {
      sq_distances(queries[0], problem_.keys, nullptr, key, count, d, w.row.data(),
                   w.distances.data());
    } else {
      const T* rows = static_cast<const T*>(problem_.keys.data) + key * d;
      if (problem_.keys.kind != kKindOf<T>) {
        w.keys.resize(block * d);
        copy_rows(problem_.keys, key, count, d, nullptr, w.keys.data(), d, nullptr);
        rows = w.keys.data();
      }
      all_sq_distances(queries.data(), task.queries, rows, count, d, w.distances.data(), block);
    }
    for (int64_t q = 0; q < task.queries; ++q) {
      KnnShortlist<T>& found = list(task, q);
      const T* distances = w.distances.data() + q * block;
      // Of equals the first is nearest, and all that are not below the cut come later.
      const T limit = std::nextafter(found.cut, -std::numeric_limits<T>::infinity());
      const int64_t near = knn_select(distances, count, limit, w.selected.data());
      for (int64_t i = 0; i < near; ++i) {
        found.add_exact(distances[w.selected[i]], key + w.selected[i], size_, w.orders);
      }
    }
  }
}

template <class T>
bool Knn<T>::collect(int64_t index, KnnWorkspace<T>& w) {
  w.ranking.clear();
  KnnShortlist<T>* const lists = &lists_[index * key_ranges_];
  // Keys come in ascending order, in every list and from list to list.
  std::vector<KnnCandidate<T>>& all = lists[0].candidates;
  for (int64_t range = 0; range < key_ranges_; ++range) {
    if (lists[range].defeated) return false;
    if (range > 0) {
      all.insert(all.end(), lists[range].candidates.begin(), lists[range].candidates.end());
    }
  }
  if (way_ == KnnWay::kDirect) {
    for (const KnnCandidate<T>& c : all) {
      w.ranking.rows.push_back(c.key);
      w.ranking.distances.push_back(c.lower);
    }
    return true;
  }
  if (static_cast<int64_t>(all.size()) < problem_.k) return false;
  const T cut = cut_of(all, problem_.k, w.orders);
  for (int64_t range = 0; range < key_ranges_; ++range) {
    if (!(cut <= lists[range].cut)) return false;
  }
  for (const KnnCandidate<T>& c : all) {
    if (!(c.lower > cut)) w.ranking.rows.push_back(c.key);
  }
  return true;
}

template <class T>
bool Knn<T>::finish(int64_t index, KnnWorkspace<T>& w, T* sq_distances_out, int64_t* indices_out) {
  if (!collect(index, w)) return false;
  if (way_ != KnnWay::kDirect) w.ranking.measure(query(index), problem_.keys, problem_.dim);
  w.ranking.write_nearest(problem_.k, sq_distances_out, indices_out);
  return true;
}

template class Knn<float>;
template class Knn<double>;

}  // namespace clfast::cpu
