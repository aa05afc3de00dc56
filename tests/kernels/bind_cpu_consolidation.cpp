// The raw CPU kernels of consolidation on whole problems, in `pieces` ranges.
#include "bind_consolidation.h"
#include "bind_cpu.h"
#include "common/gem_program.h"
#include "cpu/gem_project.h"
#include "cpu/path_integral.h"
#include "cpu/project_gradients.h"
#include "cpu/quadratic_penalty.h"

namespace clfast::bind {
namespace {

void project_gradients(int level, const py::object& problem, int64_t pieces,
                       const py::object& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const Lists<T> lists(problem);
    const int64_t elements = lists.elements();
    InnerProducts sums{0, 0};
    for (int64_t i = 0; i < pieces; ++i) {
      const InnerProducts part =
          cpu::inner_products(lists.view(), i * elements / pieces, (i + 1) * elements / pieces);
      sums.dot += part.dot;
      sums.sq_norm += part.sq_norm;
    }
    for (int64_t i = 0; i < pieces; ++i) {
      cpu::subtract_scaled(lists.view(), projection_scale(sums), i * elements / pieces,
                           (i + 1) * elements / pieces);
    }
    lists.write_grads(out);
  });
}

void gem_multipliers(const py::object& gram, const py::object& products, double margin,
                     const py::object& out) {
  const int64_t tasks = extent(out, 0);
  Scratch<double> scratch(gem_scratch(tasks));
  Scratch<int64_t> order(tasks);
  clfast::gem_multipliers({data_of<const double>(gram, "gram", {tasks, tasks}),
                           data_of<const double>(products, "products", {tasks}), tasks, margin},
                          scratch.data(), order.data(), data_of<double>(out, "out", {tasks}));
}

void gem_project(int level, const py::object& problem, int64_t pieces, const py::object& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t columns = extent(out, 0), tasks = extent(problem.attr("memory_grads"), 0);
    const cpu::GemGradients<T> g{field<T>(problem, "grad", {columns}),
                                 field<T>(problem, "memory_grads", {tasks, columns}), tasks,
                                 columns};
    Scratch<double> products(tasks, 0), gram(tasks * tasks, 0), multipliers(tasks);
    Scratch<double> scratch(cpu::gem_gradients_scratch(tasks)), program(gem_scratch(tasks));
    Scratch<int64_t> order(tasks);
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t begin = i * columns / pieces, end = (i + 1) * columns / pieces;
      cpu::gem_products(g, begin, end, scratch.data(), products.data());
      cpu::gem_gram(g, begin, end, scratch.data(), gram.data());
    }
    clfast::gem_multipliers(
        {gram.data(), products.data(), tasks, problem.attr("margin").cast<double>()},
        program.data(), order.data(), multipliers.data());
    for (int64_t i = 0; i < pieces; ++i) {
      cpu::gem_combine(g, multipliers.data(), i * columns / pieces, (i + 1) * columns / pieces,
                       data_of<T>(out, "out", {columns}));
    }
  });
}

void quadratic_penalty(int level, const py::object& problem, int64_t part, const py::object& value,
                       const py::object& grads) {
  use_level(level);
  with_type_of(grads, [&](auto tag) {
    using T = decltype(tag);
    PenaltyTensors<T> lists(problem);
    const auto found = lists.room();
    const auto with = lists.with(found), without = lists.without();
    double sum = 0, alone = 0;
    lists.for_parts(part, [&](int64_t i, int64_t begin, int64_t end) {
      sum += cpu::quadratic_penalty(with[i], begin, end);
      alone += cpu::quadratic_penalty(without[i], begin, end);
    });
    T* values = data_of<T>(value, "value", {2});
    values[0] = static_cast<T>(sum);
    values[1] = static_cast<T>(alone);
    lists.write(found, grads);
  });
}

void add_penalty_gradients(int level, const py::object& problem, int64_t part,
                           const py::object& grads) {
  use_level(level);
  with_type_of(grads, [&](auto tag) {
    using T = decltype(tag);
    PenaltyTensors<T> lists(problem);
    const auto changed = lists.list("grads");
    const auto tensors = lists.with(changed);
    lists.for_parts(part, [&](int64_t i, int64_t begin, int64_t end) {
      cpu::add_penalty_gradient(tensors[i], number<T>(problem, "strength"), begin, end);
    });
    lists.write(changed, grads);
  });
}

void path_integral(int level, const py::object& problem, int64_t part, const py::object& omegas) {
  use_level(level);
  with_type_of(omegas, [&](auto tag) {
    using T = decltype(tag);
    PathTensors<T> lists(problem);
    const auto changed = lists.list("omegas");
    const auto tensors = lists.of(changed);
    lists.for_parts(part, [&](int64_t i, int64_t begin, int64_t end) {
      cpu::path_integral(tensors[i], begin, end);
    });
    lists.write(changed, omegas);
  });
}

}  // namespace

void bind_cpu_consolidation(py::module_& m) {
  m.def("project_gradients", &project_gradients);
  m.def("gem_multipliers", &gem_multipliers);
  m.def("gem_project", &gem_project);
  m.def("quadratic_penalty", &quadratic_penalty);
  m.def("add_penalty_gradients", &add_penalty_gradients);
  m.def("path_integral", &path_integral);
}

}  // namespace clfast::bind
