// Class means: every (class, block of columns) walks over all labels, in order, so that sums are
// the same at every run.
#pragma once
#include "launch.h"
#include "retrieval.h"
#include "rows.cuh"

namespace clfast::cuda {

// Grid: classes x blocks of 256 columns. scales may be null: features as they are.
template <class Key>
__global__ void __launch_bounds__(kThreads)
    class_sums_kernel(const Key* __restrict__ features, const int64_t* __restrict__ labels,
                      const double* __restrict__ scales, int64_t samples, int64_t dim,
                      double* __restrict__ sums) {
  CLFAST_SHARED(int64_t[kThreads], chunk);
  const int64_t own = blockIdx.x;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  double sum = 0;
  int64_t members = 0;
  for (int64_t begin = 0; begin < samples; begin += kThreads) {
    const int64_t i = begin + threadIdx.x;
    chunk[threadIdx.x] = i < samples ? labels[i] : -1;
    __syncthreads();
    for (int j = 0; j < kThreads; ++j) {
      if (chunk[j] != own) continue;
      ++members;
      if (column < dim) {
        const double x = static_cast<double>(widen(features[(begin + j) * dim + column]));
        sum += scales == nullptr ? x : scales[begin + j] * x;
      }
    }
    __syncthreads();
  }
  if (column < dim) sums[own * dim + column] = members > 0 ? sum / static_cast<double>(members) : 0;
}

// One block a class: the mean at unit length, or as it is.
template <class T>
__global__ void __launch_bounds__(kThreads)
    finish_means_kernel(const double* __restrict__ sums, int64_t dim, bool normalize,
                        T* __restrict__ means) {
  CLFAST_SHARED(double[kWarps], shared);
  const double* mean = sums + static_cast<int64_t>(blockIdx.x) * dim;
  double scale = 1;
  if (normalize) {
    double sq_norm = 0;
    for (int64_t j = threadIdx.x; j < dim; j += kThreads) sq_norm += mean[j] * mean[j];
    scale = inverse_length(block_sum<kThreads>(sq_norm, shared));
  }
  for (int64_t j = threadIdx.x; j < dim; j += kThreads) {
    means[static_cast<int64_t>(blockIdx.x) * dim + j] = static_cast<T>(scale * mean[j]);
  }
}

template <class T>
cudaError_t class_means(Rows features, const int64_t* labels, int64_t samples, int64_t dim,
                        int64_t num_classes, bool normalize, double* scales, double* sums, T* means,
                        cudaStream_t stream) {
  if (dim == 0) return cudaSuccess;
  const cudaError_t status = dispatch_rows(features, T{}, [&](auto* data) {
    using Key = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    if (normalize && samples > 0) {
      CLFAST_LAUNCH((row_scales_kernel<Key>), grid_of(divide_up(samples, kWarps)), dim3(kThreads),
                    0, stream, data, samples, dim, scales);
      const cudaError_t launched = cudaGetLastError();
      if (launched != cudaSuccess) return launched;
    }
    CLFAST_LAUNCH((class_sums_kernel<Key>), grid_of(num_classes, divide_up(dim, kThreads)),
                  dim3(kThreads), 0, stream, data, labels, normalize ? scales : nullptr, samples,
                  dim, sums);
    return cudaGetLastError();
  });
  if (status != cudaSuccess) return status;
  CLFAST_LAUNCH((finish_means_kernel<T>), grid_of(num_classes), dim3(kThreads), 0, stream, sums,
                dim, normalize, means);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
