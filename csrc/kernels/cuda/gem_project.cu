#include "gem_project.cuh"

namespace clfast::cuda {

template cudaError_t gem_project(const float*, const float*, int64_t, int64_t, double,
                                 const GemScratch&, float*, cudaStream_t);
template cudaError_t gem_project(const double*, const double*, int64_t, int64_t, double,
                                 const GemScratch&, double*, cudaStream_t);

}  // namespace clfast::cuda
