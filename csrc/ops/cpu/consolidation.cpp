#include "../consolidation.h"

#include <vector>

#include "../../kernels/common/gem_program.h"
#include "../../kernels/cpu/gem_project.h"
#include "../../kernels/cpu/path_integral.h"
#include "../../kernels/cpu/project_gradients.h"
#include "../../kernels/cpu/quadratic_penalty.h"
#include "list_parts.h"

namespace clfast::ops {
namespace {

// A sum has one term a span of the row of all elements, whatever the threads; a thread takes four
// spans or more.
constexpr int64_t kSpan = 8192;

template <class T>
InnerProducts inner_products(const GradientLists<T>& lists, int64_t elements) {
  const int64_t spans = (elements + kSpan - 1) / kSpan;
  std::vector<InnerProducts> parts(spans);
  torch::stable::parallel_for(0, spans, 4, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      parts[i] = cpu::inner_products(lists, i * kSpan, std::min(elements, (i + 1) * kSpan));
    }
  });
  InnerProducts sums{0, 0};
  for (const InnerProducts& part : parts) {
    sums.dot += part.dot;
    sums.sq_norm += part.sq_norm;
  }
  return sums;
}

template <class T>
void raise_on_nan_products(const char* op, const InnerProducts& sums, const ListInputs& in) {
  if (std::isfinite(sums.dot) && std::isfinite(sums.sq_norm)) return;
  for (size_t i = 0; i < in.grads.size(); ++i) {
    CLFAST_CHECK(!holds_nan<T>(in.grads[i]), op, ": ", Entry{"grads", i}, " holds NaN");
    CLFAST_CHECK(!holds_nan<T>(in.reference[i]), op, ": ", Entry{"reference", i}, " holds NaN");
  }
  CLFAST_CHECK(false, op, ": grads or reference hold infinities, or their products overflow");
}

void project_gradients_(std::vector<Tensor> grads, std::vector<Tensor> reference) {
  const char* op = "project_gradients_";
  const ListInputs in = check_projection(op, grads, reference);
  const int64_t elements = in.elements();
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const ListPointers<T> pointers(in);
    const GradientLists<T> lists = pointers.view();
    const InnerProducts sums = inner_products(lists, elements);
    raise_on_nan_products<T>(op, sums, in);
    const double scale = projection_scale(sums);
    if (scale == 0) return;
    torch::stable::parallel_for(0, elements, 4 * kSpan, [&](int64_t begin, int64_t end) {
      cpu::subtract_scaled(lists, scale, begin, end);
    });
    write_back(grads, in.grads);
  });
}

// kernel(begin, end, scratch, sums) over parts of the columns, and the sum of their `size` sums.
// How many parts there are hangs on the sizes alone.
template <class Kernel>
std::vector<double> sums_over_columns(const GemInputs& in, int64_t size, const Kernel& kernel) {
  const int64_t most = std::clamp<int64_t>((int64_t{1} << 22) / (size > 0 ? size : 1), 1, 64);
  const int64_t parts = std::clamp<int64_t>(in.columns / (4 * cpu::kGemColumns), 1, most);
  std::vector<double> sums(parts * size);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> scratch(cpu::gem_gradients_scratch(in.tasks));
    for (int64_t i = begin; i < end; ++i) {
      kernel(i * in.columns / parts, (i + 1) * in.columns / parts, scratch.data(),
             sums.data() + i * size);
    }
  });
  for (int64_t i = 1; i < parts; ++i) {
    for (int64_t k = 0; k < size; ++k) sums[k] += sums[i * size + k];
  }
  sums.resize(size);
  return sums;
}

template <class T>
void raise_on_nan_sums(const char* op, const std::vector<double>& sums, const GemInputs& in) {
  if (std::all_of(sums.begin(), sums.end(), [](double sum) { return std::isfinite(sum); })) return;
  CLFAST_CHECK(!holds_nan<T>(in.grad), op, ": grad holds NaN");
  CLFAST_CHECK(!holds_nan<T>(in.memory_grads), op, ": memory_grads holds NaN");
  CLFAST_CHECK(false, op, ": grad or memory_grads hold infinities, or their products overflow");
}

