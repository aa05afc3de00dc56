// The raw CPU kernels of exemplars on whole problems, in `pieces` ranges.
#include "bind_cpu.h"
#include "cpu/herding_picks.h"

namespace clfast::bind {
namespace {

// ---- herding ----

// Whether the features could be scored; one class, whose members are `members`.
bool herding(int level, const py::object& features, const py::object& members, int64_t m,
             int64_t pieces, const py::object& picks) {
  use_level(level);
  const int64_t rows = extent(features, 0), dim = extent(features, 1);
  const int64_t count = extent(members, 0), chunks = cpu::herding_chunks(count);
  const int64_t padded = cpu::padded_members(count);
  return with_type_of(features, [&](auto tag) {
    using T = decltype(tag);
    Scratch<double> sums(chunks * dim), best(chunks), sq_norms(padded), scores(padded);
    Scratch<double> mean(dim), target(dim);
    Scratch<T> packed(padded * dim), rounded(dim);
    const auto in_pieces = [&](int64_t all, const auto& work) {
      for (int64_t i = pieces - 1; i >= 0; --i) work(i * all / pieces, (i + 1) * all / pieces);
    };
    return cpu::herding_picks<T>({data_of<const T>(features, "features", {rows, dim}),
                                  data_of<const int64_t>(members, "members", {count}), count, dim},
                                 m,
                                 {packed.data(), sq_norms.data(), scores.data(), sums.data(),
                                  best.data(), mean.data(), target.data(), rounded.data()},
                                 in_pieces, data_of<int64_t>(picks, "picks", {m}));
  });
}

}  // namespace

void bind_cpu_exemplars(py::module_& m) { m.def("herding", &herding); }

}  // namespace clfast::bind
