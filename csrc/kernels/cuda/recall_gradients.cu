#include "recall_gradients.cuh"

namespace clfast::cuda {

template cudaError_t recall_gradients(const RecallProblem<float>&, const RecallScratch<float>&,
                                      float*, float*, float*, cudaStream_t);
template cudaError_t recall_gradients(const RecallProblem<double>&, const RecallScratch<double>&,
                                      double*, double*, double*, cudaStream_t);

}  // namespace clfast::cuda
