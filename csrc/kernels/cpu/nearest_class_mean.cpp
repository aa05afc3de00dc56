#include "nearest_class_mean.h"

namespace clfast::cpu {

template <class T>
int64_t nearest_class_mean_scratch(const NearestMeanProblem<T>& problem) {
  return kNearestMeanBlock * (problem.dim + problem.width);
}
template int64_t nearest_class_mean_scratch(const NearestMeanProblem<float>&);
template int64_t nearest_class_mean_scratch(const NearestMeanProblem<double>&);

void nearest_class_mean(const NearestMeanProblem<float>& problem, int64_t begin, int64_t end,
                        float* scratch, int64_t* labels) {
  CLFAST_CALL_AT_LEVEL(nearest_class_mean(problem, begin, end, scratch, labels));
}
void nearest_class_mean(const NearestMeanProblem<double>& problem, int64_t begin, int64_t end,
                        double* scratch, int64_t* labels) {
  CLFAST_CALL_AT_LEVEL(nearest_class_mean(problem, begin, end, scratch, labels));
}

}  // namespace clfast::cpu
