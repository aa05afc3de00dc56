#include "project_gradients.cuh"

namespace clfast::cuda {

template cudaError_t project_gradients(const GradientLists<float>&, InnerProducts*, double*,
                                       cudaStream_t);
template cudaError_t project_gradients(const GradientLists<double>&, InnerProducts*, double*,
                                       cudaStream_t);

}  // namespace clfast::cuda
