#include "hebb_logits.h"

namespace clfast::cpu {

template <class T>
int64_t hebb_logits_scratch(const HebbLogitsProblem<T>& p) {
  const Neighbourhood<T>& n = p.mbpa.neighbourhood;
  const int64_t own = 4 * n.num_classes + 2 * n.neighbours + n.dim;
  return (own + 15) / 16 * 16 + (p.mbpa.steps > 0 ? mbpa_scratch(p.mbpa) : 0);
}
template int64_t hebb_logits_scratch(const HebbLogitsProblem<float>&);
template int64_t hebb_logits_scratch(const HebbLogitsProblem<double>&);

Finding hebb_logits(const HebbLogitsProblem<float>& problem, int64_t begin, int64_t end,
                    float* scratch, float* out) {
  CLFAST_CALL_AT_LEVEL(hebb_logits(problem, begin, end, scratch, out));
}
Finding hebb_logits(const HebbLogitsProblem<double>& problem, int64_t begin, int64_t end,
                    double* scratch, double* out) {
  CLFAST_CALL_AT_LEVEL(hebb_logits(problem, begin, end, scratch, out));
}

}  // namespace clfast::cpu
