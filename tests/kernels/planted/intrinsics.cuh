// Kernels that write down what the emulated intrinsics return, for a test to compare with what
// CUDA's programming guide says they return.
#pragma once

#include "warp.cuh"

namespace clfast::planted {

enum Shuffle { kIndexed, kUp, kDown, kXor, kShuffles };

// out[thread] = the value that the shuffle gives it; thread t offers 100 + t.
template <class T>
__global__ void shuffle_kernel(T* out, int shuffle, int argument, int width) {
  const T value = static_cast<T>(100 + threadIdx.x);
  const unsigned delta = static_cast<unsigned>(argument);
  T result{};
  if (shuffle == kIndexed) result = __shfl_sync(kFullWarp, value, argument, width);
  if (shuffle == kUp) result = __shfl_up_sync(kFullWarp, value, delta, width);
  if (shuffle == kDown) result = __shfl_down_sync(kFullWarp, value, delta, width);
  if (shuffle == kXor) result = __shfl_xor_sync(kFullWarp, value, argument, width);
  out[threadIdx.x] = result;
}

// out[thread] = {ballot, any, all, active mask} of "thread is a multiple of divisor".
template <class T>
__global__ void vote_kernel(T* out, unsigned divisor) {
  const int predicate = threadIdx.x % divisor == 0 ? 2 : 0;
  T* const mine = out + threadIdx.x * 4;
  mine[0] = static_cast<T>(__ballot_sync(kFullWarp, predicate));
  mine[1] = static_cast<T>(__any_sync(kFullWarp, predicate));
  mine[2] = static_cast<T>(__all_sync(kFullWarp, predicate));
  mine[3] = static_cast<T>(__activemask());
  __syncwarp();  // nobody returns before all have looked
}

// out[thread] = the sum over the lanes of its warp of its own parity, found in two branches.
template <class T>
__global__ void half_warp_kernel(T* out) {
  const unsigned lane = threadIdx.x % 32;
  int sum = static_cast<int>(threadIdx.x);
  if (lane % 2 == 0) {
    for (int m = 2; m < 32; m *= 2) sum += __shfl_xor_sync(0x55555555u, sum, m);
  } else {
    for (int m = 16; m > 1; m /= 2) sum += __shfl_xor_sync(0xaaaaaaaau, sum, m);
  }
  out[threadIdx.x] = sum;
}

// Lanes from `live` on return; the others take a ballot that still names them.
template <class T>
__global__ void ballot_after_return_kernel(T* out, unsigned live) {
  if (threadIdx.x % 32 >= live) return;
  out[threadIdx.x] = static_cast<T>(__ballot_sync(kFullWarp, 1));
}

struct Counters {
  int sum_int, difference_int, largest_int, smallest_int, exchanged_int, claimed_int, bits_or;
  unsigned sum_unsigned, largest_unsigned, bits_and, bits_xor;
  unsigned long long sum_ulonglong, smallest_ulonglong;
  long long smallest_longlong;
  float sum_float, exchanged_float;
  double sum_double;
};

// order[thread] = how many threads of the grid came to the counter before.
template <class T>
__global__ void atomics_kernel(Counters* counters, T* order) {
  const unsigned thread = blockIdx.x * blockDim.x + threadIdx.x;
  const int i = static_cast<int>(thread);
  order[thread] = atomicAdd(&counters->sum_unsigned, 1u);
  atomicAdd(&counters->sum_int, i - 7);
  atomicSub(&counters->difference_int, i);
  atomicMax(&counters->largest_int, i - 10);
  atomicMin(&counters->smallest_int, -i);
  atomicExch(&counters->exchanged_int, i);
  atomicCAS(&counters->claimed_int, -1, i);
  atomicOr(&counters->bits_or, 1 << i % 16);
  atomicMax(&counters->largest_unsigned, 0x80000000u + thread);
  atomicAnd(&counters->bits_and, ~(1u << i % 16));
  atomicXor(&counters->bits_xor, thread);
  atomicAdd(&counters->sum_ulonglong, 1ull << 33);
  atomicMin(&counters->smallest_ulonglong, (1ull << 40) + thread);
  atomicMin(&counters->smallest_longlong, -(1ll << 40) - i);
  atomicAdd(&counters->sum_float, 0.5f);
  atomicExch(&counters->exchanged_float, 0.25f);
  atomicAdd(&counters->sum_double, 0.125);
}

// out[i] = one number for each function of the list.
template <class T>
__global__ void arithmetic_kernel(T* out) {
  const T results[] = {
      static_cast<T>(__popc(0xf0f00001u)),
      static_cast<T>(__clz(1)),
      static_cast<T>(__clz(0)),
      static_cast<T>(__ffs(0)),
      static_cast<T>(__ffs(8)),
      static_cast<T>(__float_as_uint(1.0f)),
      static_cast<T>(__uint_as_float(0x40490fdbu)),
      static_cast<T>(__float_as_int(-0.0f)),
      static_cast<T>(__double_as_longlong(1.0)),
      static_cast<T>(__longlong_as_double(0x4000000000000000ll)),
      static_cast<T>(max(NAN, 3.0f)),
      static_cast<T>(min(2.0f, NAN)),
      static_cast<T>(max(-1, 1)),
      static_cast<T>(max(-1, 1u)),  // -1 becomes 2^32 - 1
      static_cast<T>(rsqrtf(4.0f)),
      static_cast<T>(__expf(0.0f)),
      static_cast<T>(__logf(1.0f)),
      // (1 + 2^-12)^2 - (1 + 2^-11) = 2^-24, which rounding the product first would lose.
      static_cast<T>(__fmaf_rn(1.000244140625f, 1.000244140625f, -1.00048828125f)),
      static_cast<T>(__fadd_rn(__fmul_rn(1.000244140625f, 1.000244140625f), -1.00048828125f)),
      static_cast<T>(__saturatef(1.5f)),
      static_cast<T>(sizeof(float4) + alignof(float4)),
      static_cast<T>(make_float4(1, 2, 3, 4).w + make_double2(1, 2).y),
      static_cast<T>(warpSize),
  };
  for (unsigned i = 0; i < sizeof results / sizeof results[0]; ++i) out[i] = results[i];
}

// out[linear thread of the grid] = its coordinates, folded into one number.
template <class T>
__global__ void coordinates_kernel(T* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
  out[block * threads + thread] = threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z +
                                  1000 * blockIdx.x + 10000 * blockIdx.y + 100000 * blockIdx.z;
}

}  // namespace clfast::planted
