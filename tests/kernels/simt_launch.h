// Launches in the SIMT emulator, and the few functions of the CUDA run-time library that launchers
// use.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <numeric>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "simt_scheduler.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNotSupported = 801
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97
};
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice = 3 };
struct CUstream_st;
using cudaStream_t = CUstream_st*;

namespace simt {

// What the emulated device says of itself. A test may set other numbers, to see a launcher choose
// the path of another device.
struct Device {
  int compute_capability_major = 9;
  int compute_capability_minor = 0;
  int multiprocessors = 132;
  int max_shared_bytes_with_opt_in = 227 * 1024;
};
inline Device device;

constexpr int kMaxSharedBytes = 48 * 1024;  // without opt-in

struct Runtime {
  cudaError_t last_error = cudaSuccess;
  std::map<const void*, int> shared_opt_in;  // of a kernel
};
inline Runtime runtime;

inline cudaError_t check_launch(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (std::max({block.x, block.y, block.z}) > kMaxThreads) return cudaErrorInvalidConfiguration;
  if (threads == 0 || threads > kMaxThreads || block.z > 64) return cudaErrorInvalidConfiguration;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaErrorInvalidConfiguration;
  if (grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidConfiguration;
  const auto opt_in = runtime.shared_opt_in.find(kernel);
  const bool has_opt_in = opt_in != runtime.shared_opt_in.end();
  const int dynamic_limit = has_opt_in ? opt_in->second : kMaxSharedBytes;
  if (shared_bytes > static_cast<size_t>(dynamic_limit)) return cudaErrorInvalidValue;
  const int limit = has_opt_in ? device.max_shared_bytes_with_opt_in : kMaxSharedBytes;
  machine.shared_limit = static_cast<size_t>(limit);
  return cudaSuccess;
}

// Calls `body(call)` as every thread of every block.
inline void run_grid(const char* kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes,
                     void (*body)(void*), void* call) {
  machine.kernel = kernel;
  machine.body = body;
  machine.call = call;
  machine.launches += 1;
  machine.thread_count = static_cast<int>(block.x * block.y * block.z);
  gridDim = grid;
  blockDim = block;
#ifdef __SANITIZE_THREAD__
  machine.host.traced_thread = __tsan_get_current_fiber();
#endif
  for (int i = 0; i < machine.thread_count; ++i) {
    Thread& thread = machine.threads[i];
    const unsigned number = static_cast<unsigned>(i);
    thread.index = {number % block.x, number / block.x % block.y, number / (block.x * block.y)};
    if (!thread.fiber.stack) start_fiber(&thread.fiber, fiber_main);
    const bool reverse = machine.order == Order::kReverse;
    machine.order_of_threads[i] = reverse ? machine.thread_count - 1 - i : i;
  }
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  std::vector<uint64_t> order_of_blocks(machine.order == Order::kRandom ? blocks : 0);
  std::iota(order_of_blocks.begin(), order_of_blocks.end(), uint64_t{0});
  shuffle(order_of_blocks.data(), order_of_blocks.size());

  struct Running {
    Running() { machine.running = true; }
    ~Running() {
      machine.running = false;
      machine.shared.clear();
      machine.shared_bytes = 0;
    }
  } running;
  try {
    machine.dynamic_shared = allocate_shared(dynamic_shared_bytes);
    for (uint64_t i = 0; i < blocks; ++i) {
      uint64_t number = i;
      if (machine.order == Order::kReverse) number = blocks - 1 - i;
      if (machine.order == Order::kRandom) number = order_of_blocks[i];
      blockIdx = {static_cast<unsigned>(number % grid.x),
                  static_cast<unsigned>(number / grid.x % grid.y),
                  static_cast<unsigned>(number / grid.x / grid.y)};
      run_block();
    }
  } catch (...) {
    for (int i = 0; i < machine.thread_count; ++i) {
      // The others stand inside the kernel, where nobody will let them go on.
      if (machine.threads[i].state == State::kReturned) continue;
      start_fiber(&machine.threads[i].fiber, fiber_main);
      machine.threads[i].state = State::kReturned;
    }
    throw;
  }
}

// What kernel<<<grid, block, shared_bytes, stream>>>(arguments...) does.
template <class... Parameters, class... Arguments>
void launch(const char* kernel_text, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            size_t shared_bytes, cudaStream_t, Arguments&&... arguments) {
  static_assert((!std::is_reference_v<Parameters> && ...), "kernels take arguments by value");
  if (machine.running) throw Error("a launch while another one runs");
  const void* const address = reinterpret_cast<const void*>(kernel);
  if (const cudaError_t error = check_launch(address, grid, block, shared_bytes)) {
    runtime.last_error = error;
    return;
  }
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, {std::forward<Arguments>(arguments)...}};
  const auto body = [](void* opaque) {
    const Call& self = *static_cast<Call*>(opaque);
    std::apply(self.kernel, self.arguments);
  };
  run_grid(kernel_text, grid, block, shared_bytes, body, &call);
}

}  // namespace simt

inline cudaError_t cudaPeekAtLastError() { return simt::runtime.last_error; }

inline cudaError_t cudaGetLastError() {
  return std::exchange(simt::runtime.last_error, cudaSuccess);
}

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorNotSupported:
      return "operation not supported";
  }
  return "unrecognized error code";
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  if (value < 0 || value > simt::device.max_shared_bytes_with_opt_in) return cudaErrorInvalidValue;
  simt::runtime.shared_opt_in[reinterpret_cast<const void*>(kernel)] = value;
  return cudaSuccess;
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = simt::device.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = simt::device.compute_capability_major;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = simt::device.compute_capability_minor;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = simt::device.max_shared_bytes_with_opt_in;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t = nullptr) {
  if (bytes > 0) std::memset(data, value, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t = nullptr) {
  if (bytes > 0) std::memcpy(target, source, bytes);
  return cudaSuccess;
}
