// The launchers of recall in the SIMT emulator.
#include "bind_cuda.h"
#include "bind_recall.h"
#include "cuda/recall.h"

namespace clfast::bind {
namespace {

void recall_gradients(const py::object& problem, const py::object& loss, const py::object& d_old,
                      const py::object& d_new) {
  with_type_of(d_old, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(d_old, 0), classes = extent(d_old, 1);
    const int64_t count = extent(problem.attr("present"), 0);
    Scratch<T> weights(rows), values(rows), log_sums(4 * rows), slopes(classes), terms(classes);
    Scratch<int32_t> counts(classes);
    Scratch<int64_t> sharpest(rows);
    check_launch(cuda::recall_gradients<T>(
        {field<T>(problem, "old_logits", {rows, classes}),
         field<T>(problem, "new_logits", {rows, classes}), rows, classes,
         field_or_null<int64_t>(problem, "multiplicity", {rows}),
         field<int64_t>(problem, "present", {count}), count,
         number<T>(problem, "divergence_weight"), number<T>(problem, "not_local_old"),
         number<T>(problem, "not_local_new"), number<T>(problem, "diversity"),
         number<T>(problem, "sharpness"), divergence_of(problem)},
        {weights.data(), values.data(), log_sums.data(), slopes.data(), terms.data(), counts.data(),
         sharpest.data()},
        data_of<T>(loss, "loss", {1}), data_of<T>(d_old, "d_old", {rows, classes}),
        data_of<T>(d_new, "d_new", {rows, classes}), nullptr));
  });
}

void divergence(const py::object& problem, const py::object& values, const py::object& d_p,
                const py::object& d_q) {
  with_type_of(d_p, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(d_p, 0), classes = extent(d_p, 1);
    check_launch(cuda::divergence<T>(field<T>(problem, "p_logits", {rows, classes}),
                                     field<T>(problem, "q_logits", {rows, classes}), rows, classes,
                                     divergence_of(problem), data_of<T>(values, "values", {rows}),
                                     data_of<T>(d_p, "d_p", {rows, classes}),
                                     data_of<T>(d_q, "d_q", {rows, classes}), nullptr));
  });
}

void soft_cross_entropy(const py::object& problem, const py::object& loss,
                        const py::object& gradient) {
  with_type_of(gradient, [&](auto tag) {
    using T = decltype(tag);
    const int64_t rows = extent(gradient, 0), width = extent(gradient, 1);
    const int64_t classes = extent(problem.attr("target_logits"), 1);
    Scratch<T> weights(rows), values(rows);
    check_launch(cuda::soft_cross_entropy<T>(
        {field<T>(problem, "logits", {rows, width}),
         field<T>(problem, "target_logits", {rows, classes}), rows, classes, width,
         field_or_null<int64_t>(problem, "multiplicity", {rows}),
         T(1) / number<T>(problem, "temperature"), problem.attr("less_entropy").cast<bool>(),
         number<T>(problem, "factor")},
        weights.data(), values.data(), data_of<T>(loss, "loss", {1}),
        data_of<T>(gradient, "gradient", {rows, width}), nullptr));
  });
}

template <class T>
class PriorScratch {
 public:
  PriorScratch(int64_t count, int64_t size)
      : weights_(count),
        norms_(count),
        values_(count),
        sums_(2 * count * cuda::parts_of_image(size)) {}
  cuda::ImagePriorScratch<T> view() {
    return {weights_.data(), norms_.data(), values_.data(), sums_.data()};
  }

 private:
  Scratch<T> weights_, norms_, values_;
  Scratch<double> sums_;
};

void image_prior(const py::object& problem, const py::object& value, const py::object& gradient) {
  with_type_of(gradient, [&](auto tag) {
    using T = decltype(tag);
    const ImagePrior<T> p = prior_of<T>(problem);
    const int64_t count = extent(gradient, 0), size = size_of(p);
    PriorScratch<T> scratch(count, size);
    check_launch(cuda::image_prior<T>(p, field<T>(problem, "images", {count, size}), count,
                                      field_or_null<int64_t>(problem, "multiplicity", {count}),
                                      scratch.view(), data_of<T>(value, "value", {1}),
                                      data_of<T>(gradient, "gradient", {count, size}), nullptr));
  });
}

void recall_step(const py::object& problem, const py::object& out) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const ImagePrior<T> p = prior_of<T>(problem);
    const int64_t count = extent(out, 0), size = size_of(p);
    PriorScratch<T> scratch(count, size);
    Scratch<T> before(count * size);
    T* images = data_of<T>(out, "images", {count, size});
    std::copy_n(field<T>(problem, "images", {count, size}), count * size, images);
    check_launch(cuda::recall_step<T>(
        p, field<T>(problem, "grad", {count, size}), count, number<T>(problem, "lr"),
        field_or_null<int64_t>(problem, "multiplicity", {count}),
        problem.attr("per_copy").cast<bool>(), scratch.view(), before.data(), images, nullptr));
  });
}

}  // namespace

void bind_cuda_recall(py::module_& m) {
  m.def("recall_gradients", &recall_gradients);
  m.def("divergence", &divergence);
  m.def("soft_cross_entropy", &soft_cross_entropy);
  m.def("image_prior", &image_prior);
  m.def("recall_step", &recall_step);
}

}  // namespace clfast::bind
