#include "nearest_class_mean.cuh"

namespace clfast::cuda {

template cudaError_t nearest_class_mean(Rows, const float*, int64_t, int64_t, int64_t, bool,
                                        const NearestMeanScratch<float>&, int64_t*, cudaStream_t);
template cudaError_t nearest_class_mean(Rows, const double*, int64_t, int64_t, int64_t, bool,
                                        const NearestMeanScratch<double>&, int64_t*, cudaStream_t);

}  // namespace clfast::cuda
