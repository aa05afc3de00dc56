// The problems of recall_problems.py as the kernels' structs.
#pragma once
#include "bind_problems.h"
#include "common/image_prior.h"
#include "common/recall.h"

namespace clfast::bind {

inline Divergence divergence_of(const py::object& problem) {
  const std::map<std::string, Divergence> kinds = {
      {"ag", Divergence::kAg}, {"js", Divergence::kJs}, {"ce", Divergence::kCe}};
  return kinds.at(problem.attr("divergence").cast<std::string>());
}

template <class T>
ImagePrior<T> prior_of(const py::object& problem) {
  const auto integer = [&](const char* name) { return problem.attr(name).cast<int64_t>(); };
  return {integer("planes"),
          integer("height"),
          integer("row"),
          integer("lag"),
          number<T>(problem, "down"),
          number<T>(problem, "right"),
          number<T>(problem, "norm"),
          problem.attr("absolute").cast<bool>()};
}

}  // namespace clfast::bind
