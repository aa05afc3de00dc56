// The raw CPU kernels of retrieval, each with the SIMD level it shall run at.
#include "bind_cpu.h"

#include <numeric>

#include "cpu/amx.h"
#include "cpu/class_means.h"
#include "cpu/knn_search.h"
#include "cpu/nearest_class_mean.h"
#include "cpu/rows.h"
#if CLFAST_HAS_AMX
#include "amx_emulator.h"
#endif

namespace clfast::bind {

namespace {
constexpr int kEmulatedAmx = static_cast<int>(cpu::Simd::kAmx) + 1;  // with vectors of AVX2
}

void use_level(int level) {
#if CLFAST_HAS_AMX
  const bool emulated = level == kEmulatedAmx && cpu::best_simd_level() >= cpu::Simd::kAvx2;
  if (emulated) {
    emulate_amx();
    level = static_cast<int>(cpu::Simd::kAvx2);
  }
  cpu::set_amx_emulated(emulated);
#endif
  if (level < 0 || level > static_cast<int>(cpu::best_simd_level())) {
    throw py::value_error("this processor has no such SIMD level");
  }
  cpu::set_simd_level(static_cast<cpu::Simd>(level));
}

namespace {

using Array = py::object;

// Rows `indices`, or rows [begin, begin + count) when it is None.
const int64_t* indices_of(const Array& indices, int64_t count) {
  return indices.is_none() ? nullptr : data_of<const int64_t>(indices, "indices", {count});
}

void sq_distances(int level, const Array& query, const Array& rows, const Array& indices,
                  int64_t begin, const Array& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t count = extent(out, 0), dim = extent(rows, 1);
    cpu::sq_distances(data_of<const T>(query, "query", {dim}), rows_of(rows, "rows"),
                      indices_of(indices, count), begin, count, dim, Scratch<T>(dim).data(),
                      data_of<T>(out, "out", {count}));
  });
}

void dots(int level, const Array& query, const Array& rows, const Array& indices, int64_t begin,
          const Array& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t count = extent(out, 0), dim = extent(rows, 1);
    cpu::dots(data_of<const T>(query, "query", {dim}), rows_of(rows, "rows"),
              indices_of(indices, count), begin, count, dim, Scratch<T>(dim).data(),
              data_of<T>(out, "out", {count}));
  });
}

void sq_norms(int level, const Array& rows, const Array& indices, int64_t begin, const Array& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t count = extent(out, 0), dim = extent(rows, 1);
    cpu::sq_norms(rows_of(rows, "rows"), indices_of(indices, count), begin, count, dim,
                  Scratch<T>(dim).data(), data_of<T>(out, "out", {count}));
  });
}

// The columns of `out` behind the rows' own are a gap between one row and the next.
void copy_rows(int level, const Array& rows, int64_t begin, const py::object& offset,
               const Array& out, const Array& norms) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t count = extent(out, 0), stride = extent(out, 1), dim = extent(rows, 1);
    const T* taken = offset.is_none() ? nullptr : data_of<const T>(offset, "offset", {dim});
    cpu::copy_rows(rows_of(rows, "rows"), begin, count, dim, taken,
                   data_of<T>(out, "out", {count, stride}), stride,
                   data_of<T>(norms, "norms", {count}));
  });
}

void pack_panels(int level, const Array& rows, const Array& panels) {
  use_level(level);
  with_type_of(panels, [&](auto tag) {
    using T = decltype(tag);
    const int64_t count = extent(rows, 0), dim = extent(rows, 1),
                  width = cpu::panel_columns<T>(cpu::simd_level());
    cpu::pack_panels(cpu::simd_level(), data_of<const T>(rows, "rows", {count, dim}), count, dim,
                     data_of<T>(panels, "panels", {(count + width - 1) / width, dim, width}));
  });
}

int64_t panel_columns(int level, const std::string& dtype) {
  use_level(level);
  return dtype == "float32" ? cpu::panel_columns<float>(cpu::simd_level())
                            : cpu::panel_columns<double>(cpu::simd_level());
}

