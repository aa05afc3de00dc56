#include "../optimizers.h"

#include "../../kernels/cpu/masked_step.h"
#include "list_parts.h"

namespace clfast::ops {
namespace {

void sgd(const char*, const MaskedLists& in, const SgdOptions& options) {
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<SgdTensor<T>> tensors = sgd_tensors<T>(in);
    const SgdStep<T> step = options.step(clip_of<T>(in));
    for_parts(parts_of(in.params), [&](int64_t, const Part& part) {
      cpu::masked_sgd_step(tensors[part.tensor], step, part.begin, part.end);
    });
  });
}

void adam(const char*, const MaskedLists& in, const AdamOptions& options,
          const std::vector<int64_t>& steps) {
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<AdamTensor<T>> tensors = adam_tensors<T>(in, options, steps);
    const AdamStep<T> step = options.step(clip_of<T>(in));
    for_parts(parts_of(in.params), [&](int64_t, const Part& part) {
      cpu::masked_adam_step(tensors[part.tensor], step, part.begin, part.end);
    });
  });
}

// A term a part, whatever the threads.
Tensor norm(const char*, const MaskedLists& in) {
  Tensor out = new_tensor(in.grads[0], {}, ScalarType::Double);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<Part> parts = parts_of(in.grads);
    const std::vector<MaskedGrad<T>> tensors = grad_tensors<T>(in);
    std::vector<double> terms(parts.size());
    for_parts(parts, [&](int64_t i, const Part& part) {
      terms[i] = cpu::masked_sq_norm(tensors[part.tensor], part.begin, part.end);
    });
    double sum = 0;
    for (const double term : terms) sum += term;
    *out.mutable_data_ptr<double>() = std::sqrt(sum);
  });
  return out;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CPU, m) {
  m.impl("masked_sgd_step_", TORCH_BOX(&clfast::ops::masked_sgd_step_<clfast::ops::sgd>));
  m.impl("masked_adam_step_", TORCH_BOX(&clfast::ops::masked_adam_step_<clfast::ops::adam>));
  m.impl("masked_grad_norm", TORCH_BOX(&clfast::ops::masked_grad_norm<clfast::ops::norm>));
}
