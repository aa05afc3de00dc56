// Launchers of the consolidation kernels, for the glue and for the emulator's bindings. Include
// what defines cudaError_t and cudaStream_t first. The tensors are on the device, the arrays that
// list them on the host.
#pragma once
#include <cstdint>

#include "../common/gem_program.h"
#include "../common/gradient_lists.h"
#include "../common/path_integral.h"
#include "../common/quadratic_penalty.h"
#include "list_launches.h"

namespace clfast::cuda {

// A launch takes so many tensors, since a kernel's arguments have 4 KiB.
constexpr int64_t kTensorsOfALaunch = 128;

inline int64_t parts_of_lists(const int64_t* ends, int64_t tensors) {
  return parts_of_launches<kTensorsOfALaunch>(ends, tensors);
}

// sums: parts_of_lists() of scratch; scale: one element of scratch.
template <class T>
cudaError_t project_gradients(const GradientLists<T>& lists, InnerProducts* sums, double* scale,
                              cudaStream_t stream);

// How many blocks share the columns of a product: no more than leave its sums below 32 MiB.
inline int64_t parts_of_gem(int64_t tasks, int64_t columns) {
  const int64_t room = (int64_t{1} << 22) / (tasks * tasks) + 1, most = room < 256 ? room : 256;
  const int64_t parts = (columns + kElementsOfABlock - 1) / kElementsOfABlock;
  return parts < most ? parts : most;
}

struct GemScratch {
  double* sums;                    // [parts_of_gem(), T, T]
  double *products, *multipliers;  // [T]
  double* conflict;                // one
  double* gram;                    // [T, T]
  double* program;                 // [gem_scratch(T)]
  int64_t* order;                  // [T]
};

// out [P] of grad [P] and memory_grads [T, P].
template <class T>
cudaError_t gem_project(const T* grad, const T* memory_grads, int64_t tasks, int64_t columns,
                        double margin, const GemScratch& scratch, T* out, cudaStream_t stream);

template <class T>
int64_t parts_of_penalty(const int64_t* ends, int64_t count) {
  return parts_of_launches<kEntriesOfALaunch<PenaltyTensor<T>>>(ends, count);
}
// ends[i] is where tensor i ends in the row of all elements; sums: parts_of_penalty() of scratch;
// value: one element. Gradients are written where there is room for them.
template <class T>
cudaError_t quadratic_penalty(const PenaltyTensor<T>* tensors, const int64_t* ends, int64_t count,
                              double* sums, T* value, cudaStream_t stream);

// grad += strength times the gradient of the penalty.
template <class T>
cudaError_t add_penalty_gradients(const PenaltyTensor<T>* tensors, const int64_t* ends,
                                  int64_t count, T strength, cudaStream_t stream);

// omega -= grad * delta where delta is not 0; ends as above.
template <class T>
cudaError_t path_integral(const PathTensor<T>* tensors, const int64_t* ends, int64_t count,
                          cudaStream_t stream);

}  // namespace clfast::cuda
