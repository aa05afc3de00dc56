#include "../consolidation.h"

#include <vector>

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/consolidation.h"

namespace clfast::ops {
namespace {

void project_gradients_(std::vector<Tensor> grads, std::vector<Tensor> reference) {
  const char* op = "project_gradients_";
  const ListInputs in = check_projection(op, grads, reference);
  const DeviceStream stream(in.grads[0]);
  const int64_t parts = cuda::parts_of_lists(in.ends.data(), static_cast<int64_t>(in.ends.size()));
  const Tensor scratch = scratch_like(in.grads[0], 2 * parts + 1, ScalarType::Double);
  double* scale = scratch.mutable_data_ptr<double>();
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const ListPointers<T> pointers(in);
    check_launch(
        op, cuda::project_gradients<T>(pointers.view(), reinterpret_cast<InnerProducts*>(scale + 1),
                                       scale, stream));
  });
  write_back(grads, in.grads);
}

Tensor gem_project(const Tensor& grad, const Tensor& memory_grads, double margin) {
  const char* op = "gem_project";
  const GemInputs in = check_gem(op, grad, memory_grads, margin);
  const DeviceStream stream(in.grad);
  Tensor out = new_tensor(in.grad, {in.columns}, in.dtype);
  const int64_t t = in.tasks, parts = t > 0 ? cuda::parts_of_gem(t, in.columns) : 0;
  const Tensor doubles =
      scratch_like(in.grad, 1 + 2 * t + (parts + 1) * t * t + gem_scratch(t), ScalarType::Double);
  const Tensor order = scratch_like(in.grad, t, ScalarType::Long);
  double* conflict = doubles.mutable_data_ptr<double>();
  double *products = conflict + 1, *multipliers = products + t, *gram = multipliers + t;
  double *program = gram + t * t, *sums = program + gem_scratch(t);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch(
        op, cuda::gem_project<T>(in.grad.const_data_ptr<T>(), in.memory_grads.const_data_ptr<T>(),
                                 t, in.columns, margin,
                                 {sums, products, multipliers, conflict, gram, program,
                                  order.mutable_data_ptr<int64_t>()},
                                 out.mutable_data_ptr<T>(), stream));
  });
  return out;
}

Tensor penalty(const char* op, const PenaltyInputs& in) {
  const DeviceStream stream(in.params[0]);
  const std::vector<int64_t> ends = ends_of(in.params);
  Tensor out = new_tensor(in.params[0], {}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<PenaltyTensor<T>> tensors = in.tensors<T>();
    const Tensor sums = scratch_like(
        in.params[0], cuda::parts_of_penalty<T>(ends.data(), ends.size()), ScalarType::Double);
    check_launch(op, cuda::quadratic_penalty<T>(tensors.data(), ends.data(), ends.size(),
                                                sums.mutable_data_ptr<double>(),
                                                out.mutable_data_ptr<T>(), stream));
  });
  return out;
}

void add_penalty(const char* op, const PenaltyInputs& in, double strength) {
  const DeviceStream stream(in.params[0]);
  const std::vector<int64_t> ends = ends_of(in.params);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<PenaltyTensor<T>> tensors = in.tensors<T>();
    check_launch(op, cuda::add_penalty_gradients<T>(tensors.data(), ends.data(), ends.size(),
                                                    static_cast<T>(strength), stream));
  });
}

void path_integral(const char* op, const PathInputs& in) {
  const DeviceStream stream(in.omegas[0]);
  const std::vector<int64_t> ends = ends_of(in.omegas);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<PathTensor<T>> tensors = in.tensors<T>();
    check_launch(op, cuda::path_integral<T>(tensors.data(), ends.data(), ends.size(), stream));
  });
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) {
  m.impl("project_gradients_", TORCH_BOX(&clfast::ops::project_gradients_));
  m.impl("gem_project", TORCH_BOX(&clfast::ops::gem_project));
  m.impl("quadratic_penalty", TORCH_BOX(&clfast::ops::quadratic_penalty<clfast::ops::penalty>));
  m.impl("add_penalty_gradients_",
         TORCH_BOX(&clfast::ops::add_penalty_gradients_<clfast::ops::add_penalty>));
  m.impl("path_integral_", TORCH_BOX(&clfast::ops::path_integral_<clfast::ops::path_integral>));
}
