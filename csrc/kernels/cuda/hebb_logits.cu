#include "hebb_logits.cuh"

namespace clfast::cuda {

template cudaError_t hebb_logits(const HebbLogitsProblem<float>&, const Resolved<float>&,
                                 const MbpaScratch<float>&, float*, float*, cudaStream_t);
template cudaError_t hebb_logits(const HebbLogitsProblem<double>&, const Resolved<double>&,
                                 const MbpaScratch<double>&, double*, double*, cudaStream_t);

}  // namespace clfast::cuda
