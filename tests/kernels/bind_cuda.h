#pragma once
#include <stdexcept>

#include "bind_problems.h"
#include "cuda/launch.h"

namespace clfast::bind {

inline void check_launch(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

void bind_cuda_adaptation(py::module_& m);
void bind_cuda_recall(py::module_& m);
void bind_cuda_consolidation(py::module_& m);
void bind_cuda_masks(py::module_& m);
void bind_cuda_optimizers(py::module_& m);
void bind_cuda_exemplar_losses(py::module_& m);
void bind_cuda_exemplars(py::module_& m);

}  // namespace clfast::bind
