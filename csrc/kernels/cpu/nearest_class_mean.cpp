#include "nearest_class_mean.h"

#include <algorithm>

#include "rows.h"

namespace clfast::cpu {

// A panel of means in pack_means(); a block of features, their norms and scores after it.
template <class T>
int64_t nearest_class_mean_scratch(const NearestMeanProblem<T>& problem) {
  const int64_t rows = std::max(kNearestMeanBlock, panel_columns<T>(simd_level()));
  return rows * (padded_stride<T>(problem.dim) + problem.num_classes + 1) + problem.dim;
}
template int64_t nearest_class_mean_scratch(const NearestMeanProblem<float>&);
template int64_t nearest_class_mean_scratch(const NearestMeanProblem<double>&);

#define CLFAST_PICK_NEAREST_CLASS_MEAN(T)                                                       \
  void pack_means(const NearestMeanProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                  const PackedMeans<T>& packed) {                                               \
    CLFAST_CALL_AT_LEVEL(pack_means(problem, begin, end, scratch, packed));                     \
  }                                                                                             \
  void nearest_class_mean(const NearestMeanProblem<T>& problem, const PackedMeans<T>& packed,   \
                          int64_t begin, int64_t end, T* scratch, int64_t* labels) {            \
    CLFAST_CALL_AT_LEVEL(nearest_class_mean(problem, packed, begin, end, scratch, labels));     \
  }
CLFAST_PICK_NEAREST_CLASS_MEAN(float)
CLFAST_PICK_NEAREST_CLASS_MEAN(double)

}  // namespace clfast::cpu
