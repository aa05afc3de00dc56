// The launchers of the masked steps in the SIMT emulator.
#include "bind_cuda.h"
#include "bind_optimizers.h"
#include "cuda/optimizers.h"

namespace clfast::bind {
namespace {

void masked_sgd_step(const py::object& problem, const py::object& params,
                     const py::object& buffers) {
  with_type_of(params, [&](auto tag) {
    using T = decltype(tag);
    MaskedTensors<T> lists(problem);
    const auto moved = lists.list("params"), momentum = lists.list("buffers");
    const auto tensors = lists.sgd(moved, momentum);
    check_launch(cuda::masked_sgd_step<T>(tensors.data(), lists.ends().data(), lists.tensors(),
                                          lists.sgd_step(), nullptr));
    lists.write(moved, params);
    if (!buffers.is_none()) lists.write(momentum, buffers);
  });
}

void masked_adam_step(const py::object& problem, const py::object& params,
                      const py::object& exp_avgs, const py::object& exp_avg_sqs,
                      const py::object& max_exp_avg_sqs) {
  with_type_of(params, [&](auto tag) {
    using T = decltype(tag);
    MaskedTensors<T> lists(problem);
    const auto moved = lists.list("params"), first = lists.list("exp_avgs");
    const auto second = lists.list("exp_avg_sqs"), largest = lists.list("max_exp_avg_sqs");
    const auto tensors = lists.adam(moved, first, second, largest);
    check_launch(cuda::masked_adam_step<T>(tensors.data(), lists.ends().data(), lists.tensors(),
                                           lists.adam_step(), nullptr));
    lists.write(moved, params);
    lists.write(first, exp_avgs);
    lists.write(second, exp_avg_sqs);
    if (!max_exp_avg_sqs.is_none()) lists.write(largest, max_exp_avg_sqs);
  });
}

void masked_grad_norm(const py::object& problem, const py::object& norm) {
  with_type_of(problem.attr("grads"), [&](auto tag) {
    using T = decltype(tag);
    MaskedTensors<T> lists(problem);
    const auto tensors = lists.grads();
    Scratch<double> sums(cuda::parts_of_norm<T>(lists.ends().data(), lists.tensors()));
    check_launch(cuda::masked_grad_norm<T>(tensors.data(), lists.ends().data(), lists.tensors(),
                                           sums.data(), data_of<double>(norm, "norm", {1}),
                                           nullptr));
  });
}

}  // namespace

void bind_cuda_optimizers(py::module_& m) {
  const auto none = py::none();
  m.def("masked_sgd_step", &masked_sgd_step, py::arg("problem"), py::arg("params"),
        py::arg("buffers") = none);
  m.def("masked_adam_step", &masked_adam_step, py::arg("problem"), py::arg("params"),
        py::arg("exp_avgs"), py::arg("exp_avg_sqs"), py::arg("max_exp_avg_sqs") = none);
  m.def("masked_grad_norm", &masked_grad_norm);
}

}  // namespace clfast::bind
