// Launchers of the masked optimiser steps, for the glue and for the emulator's bindings. Include
// what defines cudaError_t and cudaStream_t first. The tensors are on the device, the arrays that
// list them on the host; ends[i] is where tensor i ends in the row of all elements.
#pragma once
#include <cstdint>

#include "../common/masked_step.h"
#include "list_launches.h"

namespace clfast::cuda {

template <class T>
cudaError_t masked_sgd_step(const SgdTensor<T>* tensors, const int64_t* ends, int64_t count,
                            const SgdStep<T>& step, cudaStream_t stream);

template <class T>
cudaError_t masked_adam_step(const AdamTensor<T>* tensors, const int64_t* ends, int64_t count,
                             const AdamStep<T>& step, cudaStream_t stream);

template <class T>
int64_t parts_of_norm(const int64_t* ends, int64_t count) {
  return parts_of_launches<kEntriesOfALaunch<MaskedGrad<T>>>(ends, count);
}
// sums: parts_of_norm() of scratch; norm: one element.
template <class T>
cudaError_t masked_grad_norm(const MaskedGrad<T>* tensors, const int64_t* ends, int64_t count,
                             double* sums, double* norm, cudaStream_t stream);

}  // namespace clfast::cuda
