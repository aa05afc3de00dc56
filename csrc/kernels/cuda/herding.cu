#include "herding.cuh"

namespace clfast::cuda {

template cudaError_t herding(const HerdingProblem<float>&, const HerdingScratch&, int64_t*,
                             int64_t*, cudaStream_t);
template cudaError_t herding(const HerdingProblem<double>&, const HerdingScratch&, int64_t*,
                             int64_t*, cudaStream_t);

}  // namespace clfast::cuda
