// The raw CPU kernels of recall on whole problems, in `pieces` ranges. Row weights are made as the
// glue makes them.
#include <vector>

#include "bind_cpu.h"
#include "bind_recall.h"
#include "cpu/divergence.h"
#include "cpu/image_prior.h"
#include "cpu/recall_gradients.h"
#include "cpu/soft_cross_entropy.h"

namespace clfast::bind {
namespace {

template <class Kernel>
void for_pieces(int64_t count, int64_t pieces, const Kernel& kernel) {
  for (int64_t i = 0; i < pieces; ++i) kernel(i * count / pieces, (i + 1) * count / pieces);
}

template <class T>
std::vector<T> row_weights(const py::object& problem, int64_t rows) {
  const int64_t* copies = field_or_null<int64_t>(problem, "multiplicity", {rows});
  double all = 0;
  for (int64_t i = 0; i < rows; ++i) all += copies == nullptr ? 1.0 : double(copies[i]);
  std::vector<T> weights(rows);
  for (int64_t i = 0; i < rows; ++i) {
    weights[i] = static_cast<T>((copies == nullptr ? 1.0 : double(copies[i])) / all);
  }
  return weights;
}

template <class T>
void write_total(double constant, const std::vector<T>& weights, Scratch<T>& values,
                 const py::object& out) {
  for (size_t i = 0; i < weights.size(); ++i) constant += double(weights[i]) * values.data()[i];
  *data_of<T>(out, "loss", {1}) = static_cast<T>(constant);
}

void recall_gradients(int level, const py::object& problem, int64_t pieces, const py::object& loss,
                      const py::object& d_old, const py::object& d_new) {
  use_level(level);
  with_type_of(d_old, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(d_old, 0), classes = extent(d_old, 1);
    const std::vector<T> weights = row_weights<T>(problem, rows);
    const int64_t count = extent(problem.attr("present"), 0);
    const int64_t* listed = field<int64_t>(problem, "present", {count});
    const int64_t width = cpu::padded_classes(classes);
    Scratch<T> present(width, 0), slopes(width, 0);
    for (int64_t i = 0; i < count; ++i) present.data()[listed[i]] += T(1) / static_cast<T>(count);
    const cpu::RecallProblem<T> p{field<T>(problem, "old_logits", {rows, classes}),
                                  field<T>(problem, "new_logits", {rows, classes}),
                                  rows,
                                  classes,
                                  weights.data(),
                                  present.data(),
                                  number<T>(problem, "divergence_weight"),
                                  number<T>(problem, "not_local_old"),
                                  number<T>(problem, "not_local_new"),
                                  number<T>(problem, "diversity"),
                                  number<T>(problem, "sharpness"),
                                  divergence_of(problem)};
    Scratch<T> softmaxes(6 * rows), terms(classes), values(rows);
    const cpu::RecallState<T> state{softmaxes.data(), slopes.data()};
    T* old_out = data_of<T>(d_old, "d_old", {rows, classes});
    T* new_out = data_of<T>(d_new, "d_new", {rows, classes});
    for_pieces(rows, pieces, [&](int64_t begin, int64_t end) {
      cpu::recall_predictions(p, begin, end, state, old_out, new_out);
    });
    for_pieces(classes, pieces, [&](int64_t begin, int64_t end) {
      cpu::recall_diversity(p, begin, end, old_out, state, terms.data());
    });
    for_pieces(rows, pieces, [&](int64_t begin, int64_t end) {
      cpu::recall_gradients(p, begin, end, Scratch<T>(cpu::recall_scratch(classes)).data(), state,
                            old_out, new_out, values.data());
    });
    double constant = p.divergence_weight;
    for (int64_t i = 0; i < classes; ++i) constant += double(p.diversity) * terms.data()[i];
    write_total(constant, weights, values, loss);
  });
}

void divergence(int level, const py::object& problem, int64_t pieces, const py::object& values,
                const py::object& d_p, const py::object& d_q) {
  use_level(level);
  with_type_of(d_p, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(d_p, 0), classes = extent(d_p, 1);
    for_pieces(rows, pieces, [&](int64_t begin, int64_t end) {
      cpu::divergence(field<T>(problem, "p_logits", {rows, classes}),
                      field<T>(problem, "q_logits", {rows, classes}), classes,
                      divergence_of(problem), begin, end,
                      Scratch<T>(cpu::divergence_scratch(classes)).data(),
                      data_of<T>(values, "values", {rows}), data_of<T>(d_p, "d_p", {rows, classes}),
                      data_of<T>(d_q, "d_q", {rows, classes}));
    });
  });
}

