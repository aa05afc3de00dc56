#include "soft_cross_entropy.cuh"

namespace clfast::cuda {

template cudaError_t soft_cross_entropy(const SoftCrossEntropyProblem<float>&, float*, float*,
                                        float*, float*, cudaStream_t);
template cudaError_t soft_cross_entropy(const SoftCrossEntropyProblem<double>&, double*, double*,
                                        double*, double*, cudaStream_t);

}  // namespace clfast::cuda
