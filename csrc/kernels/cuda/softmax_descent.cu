#include "softmax_descent.cuh"

namespace clfast::cuda {

#define CLFAST_DESCENT_OF(T)                                                                      \
  template cudaError_t descend(const DescentProblem<T>&, T*, T*, T*, T*, cudaStream_t);           \
  template cudaError_t ascend(const DescentProblem<T>&, const T*, const T*, const T*, T*, T*, T*, \
                              T*, cudaStream_t);
CLFAST_DESCENT_OF(float)
CLFAST_DESCENT_OF(double)

}  // namespace clfast::cuda
