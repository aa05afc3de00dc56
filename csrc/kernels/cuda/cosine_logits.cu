#include "cosine_logits.cuh"

namespace clfast::cuda {

template cudaError_t unit_rows(const float*, int64_t, int64_t, const float*, float*, float*,
                               cudaStream_t);
template cudaError_t unit_rows(const double*, int64_t, int64_t, const double*, double*, double*,
                               cudaStream_t);
template cudaError_t unit_rows_gradient(const float*, const float*, const float*, int64_t, int64_t,
                                        const float*, float*, float*, float*, cudaStream_t);
template cudaError_t unit_rows_gradient(const double*, const double*, const double*, int64_t,
                                        int64_t, const double*, double*, double*, double*,
                                        cudaStream_t);

}  // namespace clfast::cuda
