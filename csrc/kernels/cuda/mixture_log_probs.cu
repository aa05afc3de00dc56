#include "mixture_log_probs.cuh"

namespace clfast::cuda {

template cudaError_t mixture_log_probs(const MixtureProblem<float>&, const Resolved<float>&, float*,
                                       float*, cudaStream_t);
template cudaError_t mixture_log_probs(const MixtureProblem<double>&, const Resolved<double>&,
                                       double*, double*, cudaStream_t);

}  // namespace clfast::cuda
