// Rows of any element type on the device: type dispatch, lengths, unit length.
#pragma once
#include "../common/neighbourhood.h"
#include "../common/unit_length.h"
#include "warp.cuh"

namespace clfast::cuda {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarpSize;

inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline dim3 grid_of(int64_t x, int64_t y = 1, int64_t z = 1) {
  return dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
}

// Calls f(const Key*) with the rows' element type. float64 rows go with float64 arithmetic only.
template <class F>
cudaError_t dispatch_rows(Rows rows, float, F&& f) {
  switch (rows.kind) {
    case ScalarKind::kFloat32:
      return f(static_cast<const float*>(rows.data));
    case ScalarKind::kFloat16:
      return f(static_cast<const Half*>(rows.data));
    case ScalarKind::kBFloat16:
      return f(static_cast<const BFloat16*>(rows.data));
    default:
      return cudaErrorInvalidValue;
  }
}
template <class F>
cudaError_t dispatch_rows(Rows rows, double, F&& f) {
  if (rows.kind != ScalarKind::kFloat64) return cudaErrorInvalidValue;
  return f(static_cast<const double*>(rows.data));
}

// 1 / |row|, one warp a row, in double.
template <class Key>
__device__ double inverse_length_of_row(const Key* row, int64_t dim) {
  double sq_norm = 0;
  for (int64_t j = threadIdx.x % kWarpSize; j < dim; j += kWarpSize) {
    const double x = static_cast<double>(widen(row[j]));
    sq_norm += x * x;
  }
  return inverse_length(warp_sum(sq_norm));
}

template <class Key>
__global__ void row_scales_kernel(const Key* __restrict__ rows, int64_t count, int64_t dim,
                                  double* __restrict__ scales) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (row >= count) return;
  const double scale = inverse_length_of_row(rows + row * dim, dim);
  if (threadIdx.x % kWarpSize == 0) scales[row] = scale;
}

// out = rows in type T, of unit length when `unit`.
template <class T, class Key>
__global__ void convert_rows_kernel(const Key* __restrict__ rows, int64_t count, int64_t dim,
                                    bool unit, T* __restrict__ out) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarpSize;
  if (row >= count) return;
  const double scale = unit ? inverse_length_of_row(rows + row * dim, dim) : 1.0;
  for (int64_t j = threadIdx.x % kWarpSize; j < dim; j += kWarpSize) {
    out[row * dim + j] = static_cast<T>(scale * static_cast<double>(widen(rows[row * dim + j])));
  }
}

template <class T>
cudaError_t convert_rows(Rows rows, int64_t count, int64_t dim, bool unit, T* out,
                         cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return dispatch_rows(rows, T{}, [&](auto* data) {
    using Key = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    CLFAST_LAUNCH((convert_rows_kernel<T, Key>), grid_of(divide_up(count, kWarps)), dim3(kThreads),
                  0, stream, data, count, dim, unit, out);
    return cudaGetLastError();
  });
}

}  // namespace clfast::cuda
