#include "divergence.cuh"

namespace clfast::cuda {

template cudaError_t divergence(const float*, const float*, int64_t, int64_t, Divergence, float*,
                                float*, float*, cudaStream_t);
template cudaError_t divergence(const double*, const double*, int64_t, int64_t, Divergence, double*,
                                double*, double*, cudaStream_t);

}  // namespace clfast::cuda
