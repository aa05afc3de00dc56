#include "mbpa_update.h"

#include "mbpa_scratch.h"

namespace clfast::cpu {

template <class T>
int64_t mbpa_scratch(const MbpaProblem<T>& problem) {
  MbpaScratch<T> s;
  return lay_out(problem, static_cast<T*>(nullptr), s);
}
template int64_t mbpa_scratch(const MbpaProblem<float>&);
template int64_t mbpa_scratch(const MbpaProblem<double>&);

Finding mbpa_update(const MbpaProblem<float>& problem, int64_t begin, int64_t end, float* scratch,
                    float* delta_weight, float* delta_bias) {
  CLFAST_CALL_AT_LEVEL(mbpa_update(problem, begin, end, scratch, delta_weight, delta_bias));
}
Finding mbpa_update(const MbpaProblem<double>& problem, int64_t begin, int64_t end, double* scratch,
                    double* delta_weight, double* delta_bias) {
  CLFAST_CALL_AT_LEVEL(mbpa_update(problem, begin, end, scratch, delta_weight, delta_bias));
}

}  // namespace clfast::cpu
