// Included once per SIMD level.
#include "gemm-inl.h"
#include "knn.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline int64_t sweep_keys(const KnnSweep<T>& s, KnnHit<T>* hits) {
  int64_t count = 0;
  gemm(s.keys, s.dim, s.key_count, s.queries, s.query_count, s.query_count, s.dim,
       [&](int64_t first_key, int64_t keys, int64_t first_query, int64_t queries, const T* tile) {
         const T* query_norm = s.query_sq_norms + first_query;
         const T* cut = s.cut + first_query;
         T lower[kTileColumns<T>];
         for (int64_t r = 0; r < keys; ++r) {
           const T* dot = tile + r * kTileColumns<T>;
           const T key_norm = s.key_sq_norms[first_key + r];
           const T key_error = s.error * key_norm + s.tiny;
           int any = 0;
#pragma omp simd reduction(| : any)
           for (int64_t c = 0; c < queries; ++c) {
             lower[c] =
                 (key_norm + query_norm[c] - 2 * dot[c]) - (key_error + s.error * query_norm[c]);
             any |= !(lower[c] > cut[c]);
           }
           if (!any) continue;
           for (int64_t c = 0; c < queries; ++c) {
             if (lower[c] > cut[c]) continue;
             const T width = 2 * (key_error + s.error * query_norm[c]);
             hits[count++] = {lower[c], lower[c] + width, static_cast<int32_t>(first_key + r),
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
