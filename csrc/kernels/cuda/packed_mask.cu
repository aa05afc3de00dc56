#include "packed_mask.cuh"

namespace clfast::cuda {

template cudaError_t reserve(uint8_t*, bool, const float*, int64_t, int64_t*, cudaStream_t);
template cudaError_t reserve(uint8_t*, bool, const double*, int64_t, int64_t*, cudaStream_t);

}  // namespace clfast::cuda
