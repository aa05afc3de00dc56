#include "knn.cuh"

namespace clfast::cuda {

template cudaError_t knn(const KnnProblem<float>&, const KnnScratch<float>&, float*, int64_t*,
                         cudaStream_t);
template cudaError_t knn(const KnnProblem<double>&, const KnnScratch<double>&, double*, int64_t*,
                         cudaStream_t);

}  // namespace clfast::cuda