// The columns of `out` behind the rows' own are a gap between one query and the next.
void all_sq_distances(int level, const Array& queries, const Array& rows, const Array& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t batch = extent(queries, 0), dim = extent(queries, 1), count = extent(rows, 0);
    const T* first = data_of<const T>(queries, "queries", {batch, dim});
    std::vector<const T*> each;
    for (int64_t q = 0; q < batch; ++q) each.push_back(first + q * dim);
    const int64_t stride = extent(out, 1);
    cpu::all_sq_distances(each.data(), batch, data_of<const T>(rows, "rows", {count, dim}), count,
                          dim, data_of<T>(out, "out", {batch, stride}), stride);
  });
}

double knn_cut(int level, const Array& values, int64_t rank) {
  use_level(level);
  double cut = 0;
  with_type_of(values, [&](auto tag) {
    using T = decltype(tag);
    const int64_t count = extent(values, 0);
    cut = cpu::knn_cut(data_of<const T>(values, "values", {count}), count, rank);
  });
  return cut;
}

int64_t knn_select(int level, const Array& values, double limit, const Array& selected) {
  use_level(level);
  int64_t found = 0;
  with_type_of(values, [&](auto tag) {
    using T = decltype(tag);
    const int64_t count = extent(values, 0);
    found = cpu::knn_select(data_of<const T>(values, "values", {count}), count,
                            static_cast<T>(limit), data_of<int32_t>(selected, "selected", {count}));
  });
  return found;
}

void knn(int level, const py::object& problem, int64_t threads, const Array& sq_distances,
         const Array& indices) {
  use_level(level);
  with_type_of(sq_distances, [&](auto tag) {
    using T = decltype(tag);
    const py::object queries = problem.attr("queries"), keys = problem.attr("keys");
    const int64_t batch = extent(queries, 0), rows = extent(keys, 0), dim = extent(keys, 1);
    const int64_t k = problem.attr("k").cast<int64_t>();
    T* distances_out = data_of<T>(sq_distances, "sq_distances", {batch, k});
    int64_t* indices_out = data_of<int64_t>(indices, "indices", {batch, k});
    cpu::KnnProblem<T> searched{
        field<T>(problem, "queries", {batch, dim}), rows_of(keys, "keys"), batch, rows, dim, k};
    const py::object rounded = problem.attr("rounded");
    if (!rounded.is_none()) {
      const auto [bits, offset] = rounded.cast<std::pair<py::object, py::object>>();
      searched.rounded = {reinterpret_cast<const BFloat16Pair*>(data_of<const uint16_t>(
                              bits, "rounded rows", {rows, 2 * rounded_pairs(dim)})),
                          data_of<const float>(offset, "rounded offset", {dim})};
    }
    const auto in_turn = [](int64_t count, const auto& work) { work(0, count); };
    cpu::search_knn(searched, threads, in_turn, distances_out, indices_out);
  });
}

// How many queries a search answers by the way that it takes first, and whether that rounds.
std::pair<bool, int64_t> answered_at_once(int level, const py::object& problem) {
  use_level(level);
  const py::object queries = problem.attr("queries"), keys = problem.attr("keys");
  const int64_t batch = extent(queries, 0), rows = extent(keys, 0), dim = extent(keys, 1);
  const int64_t k = problem.attr("k").cast<int64_t>();
  const cpu::KnnProblem<float> searched{
      field<float>(problem, "queries", {batch, dim}), rows_of(keys, "keys"), batch, rows, dim, k};
  std::vector<int64_t> all(batch);
  std::iota(all.begin(), all.end(), int64_t{0});
  const cpu::KnnWay way = cpu::Knn<float>::first_way(searched);
  cpu::Knn<float> search(searched, all, way, 1);
  cpu::KnnWorkspace<float> workspace;
  for (int64_t i = 0; i < search.openings(); ++i) search.open(i, workspace);
  for (int64_t i = 0; i < search.sweeps(); ++i) search.sweep(i, workspace);
  std::vector<float> distances(k);
  std::vector<int64_t> indices(k);
  int64_t found = 0;
  for (int64_t q = 0; q < batch; ++q) {
    found += search.finish(q, workspace, distances.data(), indices.data());
  }
  return {way == cpu::KnnWay::kRounded, found};
}

void rerank(int level, const Array& query, const Array& keys, const Array& candidates,
            const Array& sq_distances, const Array& indices) {
  use_level(level);
  with_type_of(sq_distances, [&](auto tag) {
    using T = decltype(tag);
    const int64_t dim = extent(query, 0), count = extent(candidates, 0), k = extent(indices, 0);
    cpu::KnnRanking<T> ranking;
    ranking.rerank(data_of<const T>(query, "query", {dim}), rows_of(keys, "keys"), dim,
                   data_of<const int64_t>(candidates, "candidates", {count}), count, k,
                   data_of<T>(sq_distances, "sq_distances", {k}),
                   data_of<int64_t>(indices, "indices", {k}));
  });
}

