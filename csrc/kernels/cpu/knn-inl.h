// Included once per SIMD level.
#include "gemm-inl.h"
#include "knn.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Whether all lanes of a comparison's result are true.
template <class Mask>
inline bool all_lanes(Mask mask) {
  uint64_t words[sizeof(Mask) / sizeof(uint64_t)];
  memcpy(words, &mask, sizeof mask);
  uint64_t both = words[0];
  for (size_t i = 1; i < sizeof(Mask) / sizeof(uint64_t); ++i) both &= words[i];
  return both == ~uint64_t(0);
}

template <class T>
inline int64_t sweep_keys(const KnnSweep<T>& s, KnnHit<T>* hits) {
  int64_t count = 0;
  gemm(s.keys, s.dim, s.key_count, s.queries, s.query_count, s.query_count, s.dim,
       [&](int64_t first_key, int64_t keys, int64_t first_query, int64_t queries, T* tile) {
         const T* limit = s.limits + first_query;
         for (int64_t r = 0; r < keys; ++r) {
           T* score = tile + r * kTileColumns<T>;
           const T term = s.key_terms[first_key + r];
           typename LaneIndexOf<T>::type above = ~typename LaneIndexOf<T>::type{};
           for (int64_t c = 0; c < queries; c += kLanes<T>) {
             const Vector<T> sum = load(score + c) + term;
             store<T>(score + c, sum);
             above &= sum > load(limit + c);
           }
           if (all_lanes(above)) continue;
           for (int64_t c = 0; c < queries; ++c) {
             if (score[c] > limit[c]) continue;
             hits[count++] = {score[c], static_cast<int32_t>(first_key + r),
                              static_cast<int32_t>(first_query + c)};
           }
         }
       });
  return count;
}

int64_t knn_sweep(const KnnSweep<float>& sweep, KnnHit<float>* hits) {
  return sweep_keys(sweep, hits);
}
int64_t knn_sweep(const KnnSweep<double>& sweep, KnnHit<double>* hits) {
  return sweep_keys(sweep, hits);
}
int64_t knn_lanes(float) { return kLanes<float>; }
int64_t knn_lanes(double) { return kLanes<double>; }

}  // namespace clfast::cpu::CLFAST_LEVEL
