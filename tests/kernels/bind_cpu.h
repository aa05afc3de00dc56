#pragma once
#include "bind_problems.h"
#include "cpu/simd.h"

namespace clfast::bind {

// Throws where set_simd_level() would fall back to what the processor has.
void use_level(int level);

void bind_cpu_adaptation(py::module_& m);
void bind_cpu_recall(py::module_& m);
void bind_cpu_consolidation(py::module_& m);
void bind_cpu_masks(py::module_& m);
void bind_cpu_optimizers(py::module_& m);
void bind_cpu_exemplar_losses(py::module_& m);
void bind_cpu_exemplars(py::module_& m);
void bind_cpu_perceptron(py::module_& m);

}  // namespace clfast::bind
