#include "image_prior.cuh"

namespace clfast::cuda {

template cudaError_t image_prior(const ImagePrior<float>&, const float*, int64_t, const int64_t*,
                                 const ImagePriorScratch<float>&, float*, float*, cudaStream_t);
template cudaError_t image_prior(const ImagePrior<double>&, const double*, int64_t, const int64_t*,
                                 const ImagePriorScratch<double>&, double*, double*, cudaStream_t);
template cudaError_t recall_step(const ImagePrior<float>&, const float*, int64_t, float,
                                 const int64_t*, bool, const ImagePriorScratch<float>&, float*,
                                 float*, cudaStream_t);
template cudaError_t recall_step(const ImagePrior<double>&, const double*, int64_t, double,
                                 const int64_t*, bool, const ImagePriorScratch<double>&, double*,
                                 double*, cudaStream_t);

}  // namespace clfast::cuda
