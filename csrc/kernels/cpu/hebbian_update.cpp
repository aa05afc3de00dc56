#include "hebbian_update.h"

namespace clfast::cpu {

Finding hebbian_update(const Neighbourhood<float>& n, const bool* select, int64_t begin,
                       int64_t end, float* scratch, float* delta_weight, float* delta_bias) {
  CLFAST_CALL_AT_LEVEL(hebbian_update(n, select, begin, end, scratch, delta_weight, delta_bias));
}
Finding hebbian_update(const Neighbourhood<double>& n, const bool* select, int64_t begin,
                       int64_t end, double* scratch, double* delta_weight, double* delta_bias) {
  CLFAST_CALL_AT_LEVEL(hebbian_update(n, select, begin, end, scratch, delta_weight, delta_bias));
}

}  // namespace clfast::cpu
