// knn as a whole: which search, and what its threads do one after another.
#pragma once
#include <cstdint>
#include <numeric>
#include <vector>

#include "knn.h"
#include "knn_small.h"

namespace clfast::cpu {

// for_each(count, f) calls f(begin, end) for ranges of [0, count), on any threads.
template <class T, class ForEach>
void search_knn(const KnnProblem<T>& problem, int64_t threads, const ForEach& for_each,
                T* sq_distances, int64_t* indices) {
  // Another thread takes as long to wake as this takes. A pair and a neighbour cost something
  // whatever the number of features is.
  constexpr int64_t kWorthSharing = 1 << 20, kFeaturesAPair = 16, kFeaturesANeighbour = 32;
  const int64_t work = problem.batch * (problem.memory_size * (problem.dim + kFeaturesAPair) +
                                        problem.k * kFeaturesANeighbour);
  if (work < kWorthSharing) threads = 1;
  const auto run = [&](int64_t count, const auto& one) {
    const auto in_turn = [&](int64_t begin, int64_t end) {
      KnnWorkspace<T> workspace;
      for (int64_t i = begin; i < end; ++i) one(i, workspace);
    };
    if (threads > 1) {
      for_each(count, in_turn);
    } else {
      in_turn(0, count);
    }
  };
  const KnnWay first = Knn<T>::first_way(problem);
  if (first != KnnWay::kDirect && KnnSmall<T>::suits(problem)) {
    KnnSmall<T> search(problem, threads);
    run(search.packings(), [&](int64_t i, KnnWorkspace<T>& w) { search.pack(i, w); });
    run(search.blocks(),
        [&](int64_t i, KnnWorkspace<T>& w) { search.search(i, w, sq_distances, indices); });
    return;
  }
  std::vector<int64_t> left(problem.batch);
  std::iota(left.begin(), left.end(), int64_t{0});
  for (KnnWay way = first; !left.empty(); way = KnnWay::kDirect) {
    Knn<T> search(problem, left, way, threads);
    run(search.openings(), [&](int64_t i, KnnWorkspace<T>& w) { search.open(i, w); });
    run(search.sweeps(), [&](int64_t i, KnnWorkspace<T>& w) { search.sweep(i, w); });
    std::vector<char> found(left.size());
    run(static_cast<int64_t>(left.size()), [&](int64_t i, KnnWorkspace<T>& w) {
      const int64_t at = left[i] * problem.k;
      found[i] = search.finish(i, w, sq_distances + at, indices + at);
    });
    std::vector<int64_t> defeated;
    for (size_t i = 0; i < left.size(); ++i) {
      if (!found[i]) defeated.push_back(left[i]);
    }
    left.swap(defeated);
  }
}

}  // namespace clfast::cpu
