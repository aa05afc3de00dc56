#include "class_means.cuh"

namespace clfast::cuda {

template cudaError_t class_means(Rows, const int64_t*, int64_t, int64_t, int64_t, bool, double*,
                                 double*, float*, cudaStream_t);
template cudaError_t class_means(Rows, const int64_t*, int64_t, int64_t, int64_t, bool, double*,
                                 double*, double*, cudaStream_t);

}  // namespace clfast::cuda
