#include "herding.h"

namespace clfast::cpu {

#define CLFAST_PICK_HERDING(T)                                                                   \
  void herding_sum(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum) {         \
    CLFAST_CALL_AT_LEVEL(herding_sum(of, begin, end, sum));                                      \
  }                                                                                              \
  void herding_pack(const HerdingClass<T>& of, const double* origin, int64_t begin, int64_t end, \
                    const HerdingShort& out, double* sq_norms, double* sum) {                    \
    CLFAST_CALL_AT_LEVEL(herding_pack(of, origin, begin, end, out, sq_norms, sum));              \
  }                                                                                              \
  double herding_exact(const HerdingClass<T>& of, const double* origin, const double* target,    \
                       int64_t member) {                                                         \
    CLFAST_CALL_AT_LEVEL(herding_exact(of, origin, target, member));                             \
  }                                                                                              \
  void herding_advance(const HerdingClass<T>& of, const double* mean, int64_t member,            \
                       double* target) {                                                         \
    CLFAST_CALL_AT_LEVEL(herding_advance(of, mean, member, target));                             \
  }
CLFAST_PICK_HERDING(float)
CLFAST_PICK_HERDING(double)

double herding_target(const double* target, int64_t dim, float* pairs) {
  CLFAST_CALL_AT_LEVEL(herding_target(target, dim, pairs));
}

float herding_scores(const HerdingShort& of, int64_t dim, const float* target, double target_length,
                     int64_t begin, int64_t end, float* scores) {
  CLFAST_CALL_AT_LEVEL(herding_scores(of, dim, target, target_length, begin, end, scores));
}

int64_t herding_next(const float* scores, double least, int64_t begin, int64_t end) {
  CLFAST_CALL_AT_LEVEL(herding_next(scores, least, begin, end));
}

}  // namespace clfast::cpu