void soft_cross_entropy(int level, const py::object& problem, int64_t pieces,
                        const py::object& loss, const py::object& gradient) {
  use_level(level);
  with_type_of(gradient, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(gradient, 0), width = extent(gradient, 1);
    const int64_t classes = extent(problem.attr("target_logits"), 1);
    const std::vector<T> weights = row_weights<T>(problem, rows);
    Scratch<T> values(rows);
    const cpu::SoftCrossEntropyProblem<T> p{field<T>(problem, "logits", {rows, width}),
                                            field<T>(problem, "target_logits", {rows, classes}),
                                            classes,
                                            width,
                                            weights.data(),
                                            T(1) / number<T>(problem, "temperature"),
                                            problem.attr("less_entropy").cast<bool>()};
    for_pieces(rows, pieces, [&](int64_t begin, int64_t end) {
      cpu::soft_cross_entropy(p, begin, end,
                              Scratch<T>(cpu::soft_cross_entropy_scratch(classes)).data(),
                              values.data(), data_of<T>(gradient, "gradient", {rows, width}));
    });
    write_total(0.0, weights, values, loss);
  });
}

void image_prior(int level, const py::object& problem, int64_t pieces, const py::object& value,
                 const py::object& gradient) {
  use_level(level);
  with_type_of(gradient, [&](auto tag) {
    using T = decltype(tag);
    const ImagePrior<T> p = prior_of<T>(problem);
    const int64_t count = extent(gradient, 0), size = size_of(p);
    const std::vector<T> weights = row_weights<T>(problem, count);
    Scratch<T> values(count), again(count);
    const T* images = field<T>(problem, "images", {count, size});
    const auto run = [&](T* values_out, T* gradient_out) {
      for_pieces(count, pieces, [&](int64_t begin, int64_t end) {
        cpu::image_prior(p, images, weights.data(), begin, end, values_out, gradient_out);
      });
    };
    run(values.data(), data_of<T>(gradient, "gradient", {count, size}));
    run(again.data(), nullptr);
    if (std::memcmp(values.data(), again.data(), count * sizeof(T)) != 0) {
      throw std::runtime_error("the value hangs on whether the gradient is wanted");
    }
    write_total(0.0, weights, values, value);
  });
}

void recall_step(int level, const py::object& problem, int64_t pieces, const py::object& out) {
  use_level(level);
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const ImagePrior<T> p = prior_of<T>(problem);
    const int64_t count = extent(out, 0), size = size_of(p);
    const std::vector<T> weights = row_weights<T>(problem, count);
    std::vector<T> rates(count, number<T>(problem, "lr"));
    const int64_t* copies = field_or_null<int64_t>(problem, "multiplicity", {count});
    const bool per_copy = problem.attr("per_copy").cast<bool>() && copies != nullptr;
    for (int64_t i = 0; per_copy && i < count; ++i) rates[i] /= static_cast<T>(copies[i]);
    T* images = data_of<T>(out, "images", {count, size});
    std::copy_n(field<T>(problem, "images", {count, size}), count * size, images);
    for_pieces(count, pieces, [&](int64_t begin, int64_t end) {
      cpu::recall_step(p, field<T>(problem, "grad", {count, size}), weights.data(), rates.data(),
                       begin, end, Scratch<T>(cpu::recall_step_scratch(p)).data(), images);
    });
  });
}

}  // namespace

void bind_cpu_recall(py::module_& m) {
  m.def("recall_gradients", &recall_gradients);
  m.def("divergence", &divergence);
  m.def("soft_cross_entropy", &soft_cross_entropy);
  m.def("image_prior", &image_prior);
  m.def("recall_step", &recall_step);
}

}  // namespace clfast::bind
