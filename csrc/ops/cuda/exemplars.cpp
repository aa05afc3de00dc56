#include "../exemplars.h"

#include <array>
#include <tuple>

#include "device.h"
// After the CUDA types.
#include "../../kernels/cuda/exemplars.h"

namespace clfast::ops {
namespace {

// ---- herding ----

// The labels in ascending order, and the rows that have them, by torch's stable sort.
std::tuple<Tensor, Tensor> sort_labels(const Tensor& labels) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(labels), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

std::tuple<Tensor, Tensor> herding(const Tensor& features, const Tensor& labels, int64_t m) {
  const HerdingInputs in = check_herding(features, labels, m);
  const DeviceStream stream(in.features);
  const auto sorted = sort_labels(in.labels);
  Tensor picks = new_tensor(in.features, {in.samples}, ScalarType::Long);
  Tensor sizes = new_tensor(in.features, {in.samples}, ScalarType::Long);
  const int64_t sums = 2 * in.dim * cuda::herding_blocks(in.samples, in.dim);
  const Tensor scratch = scratch_like(in.features, sums + 2 * in.samples, ScalarType::Double);
  double* means = scratch.mutable_data_ptr<double>();
  dispatch_compute(in.dtype, [&](auto tag) {
    using T = decltype(tag);
    check_launch(
        "herding",
        cuda::herding<T>(
            {in.features.const_data_ptr<T>(), std::get<0>(sorted).const_data_ptr<int64_t>(),
             std::get<1>(sorted).const_data_ptr<int64_t>(), in.samples, in.dim, m},
            {means, means + sums, means + sums + in.samples}, picks.mutable_data_ptr<int64_t>(),
            sizes.mutable_data_ptr<int64_t>(), stream));
  });
  return {picks, sizes};
}

}  // namespace
}  // namespace clfast::ops

STABLE_TORCH_LIBRARY_IMPL(clfast, CUDA, m) { m.impl("herding", TORCH_BOX(&clfast::ops::herding)); }
