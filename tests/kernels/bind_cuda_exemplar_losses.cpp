// The launchers of losses and heads of learners with exemplars in the SIMT emulator.
#include "bind_cuda.h"
#include "cuda/exemplar_losses.h"

namespace clfast::bind {
namespace {

void margin_ranking(const py::object& problem, const py::object& loss, const py::object& gradient) {
  with_type_of(gradient, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(gradient, 0), classes = extent(gradient, 1);
    const int64_t count = extent(problem.attr("new_classes"), 0);
    Scratch<uint8_t> is_new(classes);
    Scratch<T> weights(rows), values(rows);
    check_launch(cuda::margin_ranking<T>(
        {field<T>(problem, "cosines", {rows, classes}), field<int64_t>(problem, "labels", {rows}),
         field<int64_t>(problem, "new_classes", {count}), rows, classes, count,
         problem.attr("ranked").cast<int64_t>(), number<T>(problem, "margin")},
        is_new.data(), weights.data(), values.data(), data_of<T>(loss, "loss", {1}),
        data_of<T>(gradient, "gradient", {rows, classes}), nullptr));
  });
}

void cosine_rows(const py::object& problem, const py::object& scaled, const py::object& inverse,
                 const py::object& gradient, const py::object& dots) {
  with_type_of(scaled, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(scaled, 0), dim = extent(scaled, 1);
    const bool plain = problem.attr("factor").is_none();
    const T factor = plain ? T(1) : number<T>(problem, "factor");
    const T* x = field<T>(problem, "rows", {rows, dim});
    T* inverse_lengths = data_of<T>(inverse, "inverse", {rows});
    T* of_rows = data_of<T>(dots, "dots", {rows});
    Scratch<T> sum(1);
    check_launch(cuda::unit_rows<T>(x, rows, dim, plain ? nullptr : &factor,
                                    data_of<T>(scaled, "scaled", {rows, dim}), inverse_lengths,
                                    nullptr));
    check_launch(cuda::unit_rows_gradient<T>(
        x, inverse_lengths, field<T>(problem, "slopes", {rows, dim}), rows, dim,
        plain ? nullptr : &factor, data_of<T>(gradient, "gradient", {rows, dim}), of_rows,
        plain ? nullptr : sum.data(), nullptr));
    double wanted = 0;
    for (int64_t i = 0; i < rows; ++i) wanted += of_rows[i];
    const double off = plain ? 0 : wanted - sum.data()[0];
    if (!(off * off <= 1e-8)) throw std::runtime_error("the sum of the dots is another one");
  });
}

void bias_correct(const py::object& problem, const py::object& out, const py::object& d_logits,
                  const py::object& d_scale, const py::object& d_shift) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(out, 0), classes = extent(out, 1);
    const int64_t count = extent(problem.attr("new_classes"), 0);
    const T scale = number<T>(problem, "factor"), shift = number<T>(problem, "shift");
    const cuda::BiasCorrectProblem<T> p{field<T>(problem, "logits", {rows, classes}),
                                        field<int64_t>(problem, "new_classes", {count}),
                                        rows,
                                        classes,
                                        count,
                                        &scale};
    check_launch(cuda::bias_correct<T>(p, &shift, Scratch<uint8_t>(classes).data(),
                                       data_of<T>(out, "out", {rows, classes}), nullptr));
    check_launch(cuda::bias_correct_gradients<T>(
        p, field<T>(problem, "grad", {rows, classes}), Scratch<uint8_t>(classes).data(),
        Scratch<T>(2 * rows).data(), data_of<T>(d_logits, "d_logits", {rows, classes}),
        data_of<T>(d_scale, "d_scale", {1}), data_of<T>(d_shift, "d_shift", {1}), nullptr));
  });
}

}  // namespace

void bind_cuda_exemplar_losses(py::module_& m) {
  m.def("margin_ranking", &margin_ranking);
  m.def("cosine_rows", &cosine_rows);
  m.def("bias_correct", &bias_correct);
}

}  // namespace clfast::bind
