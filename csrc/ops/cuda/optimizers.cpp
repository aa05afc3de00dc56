#include "../optimizers.h"

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/optimizers.h"

namespace clfast::ops {
namespace {

void sgd(const char* op, const MaskedLists& in, const SgdOptions& options) {
  const DeviceStream stream(in.params[0]);
  const std::vector<int64_t> ends = ends_of(in.params);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<SgdTensor<T>> tensors = sgd_tensors<T>(in);
    check_launch(op, cuda::masked_sgd_step<T>(tensors.data(), ends.data(), ends.size(),
                                              options.step(clip_of<T>(in)), stream));
  });
}

void adam(const char* op, const MaskedLists& in, const AdamOptions& options,
          const std::vector<int64_t>& steps) {
  const DeviceStream stream(in.params[0]);
  const std::vector<int64_t> ends = ends_of(in.params);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<AdamTensor<T>> tensors = adam_tensors<T>(in, options, steps);
    check_launch(op, cuda::masked_adam_step<T>(tensors.data(), ends.data(), ends.size(),
                                               options.step(clip_of<T>(in)), stream));
  });
}

Tensor norm(const char* op, const MaskedLists& in) {
  const DeviceStream stream(in.grads[0]);
  const std::vector<int64_t> ends = ends_of(in.grads);
  Tensor out = new_tensor(in.grads[0], {}, ScalarType::Double);
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    const std::vector<MaskedGrad<T>> tensors = grad_tensors<T>(in);
    const Tensor sums = scratch_like(in.grads[0], cuda::parts_of_norm<T>(ends.data(), ends.size()),
                                     ScalarType::Double);
    check_launch(op, cuda::masked_grad_norm<T>(tensors.data(), ends.data(), ends.size(),
                                               sums.mutable_data_ptr<double>(),
                                               out.mutable_data_ptr<double>(), stream));
  });
  return out;
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) {
  m.impl("masked_sgd_step_", TORCH_BOX(&clfast::ops::masked_sgd_step_<clfast::ops::sgd>));
  m.impl("masked_adam_step_", TORCH_BOX(&clfast::ops::masked_adam_step_<clfast::ops::adam>));
  m.impl("masked_grad_norm", TORCH_BOX(&clfast::ops::masked_grad_norm<clfast::ops::norm>));
}
