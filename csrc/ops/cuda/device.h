// What every CUDA op does around its launch: select the device, take torch's stream, report errors.
#pragma once
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "../check.h"

// Lives in libtorch_cuda; weak, so that this library also loads where torch has no CUDA.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace clfast::ops {

// The stream of torch on the device of `tensor`, which is the current device while this lives.
class DeviceStream {
 public:
  explicit DeviceStream(const Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }
  operator cudaStream_t() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

inline void check_launch(const char* op, cudaError_t status) {
  CLFAST_CHECK(status == cudaSuccess, op, ": ", cudaGetErrorString(status),
               status == cudaErrorNoKernelImageForDevice
                   ? " (see `python -m clfast`: the architectures this library was built for)"
                   : "");
}

// Scratch memory from torch's allocator, which knows streams.
inline Tensor scratch_like(const Tensor& tensor, int64_t elements, ScalarType dtype) {
  return new_tensor(tensor, {elements}, dtype);
}

// How many of `wanted` queries go at a time when each needs `bytes` of scratch: about 256 MiB, and
// no more than a grid's third dimension holds.
inline int64_t queries_at_a_time(int64_t wanted, int64_t bytes) {
  const int64_t budget = (int64_t{256} << 20) / (bytes > 0 ? bytes : 1);
  const int64_t most = budget < 65535 ? budget : 65535;
  const int64_t chunk = wanted < most ? wanted : most;
  return chunk > 0 ? chunk : 1;
}

}  // namespace clfast::ops
