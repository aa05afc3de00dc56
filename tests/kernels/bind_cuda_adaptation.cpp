// The launchers of adaptation in the SIMT emulator. `chunk` is how many queries go at a time.
#include <cmath>

#include "bind_cuda.h"
#include "cuda/adaptation.h"

namespace clfast::bind {
namespace {

template <class T>
class ResolvedScratch {
 public:
  ResolvedScratch(int64_t batch, int64_t neighbours)
      : rows_(batch * neighbours), labels_(batch * neighbours), closeness_(batch * neighbours) {}
  cuda::Resolved<T> view() { return {rows_.data(), labels_.data(), closeness_.data()}; }

 private:
  Scratch<int64_t> rows_, labels_;
  Scratch<T> closeness_;
};

template <class T>
class LayerScratch {
 public:
  LayerScratch(const Neighbourhood<T>& n, int64_t chunk)
      : chunk_(chunk),
        weight_(chunk * n.num_classes * n.dim),
        weight_state_(chunk * n.num_classes * n.dim),
        bias_(chunk * n.num_classes),
        bias_state_(chunk * n.num_classes),
        logits_(chunk * n.neighbours * n.num_classes) {}
  cuda::MbpaScratch<T> view() {
    return {chunk_,       weight_.data(),     weight_state_.data(),
            bias_.data(), bias_state_.data(), logits_.data()};
  }

 private:
  int64_t chunk_;
  Scratch<T> weight_, weight_state_, bias_, bias_state_, logits_;
};

void hebbian_update(const py::object& problem, const py::object& delta_weight,
                    const py::object& delta_bias) {
  with_type_of(delta_weight, [&](auto tag) {
    using T = decltype(tag);
    const Neighbourhood<T> n = neighbourhood_of<T>(problem);
    const int64_t batch = batch_of(problem), classes = n.num_classes;
    ResolvedScratch<T> resolved(batch, n.neighbours);
    check_launch(cuda::hebbian_update<T>(
        n, batch, field_or_null<bool>(problem, "select", {classes}), resolved.view(),
        data_of<T>(delta_weight, "delta_weight", {batch, classes, n.dim}),
        data_of<T>(delta_bias, "delta_bias", {batch, classes}), nullptr));
  });
}

template <class T>
cuda::MbpaProblem<T> mbpa_of(const py::object& problem) {
  const Neighbourhood<T> n = neighbourhood_of<T>(problem);
  return {n,
          batch_of(problem),
          field<T>(problem, "weight", {n.num_classes, n.dim}),
          field_or_null<T>(problem, "bias", {n.num_classes}),
          problem.attr("steps").cast<int64_t>(),
          number<T>(problem, "lr"),
          optimizer_of(problem)};
}

void mbpa_update(const py::object& problem, int64_t chunk, const py::object& delta_weight,
                 const py::object& delta_bias) {
  with_type_of(delta_weight, [&](auto tag) {
    using T = decltype(tag);
    const cuda::MbpaProblem<T> p = mbpa_of<T>(problem);
    const Neighbourhood<T>& n = p.neighbourhood;
    ResolvedScratch<T> resolved(p.batch, n.neighbours);
    LayerScratch<T> layers(n, chunk);
    check_launch(cuda::mbpa_update<T>(
        p, resolved.view(), layers.view(),
        data_of<T>(delta_weight, "delta_weight", {p.batch, n.num_classes, n.dim}),
        data_of<T>(delta_bias, "delta_bias", {p.batch, n.num_classes}), nullptr));
  });
}

void hebb_logits(const py::object& problem, int64_t chunk, const py::object& out) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const cuda::MbpaProblem<T> mbpa = mbpa_of<T>(problem);
    const Neighbourhood<T>& n = mbpa.neighbourhood;
    const int64_t batch = mbpa.batch, classes = n.num_classes;
    const cuda::HebbLogitsProblem<T> p{mbpa,
                                       field<T>(problem, "queries", {batch, n.dim}),
                                       field<T>(problem, "base_logits", {batch, classes}),
                                       field_or_null<T>(problem, "base_bias", {classes}),
                                       field<T>(problem, "interpolation", {classes}),
                                       number<T>(problem, "eta"),
                                       field_or_null<bool>(problem, "select", {classes}),
                                       field_or_null<T>(problem, "key_sq_norms", {n.memory_size})};
    ResolvedScratch<T> resolved(batch, n.neighbours);
    LayerScratch<T> layers(n, mbpa.steps > 0 ? chunk : 0);
    Scratch<T> dots(batch * n.neighbours);
    check_launch(cuda::hebb_logits<T>(p, resolved.view(), layers.view(), dots.data(),
                                      data_of<T>(out, "out", {batch, classes}), nullptr));
  });
}

void mixture_log_probs(const py::object& problem, const py::object& out) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const Neighbourhood<T> n = neighbourhood_of<T>(problem);
    const int64_t batch = batch_of(problem), classes = n.num_classes;
    const double gamma = number<double>(problem, "gamma");
    const cuda::MixtureProblem<T> p{n,
                                    batch,
                                    field<T>(problem, "logits", {batch, classes}),
                                    field<T>(problem, "queries", {batch, n.dim}),
                                    number<T>(problem, "theta"),
                                    static_cast<T>(std::log(gamma)),
                                    static_cast<T>(std::log1p(-gamma)),
                                    problem.attr("joint").cast<bool>(),
                                    field_or_null<T>(problem, "key_sq_norms", {n.memory_size})};
    ResolvedScratch<T> resolved(batch, n.neighbours);
    Scratch<T> scores(batch * n.neighbours);
    check_launch(cuda::mixture_log_probs<T>(p, resolved.view(), scores.data(),
                                            data_of<T>(out, "out", {batch, classes}), nullptr));
  });
}

void interpolation_weights(const py::object& counts, double beta, const py::object& out) {
  with_type_of(out, [&](auto tag) {
    using T = decltype(tag);
    const int64_t classes = extent(counts, 0);
    check_launch(cuda::interpolation_weights<T>(data_of<const int64_t>(counts, "counts", {classes}),
                                                classes, beta, data_of<T>(out, "out", {classes}),
                                                nullptr));
  });
}

}  // namespace

void bind_cuda_adaptation(py::module_& m) {
  m.def("hebbian_update", &hebbian_update);
  m.def("mbpa_update", &mbpa_update);
  m.def("hebb_logits", &hebb_logits);
  m.def("mixture_log_probs", &mixture_log_probs);
  m.def("interpolation_weights", &interpolation_weights);
}

}  // namespace clfast::bind
