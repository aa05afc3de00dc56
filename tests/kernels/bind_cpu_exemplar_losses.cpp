// The raw CPU kernels of losses and heads of learners with exemplars, in `pieces` ranges.
#include <vector>

#include "bind_cpu.h"
#include "cpu/bias_correct.h"
#include "cpu/cosine_logits.h"
#include "cpu/margin_ranking.h"

namespace clfast::bind {
namespace {

template <class Kernel>
void for_pieces(int64_t count, int64_t pieces, const Kernel& kernel) {
  for (int64_t i = 0; i < pieces; ++i) kernel(i * count / pieces, (i + 1) * count / pieces);
}

template <class T>
std::vector<T> marks_of(const py::object& problem, int64_t classes) {
  const int64_t count = extent(problem.attr("new_classes"), 0);
  const int64_t* listed = field<int64_t>(problem, "new_classes", {count});
  std::vector<T> marks(classes, T(0));
  for (int64_t j = 0; j < count; ++j) marks[listed[j]] = T(1);
  return marks;
}

void margin_ranking(int level, const py::object& problem, int64_t pieces, const py::object& loss,
                    const py::object& gradient) {
  use_level(level);
  with_type_of(gradient, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(gradient, 0), classes = extent(gradient, 1);
    const int64_t count = extent(problem.attr("new_classes"), 0);
    const int64_t ranked = problem.attr("ranked").cast<int64_t>();
    const std::vector<uint8_t> is_new = marks_of<uint8_t>(problem, classes);
    const int64_t* labels = field<int64_t>(problem, "labels", {rows});
    int64_t old = 0;
    for (int64_t i = 0; i < rows; ++i) old += is_new[labels[i]] == 0;
    const T weight = old * ranked > 0 ? T(1) / static_cast<T>(old * ranked) : T(0);
    const cpu::MarginRankingProblem<T> p{field<T>(problem, "cosines", {rows, classes}),
                                         labels,
                                         field<int64_t>(problem, "new_classes", {count}),
                                         is_new.data(),
                                         classes,
                                         count,
                                         ranked,
                                         number<T>(problem, "margin"),
                                         weight};
    Scratch<T> values(rows);
    for_pieces(rows, pieces, [&](int64_t begin, int64_t end) {
      cpu::margin_ranking(p, begin, end, Scratch<int64_t>(ranked).data(), values.data(),
                          data_of<T>(gradient, "gradient", {rows, classes}));
    });
    double sum = 0;
    for (int64_t i = 0; i < rows; ++i) sum += double(weight) * values.data()[i];
    *data_of<T>(loss, "loss", {1}) = static_cast<T>(sum);
  });
}

void cosine_rows(int level, const py::object& problem, int64_t pieces, const py::object& scaled,
                 const py::object& inverse, const py::object& gradient, const py::object& dots) {
  use_level(level);
  with_type_of(scaled, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(scaled, 0), dim = extent(scaled, 1);
    const T factor = problem.attr("factor").is_none() ? T(1) : number<T>(problem, "factor");
    const T* x = field<T>(problem, "rows", {rows, dim});
    T* inverse_lengths = data_of<T>(inverse, "inverse", {rows});
    for_pieces(rows, pieces, [&](int64_t begin, int64_t end) {
      cpu::unit_rows(x, dim, begin, end, factor, data_of<T>(scaled, "scaled", {rows, dim}),
                     inverse_lengths);
      cpu::unit_rows_gradient(x, inverse_lengths, field<T>(problem, "slopes", {rows, dim}), dim,
                              begin, end, factor, data_of<T>(gradient, "gradient", {rows, dim}),
                              data_of<T>(dots, "dots", {rows}));
    });
  });
}

void bias_correct(int level, const py::object& problem, int64_t pieces, const py::object& out,
                  const py::object& d_logits, const py::object& d_scale,
                  const py::object& d_shift) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(out, 0), classes = extent(out, 1);
    const std::vector<T> is_new = marks_of<T>(problem, classes);
    Scratch<T> factors(classes), offsets(classes), sums(2 * rows);
    for (int64_t c = 0; c < classes; ++c) {
      factors.data()[c] = is_new[c] != 0 ? number<T>(problem, "factor") : T(1);
      offsets.data()[c] = is_new[c] != 0 ? number<T>(problem, "shift") : T(-0.0);
    }
    const T* logits = field<T>(problem, "logits", {rows, classes});
    for_pieces(rows, pieces, [&](int64_t begin, int64_t end) {
      cpu::bias_correct(logits, factors.data(), offsets.data(), classes, begin, end,
                        data_of<T>(out, "out", {rows, classes}));
      cpu::bias_correct_gradients(field<T>(problem, "grad", {rows, classes}), logits,
                                  factors.data(), is_new.data(), classes, begin, end,
                                  data_of<T>(d_logits, "d_logits", {rows, classes}), sums.data());
    });
    double of_scale = 0, of_shift = 0;
    for (int64_t i = 0; i < rows; ++i) {
      of_scale += sums.data()[2 * i], of_shift += sums.data()[2 * i + 1];
    }
    *data_of<T>(d_scale, "d_scale", {1}) = static_cast<T>(of_scale);
    *data_of<T>(d_shift, "d_shift", {1}) = static_cast<T>(of_shift);
  });
}

}  // namespace

void bind_cpu_exemplar_losses(py::module_& m) {
  m.def("margin_ranking", &margin_ranking);
  m.def("cosine_rows", &cosine_rows);
  m.def("bias_correct", &bias_correct);
}

}  // namespace clfast::bind
