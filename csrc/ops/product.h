// Matrix products of torch, for ops that have one in their middle.
#pragma once
#include <array>

#include "check.h"

namespace clfast::ops {

inline Tensor transposed(const Tensor& matrix) { return torch::stable::transpose(matrix, 0, 1); }

// a b for a [n, k] and b [k, m]. In its out= form, which autocast leaves alone.
inline Tensor matrix_product(const Tensor& a, const Tensor& b) {
  Tensor out = new_tensor(a, {a.size(0), b.size(1)});
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

}  // namespace clfast::ops
