#include "path_integral.cuh"

namespace clfast::cuda {

#define CLFAST_PATH_INTEGRAL_OF(T) \
  template cudaError_t path_integral(const PathTensor<T>*, const int64_t*, int64_t, cudaStream_t);
CLFAST_PATH_INTEGRAL_OF(float)
CLFAST_PATH_INTEGRAL_OF(double)

}  // namespace clfast::cuda
