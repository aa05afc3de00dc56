#include "mixture_log_probs.h"

namespace clfast::cpu {

Finding mixture_log_probs(const MixtureProblem<float>& problem, int64_t begin, int64_t end,
                          float* scratch, float* out) {
  CLFAST_CALL_AT_LEVEL(mixture_log_probs(problem, begin, end, scratch, out));
}
Finding mixture_log_probs(const MixtureProblem<double>& problem, int64_t begin, int64_t end,
                          double* scratch, double* out) {
  CLFAST_CALL_AT_LEVEL(mixture_log_probs(problem, begin, end, scratch, out));
}

}  // namespace clfast::cpu
