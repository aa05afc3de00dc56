// What a CUDA kernel's text needs from the compiler that reads it. Under nvcc this is the CUDA
// runtime; under any other compiler it is the SIMT emulator of tests/kernels, found through the
// include path. No other header asks which of the two it is.
//
//   CLFAST_LAUNCH(kernel, grid, block, shared_bytes, stream, arguments...)
//       Launches. A kernel name that contains a comma stands in parentheses: (scale<float, 128>).
//       Nothing is returned: like after <<<>>>, ask cudaGetLastError().
//   CLFAST_SHARED(type, name);
//       Shared memory of fixed size, array types included: CLFAST_SHARED(float[8][33], tile);
//       The emulator checks it for overruns and fills it with 0xFF bytes before every block; for
//       a plain __shared__ it can do neither.
//   CLFAST_DYNAMIC_SHARED(type, name);
//       Declares `type* name`, the shared_bytes of the launch. A kernel that needs several arrays
//       cuts them out of this one.
//   CLFAST_UNROLL
//       Before a loop: nvcc unrolls it.
//
// Both kinds of shared memory are uninitialised and aligned to 16 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__

#include <cuda_runtime.h>

#define CLFAST_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

#define CLFAST_SHARED(type, name) __shared__ __align__(16) clfast::SharedType<type> name

// One symbol for all kernels: CUDA refuses two `extern __shared__` of one name and different types.
#define CLFAST_DYNAMIC_SHARED(type, name)                              \
  extern __shared__ __align__(16) unsigned char clfast_shared_bytes[]; \
  type* const name = reinterpret_cast<type*>(clfast_shared_bytes)

#define CLFAST_UNROLL _Pragma("unroll")

#else

#include "simt_emulator.h"

#define CLFAST_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ::simt::launch(#kernel, kernel, (grid), (block), (shared_bytes), (stream), __VA_ARGS__)

// The lambda's type is new at every use and in every template instance, so it tells one variable
// from another.
#define CLFAST_SHARED(type, name) \
  auto& name = ::simt::shared_variable<clfast::SharedType<type>>([] {})

#define CLFAST_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::simt::dynamic_shared())

#define CLFAST_UNROLL

#endif

namespace clfast {

// Lets an array type stand in front of a declared name: SharedType<float[4]> x is float x[4].
template <class T>
using SharedType = T;

// What a block may use of shared memory without asking, on every architecture.
constexpr size_t kSharedBytesWithoutOptIn = 48 * 1024;

// To be called before a launch of `kernel` with `shared_bytes` of dynamic shared memory, on the
// device of the launch; beyond 48 KiB CUDA wants to be asked. cudaErrorInvalidValue: this device
// does not have that much.
template <class... Parameters>
cudaError_t allow_dynamic_shared(void (*kernel)(Parameters...), size_t shared_bytes) {
  if (shared_bytes <= kSharedBytesWithoutOptIn) return cudaSuccess;
  if (shared_bytes > INT32_MAX) return cudaErrorInvalidValue;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(shared_bytes));
}

}  // namespace clfast
