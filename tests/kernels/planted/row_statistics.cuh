// A kernel without a fault, and the same kernel with one that a test must find.
#pragma once

#include "warp.cuh"

namespace clfast::planted {

enum class Fault { kNone, kMissingBarrier };

// out[row] = {max, min, sum, sum of squared differences from the mean} of x[row].
template <int kThreads, Fault kFault>
__global__ void row_statistics_kernel(const float* __restrict__ x,  // [rows, columns]
                                      float* __restrict__ out,      // [rows, 4]
                                      int64_t columns) {
  constexpr int kWarps = kThreads / kWarpSize;
  CLFAST_SHARED(float[kWarps], partial);
  const float* const row = x + int64_t{blockIdx.x} * columns;
  float* const row_out = out + int64_t{blockIdx.x} * 4;

  float largest = -INFINITY, smallest = INFINITY, sum = 0.0f;
  for (int64_t c = threadIdx.x; c < columns; c += kThreads) {
    largest = max(largest, row[c]);
    smallest = min(smallest, row[c]);
    sum += row[c];
  }
  largest = block_max<kThreads>(largest, partial);
  smallest = block_min<kThreads>(smallest, partial);
  sum = block_sum<kThreads>(sum, partial);

  const float mean = sum / static_cast<float>(columns);
  float squares = 0.0f;
  for (int64_t c = threadIdx.x; c < columns; c += kThreads) {
    squares += (row[c] - mean) * (row[c] - mean);
  }
  // By hand what block_sum does, for the sake of the fault.
  squares = warp_sum(squares);
  if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = squares;
  if constexpr (kFault != Fault::kMissingBarrier) __syncthreads();
  squares = 0.0f;
  for (int warp = 0; warp < kWarps; ++warp) squares += partial[warp];

  if (threadIdx.x == 0) {
    row_out[0] = largest;
    row_out[1] = smallest;
    row_out[2] = sum;
    row_out[3] = squares;
  }
}

template <int kThreads, Fault kFault>
cudaError_t row_statistics(const float* x, float* out, int64_t rows, int64_t columns,
                           cudaStream_t stream) {
  CLFAST_LAUNCH((row_statistics_kernel<kThreads, kFault>), static_cast<unsigned>(rows), kThreads, 0,
                stream, x, out, columns);
  return cudaGetLastError();
}

}  // namespace clfast::planted
