// Reductions over the lanes of a warp and the threads of a block.
//
// Every reduction combines in an order that depends on the block size alone, and hands every
// thread the same bits. max and min follow CUDA's fmax and fmin: a NaN loses against a number.
#pragma once

#include "launch.h"

namespace clfast {

constexpr int kWarpSize = 32;
constexpr unsigned kFullWarp = 0xffffffffu;

struct Add {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

struct Larger {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return max(a, b);
  }
};

struct Smaller {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return min(a, b);
  }
};

// All 32 lanes must call. It orders no memory: lanes that also exchange data through shared memory
// need a __syncwarp() for that.
template <class Combine, class T>
__device__ __forceinline__ T warp_reduce(T value) {
  for (int lane_mask = kWarpSize / 2; lane_mask > 0; lane_mask /= 2) {
    value = Combine{}(value, __shfl_xor_sync(kFullWarp, value, lane_mask));
  }
  return value;
}

template <class T>
__device__ __forceinline__ T warp_sum(T value) {
  return warp_reduce<Add>(value);
}

template <class T>
__device__ __forceinline__ T warp_max(T value) {
  return warp_reduce<Larger>(value);
}

template <class T>
__device__ __forceinline__ T warp_min(T value) {
  return warp_reduce<Smaller>(value);
}

// The block must be one-dimensional, of exactly kThreads threads, and all of them must call.
// `shared` is [kThreads / 32] in shared memory, the same for all threads.
//
// Contains two __syncthreads(), whatever the block size. The first stands between the writes to
// `shared` and the reads; what a thread wrote to any memory before the call is therefore visible
// to the whole block after it. The second follows the reads: `shared` may be written again at
// once, by the next reduction for one. A __syncthreads() of the caller's own is needed before the
// call only if `shared` still holds something that a thread has yet to read.
template <class Combine, int kThreads, class T>
__device__ __forceinline__ T block_reduce(T value, T* shared) {
  static_assert(kThreads % kWarpSize == 0 && kThreads >= kWarpSize && kThreads <= 1024,
                "whole warps, at most 1024 threads");
  value = warp_reduce<Combine>(value);
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  value = shared[0];
  for (int warp = 1; warp < kThreads / kWarpSize; ++warp) value = Combine{}(value, shared[warp]);
  __syncthreads();
  return value;
}

template <int kThreads, class T>
__device__ __forceinline__ T block_sum(T value, T* shared) {
  return block_reduce<Add, kThreads>(value, shared);
}

template <int kThreads, class T>
__device__ __forceinline__ T block_max(T value, T* shared) {
  return block_reduce<Larger, kThreads>(value, shared);
}

template <int kThreads, class T>
__device__ __forceinline__ T block_min(T value, T* shared) {
  return block_reduce<Smaller, kThreads>(value, shared);
}

}  // namespace clfast
