// The raw CPU kernels of adaptation on queries [begin, end) of a problem. They return None, or the
// first neighbour that is at fault: (what, query, neighbour).
#include <cmath>

#include "bind_cpu.h"
#include "cpu/hebb_logits.h"
#include "cpu/hebbian_update.h"
#include "cpu/mbpa_update.h"
#include "cpu/mixture_log_probs.h"

namespace clfast::bind {
namespace {

py::object report(const Finding& finding) {
  const char* names[] = {"none", "index", "distance", "closeness", "label"};
  if (finding.fault == Fault::kNone) return py::none();
  return py::make_tuple(names[static_cast<int>(finding.fault)], finding.query, finding.neighbour);
}

py::object hebbian_update(int level, const py::object& problem, int64_t begin, int64_t end,
                          const py::object& delta_weight, const py::object& delta_bias) {
  use_level(level);
  return with_type_of(delta_weight, [&](auto tag) {
    using T = decltype(tag);
    const Neighbourhood<T> n = neighbourhood_of<T>(problem);
    const int64_t batch = batch_of(problem), classes = n.num_classes;
    return report(
        cpu::hebbian_update(n, field_or_null<bool>(problem, "select", {classes}), begin, end,
                            Scratch<T>(n.dim + classes + n.neighbours).data(),
                            data_of<T>(delta_weight, "delta_weight", {batch, classes, n.dim}),
                            data_of<T>(delta_bias, "delta_bias", {batch, classes})));
  });
}

template <class T>
cpu::MbpaProblem<T> mbpa_of(const py::object& problem) {
  const Neighbourhood<T> n = neighbourhood_of<T>(problem);
  return {n,
          field<T>(problem, "weight", {n.num_classes, n.dim}),
          field_or_null<T>(problem, "bias", {n.num_classes}),
          problem.attr("steps").cast<int64_t>(),
          number<T>(problem, "lr"),
          optimizer_of(problem)};
}

py::object mbpa_update(int level, const py::object& problem, int64_t begin, int64_t end,
                       const py::object& delta_weight, const py::object& delta_bias) {
  use_level(level);
  return with_type_of(delta_weight, [&](auto tag) {
    using T = decltype(tag);
    const cpu::MbpaProblem<T> p = mbpa_of<T>(problem);
    const int64_t batch = batch_of(problem), classes = p.neighbourhood.num_classes;
    return report(cpu::mbpa_update(
        p, begin, end, Scratch<T>(cpu::mbpa_scratch(p)).data(),
        data_of<T>(delta_weight, "delta_weight", {batch, classes, p.neighbourhood.dim}),
        data_of<T>(delta_bias, "delta_bias", {batch, classes})));
  });
}

py::object hebb_logits(int level, const py::object& problem, int64_t begin, int64_t end,
                       const py::object& out) {
  use_level(level);
  return with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const cpu::MbpaProblem<T> mbpa = mbpa_of<T>(problem);
    const Neighbourhood<T>& n = mbpa.neighbourhood;
    const int64_t batch = batch_of(problem), classes = n.num_classes;
    const cpu::HebbLogitsProblem<T> p{mbpa,
                                      field<T>(problem, "queries", {batch, n.dim}),
                                      field<T>(problem, "base_logits", {batch, classes}),
                                      field_or_null<T>(problem, "base_bias", {classes}),
                                      field<T>(problem, "interpolation", {classes}),
                                      number<T>(problem, "eta"),
                                      field_or_null<bool>(problem, "select", {classes}),
                                      field_or_null<T>(problem, "key_sq_norms", {n.memory_size})};
    return report(cpu::hebb_logits(p, begin, end, Scratch<T>(cpu::hebb_logits_scratch(p)).data(),
                                   data_of<T>(out, "out", {batch, classes})));
  });
}

py::object mixture_log_probs(int level, const py::object& problem, int64_t begin, int64_t end,
                             const py::object& out) {
  use_level(level);
  return with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const Neighbourhood<T> n = neighbourhood_of<T>(problem);
    const int64_t batch = batch_of(problem), classes = n.num_classes;
    const double gamma = number<double>(problem, "gamma");
    const cpu::MixtureProblem<T> p{n,
                                   field<T>(problem, "logits", {batch, classes}),
                                   field<T>(problem, "queries", {batch, n.dim}),
                                   number<T>(problem, "theta"),
                                   static_cast<T>(std::log(gamma)),
                                   static_cast<T>(std::log1p(-gamma)),
                                   problem.attr("joint").cast<bool>(),
                                   field_or_null<T>(problem, "key_sq_norms", {n.memory_size})};
    return report(cpu::mixture_log_probs(p, begin, end,
                                         Scratch<T>(n.dim + 2 * (n.neighbours + classes)).data(),
                                         data_of<T>(out, "out", {batch, classes})));
  });
}

}  // namespace

void bind_cpu_adaptation(py::module_& m) {
  m.def("hebbian_update", &hebbian_update);
  m.def("mbpa_update", &mbpa_update);
  m.def("hebb_logits", &hebb_logits);
  m.def("mixture_log_probs", &mixture_log_probs);
}

}  // namespace clfast::bind
