#include "margin_ranking.cuh"

namespace clfast::cuda {

template cudaError_t margin_ranking(const MarginRankingProblem<float>&, uint8_t*, float*, float*,
                                    float*, float*, cudaStream_t);
template cudaError_t margin_ranking(const MarginRankingProblem<double>&, uint8_t*, double*, double*,
                                    double*, double*, cudaStream_t);

}  // namespace clfast::cuda
