#include "mbpa_update.cuh"

namespace clfast::cuda {

template cudaError_t mbpa_update(const MbpaProblem<float>&, const Resolved<float>&,
                                 const MbpaScratch<float>&, float*, float*, cudaStream_t);
template cudaError_t mbpa_update(const MbpaProblem<double>&, const Resolved<double>&,
                                 const MbpaScratch<double>&, double*, double*, cudaStream_t);

}  // namespace clfast::cuda
