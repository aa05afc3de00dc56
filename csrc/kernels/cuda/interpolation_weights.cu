#include "interpolation_weights.cuh"

namespace clfast::cuda {

template cudaError_t interpolation_weights(const int64_t*, int64_t, double, float*, cudaStream_t);
template cudaError_t interpolation_weights(const int64_t*, int64_t, double, double*, cudaStream_t);

}  // namespace clfast::cuda
