#include "bias_correct.cuh"

namespace clfast::cuda {

template cudaError_t bias_correct(const BiasCorrectProblem<float>&, const float*, uint8_t*, float*,
                                  cudaStream_t);
template cudaError_t bias_correct(const BiasCorrectProblem<double>&, const double*, uint8_t*,
                                  double*, cudaStream_t);
template cudaError_t bias_correct_gradients(const BiasCorrectProblem<float>&, const float*,
                                            uint8_t*, float*, float*, float*, float*, cudaStream_t);
template cudaError_t bias_correct_gradients(const BiasCorrectProblem<double>&, const double*,
                                            uint8_t*, double*, double*, double*, double*,
                                            cudaStream_t);

}  // namespace clfast::cuda