Tensor gem_project(const Tensor& grad, const Tensor& memory_grads, double margin) {
  const char* op = "gem_project";
  const GemInputs in = check_gem(op, grad, memory_grads, margin);
  Tensor out = new_tensor(in.grad, {in.columns}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const cpu::GemGradients<T> g{in.grad.const_data_ptr<T>(), in.memory_grads.const_data_ptr<T>(),
                                 in.tasks, in.columns};
    const auto products_of = [&](int64_t begin, int64_t end, double* scratch, double* sums) {
      cpu::gem_products(g, begin, end, scratch, sums);
    };
    const auto gram_of = [&](int64_t begin, int64_t end, double* scratch, double* sums) {
      cpu::gem_gram(g, begin, end, scratch, sums);
    };
    const std::vector<double> products = sums_over_columns(in, in.tasks, products_of);
    raise_on_nan_sums<T>(op, products, in);
    std::vector<double> multipliers(in.tasks, 0.0);
    if (std::any_of(products.begin(), products.end(), [](double dot) { return dot < 0; })) {
      const std::vector<double> gram = sums_over_columns(in, in.tasks * in.tasks, gram_of);
      raise_on_nan_sums<T>(op, gram, in);
      std::vector<double> scratch(gem_scratch(in.tasks));
      std::vector<int64_t> order(in.tasks);
      gem_multipliers({gram.data(), products.data(), in.tasks, margin}, scratch.data(),
                      order.data(), multipliers.data());
    }
    T* result = out.mutable_data_ptr<T>();
    torch::stable::parallel_for(0, in.columns, 2 * kSpan, [&](int64_t begin, int64_t end) {
      cpu::gem_combine(g, multipliers.data(), begin, end, result);
    });
  });
  return out;
}

template <class T>
void raise_on_nan_penalty(const char* op, double sum, const PenaltyInputs& in) {
  if (!std::isnan(sum)) return;
  for (size_t i = 0; i < in.params.size(); ++i) {
    CLFAST_CHECK(!holds_nan<T>(in.params[i]), op, ": ", Entry{"params", i}, " holds NaN");
    CLFAST_CHECK(!holds_nan<T>(in.anchors[i]), op, ": ", Entry{"anchors", i}, " holds NaN");
    CLFAST_CHECK(!holds_nan<T>(in.importances[i]), op, ": ", Entry{"importances", i}, " holds NaN");
  }
  CLFAST_CHECK(false, op, ": params, anchors or importances hold NaN, or infinities that cancel");
}

// A term a part, whatever the threads.
Tensor penalty(const char* op, const PenaltyInputs& in) {
  Tensor out = new_tensor(in.params[0], {}, in.dtype);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<Part> parts = parts_of(in.params);
    const std::vector<PenaltyTensor<T>> tensors = in.tensors<T>();
    std::vector<double> terms(parts.size());
    for_parts(parts, [&](int64_t i, const Part& part) {
      terms[i] = cpu::quadratic_penalty(tensors[part.tensor], part.begin, part.end);
    });
    double sum = 0;
    for (const double term : terms) sum += term;
    raise_on_nan_penalty<T>(op, sum, in);
    *out.mutable_data_ptr<T>() = static_cast<T>(sum);
  });
  return out;
}

void add_penalty(const char*, const PenaltyInputs& in, double strength) {
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<PenaltyTensor<T>> tensors = in.tensors<T>();
    for_parts(parts_of(in.params), [&](int64_t, const Part& part) {
      cpu::add_penalty_gradient(tensors[part.tensor], static_cast<T>(strength), part.begin,
                                part.end);
    });
  });
}

void path_integral(const char*, const PathInputs& in) {
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<PathTensor<T>> tensors = in.tensors<T>();
    for_parts(parts_of(in.omegas), [&](int64_t, const Part& part) {
      cpu::path_integral(tensors[part.tensor], part.begin, part.end);
    });
  });
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("project_gradients_", TORCH_BOX(&clfast::ops::project_gradients_));
  m.impl("gem_project", TORCH_BOX(&clfast::ops::gem_project));
  m.impl("quadratic_penalty", TORCH_BOX(&clfast::ops::quadratic_penalty<clfast::ops::penalty>));
  m.impl("add_penalty_gradients_",
         TORCH_BOX(&clfast::ops::add_penalty_gradients_<clfast::ops::add_penalty>));
  m.impl("path_integral_", TORCH_BOX(&clfast::ops::path_integral_<clfast::ops::path_integral>));
}
