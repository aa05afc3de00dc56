// What _C_cuda.so was built from and for.
#include <torch/csrc/stable/library.h>

#include <string>

namespace {

std::string cuda_build_info() {
  return std::string("nvcc ") + CLFAST_NVCC + "; architectures " + CLFAST_ARCHITECTURES;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(clfast, CompositeExplicitAutograd, m) {
  m.impl("cuda_build_info", TORCH_BOX(&cuda_build_info));
}
