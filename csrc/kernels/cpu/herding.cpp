#include "herding.h"

namespace clfast::cpu {

#define CLFAST_PICK_HERDING(T)                                                                 \
  void herding_sum(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum) {       \
    CLFAST_CALL_AT_LEVEL(herding_sum(of, begin, end, sum));                                    \
  }                                                                                            \
  void herding_pack(const HerdingClass<T>& of, const double* mean, int64_t begin, int64_t end, \
                    float* packed, double* sq_norms) {                                         \
    CLFAST_CALL_AT_LEVEL(herding_pack(of, mean, begin, end, packed, sq_norms));                \
  }                                                                                            \
  double herding_exact(const HerdingClass<T>& of, const double* mean, const double* target,    \
                       int64_t member) {                                                       \
    CLFAST_CALL_AT_LEVEL(herding_exact(of, mean, target, member));                             \
  }
CLFAST_PICK_HERDING(float)
CLFAST_PICK_HERDING(double)

double herding_scores(const float* packed, int64_t pairs, const float* target,
                      const double* sq_norms, int64_t begin, int64_t end, double* scores) {
  CLFAST_CALL_AT_LEVEL(herding_scores(packed, pairs, target, sq_norms, begin, end, scores));
}

int64_t herding_next(const double* scores, double least, int64_t begin, int64_t end) {
  CLFAST_CALL_AT_LEVEL(herding_next(scores, least, begin, end));
}

}  // namespace clfast::cpu
