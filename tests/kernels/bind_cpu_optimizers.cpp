// The raw CPU kernels of the masked steps on whole problems, `part` elements at a time.
#include <cmath>

#include "bind_cpu.h"
#include "bind_optimizers.h"
#include "cpu/masked_step.h"

namespace clfast::bind {
namespace {

void masked_sgd_step(int level, const py::object& problem, int64_t part, const py::object& params,
                     const py::object& buffers) {
  use_level(level);
  with_type_of(params, [&](auto tag) {
    using T = decltype(tag);
    MaskedTensors<T> lists(problem);
    const auto moved = lists.list("params"), momentum = lists.list("buffers");
    const auto tensors = lists.sgd(moved, momentum);
    lists.for_parts(part, [&](int64_t i, int64_t begin, int64_t end) {
      cpu::masked_sgd_step(tensors[i], lists.sgd_step(), begin, end);
    });
    lists.write(moved, params);
    if (!buffers.is_none()) lists.write(momentum, buffers);
  });
}

void masked_adam_step(int level, const py::object& problem, int64_t part, const py::object& params,
                      const py::object& exp_avgs, const py::object& exp_avg_sqs,
                      const py::object& max_exp_avg_sqs) {
  use_level(level);
  with_type_of(params, [&](auto tag) {
    using T = decltype(tag);
    MaskedTensors<T> lists(problem);
    const auto moved = lists.list("params"), first = lists.list("exp_avgs");
    const auto second = lists.list("exp_avg_sqs"), largest = lists.list("max_exp_avg_sqs");
    const auto tensors = lists.adam(moved, first, second, largest);
    lists.for_parts(part, [&](int64_t i, int64_t begin, int64_t end) {
      cpu::masked_adam_step(tensors[i], lists.adam_step(), begin, end);
    });
    lists.write(moved, params);
    lists.write(first, exp_avgs);
    lists.write(second, exp_avg_sqs);
    if (!max_exp_avg_sqs.is_none()) lists.write(largest, max_exp_avg_sqs);
  });
}

void masked_grad_norm(int level, const py::object& problem, int64_t part, const py::object& norm) {
  use_level(level);
  with_type_of(problem.attr("grads"), [&](auto tag) {
    using T = decltype(tag);
    MaskedTensors<T> lists(problem);
    const auto tensors = lists.grads();
    double sum = 0;
    lists.for_parts(part, [&](int64_t i, int64_t begin, int64_t end) {
      sum += cpu::masked_sq_norm(tensors[i], begin, end);
    });
    *data_of<double>(norm, "norm", {1}) = std::sqrt(sum);
  });
}

}  // namespace

void bind_cpu_optimizers(py::module_& m) {
  const auto none = py::none();
  m.def("masked_sgd_step", &masked_sgd_step, py::arg("level"), py::arg("problem"), py::arg("part"),
        py::arg("params"), py::arg("buffers") = none);
  m.def("masked_adam_step", &masked_adam_step, py::arg("level"), py::arg("problem"),
        py::arg("part"), py::arg("params"), py::arg("exp_avgs"), py::arg("exp_avg_sqs"),
        py::arg("max_exp_avg_sqs") = none);
  m.def("masked_grad_norm", &masked_grad_norm);
}

}  // namespace clfast::bind
