// The launchers of consolidation in the SIMT emulator.
#include "bind_consolidation.h"
#include "bind_cuda.h"
#include "cuda/consolidation.h"

namespace clfast::bind {
namespace {

void project_gradients(const py::object& problem, const py::object& out) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const Lists<T> lists(problem);
    const int64_t tensors = static_cast<int64_t>(lists.ends().size());
    Scratch<InnerProducts> sums(cuda::parts_of_lists(lists.ends().data(), tensors));
    Scratch<double> scale(1);
    check_launch(cuda::project_gradients<T>(lists.view(), sums.data(), scale.data(), nullptr));
    lists.write_grads(out);
  });
}

void gem_project(const py::object& problem, const py::object& out) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t columns = extent(out, 0), tasks = extent(problem.attr("memory_grads"), 0);
    const int64_t parts = cuda::parts_of_gem(tasks, columns);
    Scratch<double> sums(parts * tasks * tasks), products(tasks), multipliers(tasks), conflict(1);
    Scratch<double> gram(tasks * tasks), program(gem_scratch(tasks));
    Scratch<int64_t> order(tasks);
    check_launch(cuda::gem_project<T>(field<T>(problem, "grad", {columns}),
                                      field<T>(problem, "memory_grads", {tasks, columns}), tasks,
                                      columns, problem.attr("margin").cast<double>(),
                                      {sums.data(), products.data(), multipliers.data(),
                                       conflict.data(), gram.data(), program.data(), order.data()},
                                      data_of<T>(out, "out", {columns}), nullptr));
  });
}

template <class T>
void penalty_of(const PenaltyTensors<T>& lists, const std::vector<PenaltyTensor<T>>& tensors,
                T* value) {
  const int64_t* ends = lists.ends().data();
  Scratch<double> sums(cuda::parts_of_penalty<T>(ends, lists.tensors()));
  check_launch(cuda::quadratic_penalty<T>(tensors.data(), ends, lists.tensors(), sums.data(), value,
                                          nullptr));
}

void quadratic_penalty(const py::object& problem, const py::object& value,
                       const py::object& grads) {
  with_type_of(grads, [&](auto tag) {
    using T = decltype(tag);
    PenaltyTensors<T> lists(problem);
    const auto found = lists.room();
    T* values = data_of<T>(value, "value", {2});
    penalty_of(lists, lists.with(found), values);
    penalty_of(lists, lists.without(), values + 1);
    lists.write(found, grads);
  });
}

void add_penalty_gradients(const py::object& problem, const py::object& grads) {
  with_type_of(grads, [&](auto tag) {
    using T = decltype(tag);
    PenaltyTensors<T> lists(problem);
    const auto changed = lists.list("grads");
    const auto tensors = lists.with(changed);
    check_launch(cuda::add_penalty_gradients<T>(tensors.data(), lists.ends().data(),
                                                lists.tensors(), number<T>(problem, "strength"),
                                                nullptr));
    lists.write(changed, grads);
  });
}

void path_integral(const py::object& problem, const py::object& omegas) {
  with_type_of(omegas, [&](auto tag) {
    using T = decltype(tag);
    PathTensors<T> lists(problem);
    const auto changed = lists.list("omegas");
    const auto tensors = lists.of(changed);
    check_launch(
        cuda::path_integral<T>(tensors.data(), lists.ends().data(), lists.tensors(), nullptr));
    lists.write(changed, omegas);
  });
}

}  // namespace

void bind_cuda_consolidation(py::module_& m) {
  m.def("project_gradients", &project_gradients);
  m.def("gem_project", &gem_project);
  m.def("quadratic_penalty", &quadratic_penalty);
  m.def("add_penalty_gradients", &add_penalty_gradients);
  m.def("path_integral", &path_integral);
}

}  // namespace clfast::bind
