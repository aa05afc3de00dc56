// Kernels with one fault each, for a test to see it reported.
#pragma once

#include "warp.cuh"

namespace clfast::planted {

// ---- For the address sanitizer ----

__global__ void read_past_global_kernel(const float* x, float* out, int64_t n) {
  const int64_t i = threadIdx.x;
  if (i <= n) out[0] = x[i];  // fault: <=
}

__global__ void write_past_dynamic_shared_kernel(float* out, int64_t n) {
  CLFAST_DYNAMIC_SHARED(float, scratch);  // [n]
  scratch[threadIdx.x + 1] = 1.0f;        // fault: the last thread writes scratch[n]
  __syncthreads();
  out[0] = scratch[n - 1];
}

template <int kThreads>
__global__ void write_past_shared_kernel(float* out) {
  CLFAST_SHARED(float[kThreads], scratch);
  float* const next = scratch + 1;
  next[threadIdx.x] = 1.0f;  // fault: the last thread writes scratch[kThreads]
  __syncthreads();
  out[0] = scratch[0];
}

// ---- For the undefined-behaviour sanitizer ----

__global__ void overflow_index_kernel(int64_t* out, int columns) {
  const int row = static_cast<int>(blockIdx.x);
  const int index = row * columns;  // fault: 3 * 2^30 does not fit
  out[blockIdx.x] = index;
}

__global__ void load_misaligned_vector_kernel(const float* x, float* out) {
  out[0] = reinterpret_cast<const float4*>(x + 1)->w;  // fault: x + 1 is aligned to 4 bytes
}

// ---- For the emulator ----

__global__ void barrier_in_half_of_block_kernel(float* out) {
  if (threadIdx.x < blockDim.x / 2) __syncthreads();  // fault
  out[threadIdx.x] = 1.0f;
}

__global__ void two_barriers_kernel(float* out) {
  if (threadIdx.x < blockDim.x / 2) {
    __syncthreads();  // fault: not the barrier of the others
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1.0f;
}

__global__ void return_before_barrier_kernel(float* out) {
  if (threadIdx.x >= 5) return;  // fault
  __syncthreads();
  out[threadIdx.x] = 1.0f;
}

__global__ void shuffle_in_branch_kernel(float* out) {
  float value = 1.0f;
  if (threadIdx.x % 2 == 0) value = __shfl_xor_sync(kFullWarp, value, 2);  // fault: odd lanes
  __syncthreads();
  out[threadIdx.x] = value;
}

__global__ void mask_without_caller_kernel(float* out) {
  out[threadIdx.x] = __shfl_sync(0xfffffff7u, 1.0f, 0);  // fault: lane 3
}

__global__ void two_operations_kernel(float* out) {
  float value = 1.0f;
  if (threadIdx.x % 32 < 16) {
    value = __shfl_xor_sync(kFullWarp, value, 1);  // fault: not the operation of the others
  } else {
    value = __shfl_down_sync(kFullWarp, value, 1);
  }
  out[threadIdx.x] = value;
}

__global__ void odd_width_kernel(float* out) {
  out[threadIdx.x] = __shfl_xor_sync(kFullWarp, 1.0f, 1, 12);  // fault: not a power of 2
}

// nvcc refuses any instance that is too big, the emulator when it runs.
template <int kSize>
__global__ void two_shared_arrays_kernel(float* out) {
  CLFAST_SHARED(float[6000], first);
  CLFAST_SHARED(float[kSize], second);  // fault if kSize > 6288: more than 48 KiB together
  first[threadIdx.x] = second[threadIdx.x] = 1.0f;
  out[threadIdx.x] = first[threadIdx.x] + second[threadIdx.x];
}

// ---- For the thread sanitizer, which needs no order of threads in which they do harm ----

template <bool kFault>
__global__ void neighbour_kernel(float* out) {
  CLFAST_SHARED(float[32], values);
  const unsigned lane = threadIdx.x;
  values[lane] = static_cast<float>(lane);
  if constexpr (!kFault) __syncwarp();
  out[lane] = values[lane ^ 1];
}

// ---- For a reader of numbers ----

// out[thread] = shared memory that nobody wrote in this block.
__global__ void read_uninitialised_shared_kernel(float* out) {
  CLFAST_SHARED(float[64], fixed);
  CLFAST_DYNAMIC_SHARED(float, dynamic);  // [64]
  float* const mine = out + (blockIdx.x * 64 + threadIdx.x) * 2;
  mine[0] = fixed[threadIdx.x];
  mine[1] = dynamic[threadIdx.x];
  fixed[threadIdx.x] = dynamic[threadIdx.x] = 1.0f;
}

}  // namespace clfast::planted