#if CLFAST_HAS_AMX
// Rows times the columns of a panel, in blocks of the rows that AMX takes at once; level says
// whether it is emulated.
void amx_product(int level, const Array& rows, const Array& panel, const Array& out) {
  use_level(level);
  const int64_t count = extent(rows, 0), pairs = extent(rows, 1), columns = extent(panel, 1);
  const auto pairs_of = [](const Array& array, const char* name, Shape shape) {
    return reinterpret_cast<const BFloat16Pair*>(data_of<const uint32_t>(array, name, shape));
  };
  const cpu::AmxBlock block(count);
  block.multiply(pairs_of(rows, "rows", {count, pairs}), pairs,
                 pairs_of(panel, "panel", {pairs, columns}), columns, pairs,
                 data_of<float>(out, "out", {count, columns}));
}
#endif

void class_mean(int level, const Array& features, const Array& members, bool normalize,
                const Array& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t count = extent(members, 0), dim = extent(features, 1);
    cpu::class_mean(rows_of(features, "features"), dim,
                    data_of<const int64_t>(members, "members", {count}), count, normalize,
                    Scratch<T>(dim).data(), Scratch<double>(dim).data(),
                    data_of<T>(out, "out", {dim}));
  });
}

// Labels [begin, end); the means as panels, or all distances in difference form.
void nearest_class_mean(int level, const Array& features, const Array& means, const Array& classes,
                        bool unit_length, bool packed, int64_t begin, int64_t end,
                        const Array& labels) {
  use_level(level);
  with_type_of(means, [&](auto tag) {
    using T = decltype(tag);
    const int64_t samples = extent(features, 0), dim = extent(features, 1);
    const int64_t count = extent(classes, 0), panel = cpu::panel_columns<T>(cpu::simd_level());
    const int64_t panels = (count + panel - 1) / panel;
    const cpu::NearestMeanProblem<T> problem{
        rows_of(features, "features"),
        data_of<const T>(means, "means", {extent(means, 0), dim}),
        data_of<const int64_t>(classes, "classes", {count}),
        dim,
        count,
        unit_length};
    Scratch<T> columns(panels * panel * dim), norms(count);
    Scratch<T> scratch(cpu::nearest_class_mean_scratch(problem));
    const cpu::PackedMeans<T> means_of{packed ? columns.data() : nullptr, norms.data()};
    if (packed) cpu::pack_means(problem, 0, panels, scratch.data(), means_of);
    cpu::nearest_class_mean(problem, means_of, begin, end, scratch.data(),
                            data_of<int64_t>(labels, "labels", {samples}));
  });
}

}  // namespace
}  // namespace clfast::bind

PYBIND11_MODULE(_cpu_kernels, m) {
  using namespace clfast::bind;
  m.attr("best_level") = static_cast<int>(clfast::cpu::best_simd_level());
  m.attr("EMULATED_AMX") = clfast::bind::kEmulatedAmx;
  m.attr("sanitized") = kSanitized;
  m.def("sq_distances", &sq_distances);
  m.def("dots", &dots);
  m.def("sq_norms", &sq_norms);
  m.def("copy_rows", &copy_rows);
  m.def("pack_panels", &pack_panels);
  m.def("panel_columns", &panel_columns);
  m.def("all_sq_distances", &all_sq_distances);
  m.def("knn_cut", &knn_cut);
  m.def("knn_select", &knn_select);
  m.def("knn", &knn);
  m.def("answered_at_once", &answered_at_once);
  m.def("rerank", &rerank);
#if CLFAST_HAS_AMX
  m.def("amx_product", &amx_product);
#endif
  m.def("class_mean", &class_mean);
  m.def("nearest_class_mean", &nearest_class_mean);
  bind_cpu_adaptation(m);
  bind_cpu_recall(m);
  bind_cpu_consolidation(m);
  bind_cpu_masks(m);
  bind_cpu_optimizers(m);
  bind_cpu_exemplar_losses(m);
  bind_cpu_exemplars(m);
  bind_cpu_perceptron(m);
}
