#include "hebbian_update.cuh"

namespace clfast::cuda {

template cudaError_t hebbian_update(const Neighbourhood<float>&, int64_t, const bool*,
                                    const Resolved<float>&, float*, float*, cudaStream_t);
template cudaError_t hebbian_update(const Neighbourhood<double>&, int64_t, const bool*,
                                    const Resolved<double>&, double*, double*, cudaStream_t);

}  // namespace clfast::cuda
