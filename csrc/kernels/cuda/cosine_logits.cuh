// The rows on either side of a product of cosines, and the gradients by them: one warp a row.
#pragma once
#include "exemplar_losses.h"
#include "recall_rows.cuh"

namespace clfast::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads)
    unit_rows_kernel(const T* __restrict__ rows, int64_t count, int64_t dim,
                     const T* __restrict__ factor, T* __restrict__ out,
                     T* __restrict__ inverse_lengths) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (row >= count) return;
  const int lane = threadIdx.x % kWarpSize;
  const T* x = rows + row * dim;
  const T inverse = static_cast<T>(inverse_length_of_row(x, dim));
  const T scale = factor == nullptr ? inverse : *factor * inverse;
  if (lane == 0) inverse_lengths[row] = inverse;
  for (int64_t j = lane; j < dim; j += kWarpSize) out[row * dim + j] = scale * x[j];
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    unit_rows_gradient_kernel(const T* __restrict__ rows, const T* __restrict__ inverse_lengths,
                              const T* __restrict__ slopes, int64_t count, int64_t dim,
                              const T* __restrict__ factor, T* __restrict__ out,
                              T* __restrict__ dots) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (row >= count) return;
  const int lane = threadIdx.x % kWarpSize;
  const T *x = rows + row * dim, *h = slopes + row * dim;
  double product = 0;
  for (int64_t j = lane; j < dim; j += kWarpSize) {
    product += static_cast<double>(h[j]) * static_cast<double>(x[j]);
  }
  const T inverse = inverse_lengths[row];
  const T dot = inverse * static_cast<T>(warp_sum(product));
  const T along = is_floor(inverse) ? T(0) : dot * inverse;
  const T scale = factor == nullptr ? inverse : *factor * inverse;
  if (lane == 0) dots[row] = dot;
  for (int64_t j = lane; j < dim; j += kWarpSize)
    out[row * dim + j] = scale * (h[j] - along * x[j]);
}

template <class T>
cudaError_t unit_rows(const T* rows, int64_t count, int64_t dim, const T* factor, T* out,
                      T* inverse_lengths, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  CLFAST_LAUNCH((unit_rows_kernel<T>), grid_of(divide_up(count, kWarps)), dim3(kThreads), 0, stream,
                rows, count, dim, factor, out, inverse_lengths);
  return cudaGetLastError();
}

template <class T>
cudaError_t unit_rows_gradient(const T* rows, const T* inverse_lengths, const T* slopes,
                               int64_t count, int64_t dim, const T* factor, T* out, T* dots,
                               T* dots_sum, cudaStream_t stream) {
  if (count > 0) {
    CLFAST_LAUNCH((unit_rows_gradient_kernel<T>), grid_of(divide_up(count, kWarps)), dim3(kThreads),
                  0, stream, rows, inverse_lengths, slopes, count, dim, factor, out, dots);
  }
  if (dots_sum != nullptr) {
    CLFAST_LAUNCH((total_kernel<T>), dim3(1), dim3(kThreads), 0, stream, 0.0, 1.0, dots, count,
                  static_cast<const T*>(nullptr), static_cast<const T*>(nullptr), int64_t{0},
                  dots_sum);
  }
  return cudaGetLastError();
}

}  // namespace clfast::cuda
