// GEM's projection: inner products of the gradient with those of the memory, and of these with each
// other where one of the first is negative; the quadratic programme; the combination. All launches
// always happen, and those that have nothing to do return: the host never waits.
#pragma once
#include "../common/gem_program.h"
#include "consolidation.h"
#include "rows.cuh"

namespace clfast::cuda {

constexpr int kGemTile = 4;

// Products of rows [4 y, 4 y + 4) of a with rows [kB z, kB z + kB) of b, over part x of the
// columns: sums [parts, rows of a, rows of b]. Tiles above the diagonal are left out when a is b.
template <int kB, class T>
__global__ void __launch_bounds__(kThreads)
    gem_products_kernel(const T* __restrict__ a, int64_t a_rows, const T* __restrict__ b,
                        int64_t b_rows, int64_t columns, const double* __restrict__ conflict,
                        double* __restrict__ sums) {
  CLFAST_SHARED(double[kWarps], shared);
  const int64_t first_a = static_cast<int64_t>(blockIdx.y) * kGemTile;
  const int64_t first_b = static_cast<int64_t>(blockIdx.z) * kB;
  if (conflict != nullptr && *conflict == 0) return;
  if (a == b && first_b > first_a) return;
  const T *rows_a[kGemTile], *rows_b[kB];
  CLFAST_UNROLL
  for (int m = 0; m < kGemTile; ++m) rows_a[m] = a + min(first_a + m, a_rows - 1) * columns;
  CLFAST_UNROLL
  for (int n = 0; n < kB; ++n) rows_b[n] = b + min(first_b + n, b_rows - 1) * columns;
  double own[kGemTile][kB] = {};
  for (int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; j < columns;
       j += static_cast<int64_t>(gridDim.x) * kThreads) {
    double x[kGemTile], y[kB];
    CLFAST_UNROLL
    for (int m = 0; m < kGemTile; ++m) x[m] = static_cast<double>(rows_a[m][j]);
    CLFAST_UNROLL
    for (int n = 0; n < kB; ++n) y[n] = static_cast<double>(rows_b[n][j]);
    CLFAST_UNROLL
    for (int m = 0; m < kGemTile; ++m) {
      CLFAST_UNROLL
      for (int n = 0; n < kB; ++n) own[m][n] += x[m] * y[n];
    }
  }
  CLFAST_UNROLL
  for (int m = 0; m < kGemTile; ++m) {
    CLFAST_UNROLL
    for (int n = 0; n < kB; ++n) {
      const double sum = block_sum<kThreads>(own[m][n], shared);
      const int64_t i = first_a + m, k = first_b + n;
      if (threadIdx.x == 0 && i < a_rows && k < b_rows) {
        sums[(blockIdx.x * a_rows + i) * b_rows + k] = sum;
      }
    }
  }
}

__device__ __forceinline__ double sum_of_parts(const double* __restrict__ sums, int64_t parts,
                                               int64_t size, int64_t at) {
  double sum = 0;
  for (int64_t part = 0; part < parts; ++part) sum += sums[part * size + at];
  return sum;
}

// One block. products [T]; conflict: whether one of them is not >= 0.
static __global__ void __launch_bounds__(kThreads)
    gem_conflict_kernel(const double* __restrict__ sums, int64_t parts, int64_t tasks,
                        double* __restrict__ products, double* __restrict__ conflict) {
  CLFAST_SHARED(double[kWarps], shared);
  double found = 0;
  for (int64_t k = threadIdx.x; k < tasks; k += kThreads) {
    products[k] = sum_of_parts(sums, parts, tasks, k);
    if (!(products[k] >= 0)) found = 1;
  }
  found = block_max<kThreads>(found, shared);
  if (threadIdx.x == 0) *conflict = found;
}

// One block, of which one thread solves the programme. multipliers [T], 0 without a conflict.
static __global__ void __launch_bounds__(kThreads)
    gem_solve_kernel(const double* __restrict__ sums, int64_t parts, int64_t tasks, double margin,
                     GemScratch s) {
  const bool conflict = *s.conflict != 0;
  for (int64_t at = threadIdx.x; at < tasks * tasks; at += kThreads) {
    if (conflict && at % tasks <= at / tasks) {
      s.gram[at] = sum_of_parts(sums, parts, tasks * tasks, at);
    }
  }
  for (int64_t k = threadIdx.x; k < tasks; k += kThreads) s.multipliers[k] = 0;
  __syncthreads();
  if (conflict && threadIdx.x == 0) {
    gem_multipliers({s.gram, s.products, tasks, margin}, s.program, s.order, s.multipliers);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gem_combine_kernel(const T* __restrict__ grad, const T* __restrict__ memory_grads,
                       int64_t tasks, int64_t columns, const double* __restrict__ multipliers,
                       T* __restrict__ out) {
  const int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= columns) return;
  T sum = grad[j];
  for (int64_t k = 0; k < tasks; ++k) {
    const T times = static_cast<T>(multipliers[k]);
    if (times != T(0)) sum += times * memory_grads[k * columns + j];
  }
  out[j] = sum;
}

template <class T>
cudaError_t gem_project(const T* grad, const T* memory_grads, int64_t tasks, int64_t columns,
                        double margin, const GemScratch& s, T* out, cudaStream_t stream) {
  if (columns == 0) return cudaSuccess;
  if (tasks > 0) {
    const int64_t parts = parts_of_gem(tasks, columns), tiles = divide_up(tasks, kGemTile);
    CLFAST_LAUNCH((gem_products_kernel<1, T>), grid_of(parts, tiles), dim3(kThreads), 0, stream,
                  memory_grads, tasks, grad, int64_t{1}, columns,
                  static_cast<const double*>(nullptr), s.sums);
    CLFAST_LAUNCH(gem_conflict_kernel, dim3(1), dim3(kThreads), 0, stream, s.sums, parts, tasks,
                  s.products, s.conflict);
    CLFAST_LAUNCH((gem_products_kernel<kGemTile, T>), grid_of(parts, tiles, tiles), dim3(kThreads),
                  0, stream, memory_grads, tasks, memory_grads, tasks, columns, s.conflict, s.sums);
    CLFAST_LAUNCH(gem_solve_kernel, dim3(1), dim3(kThreads), 0, stream, s.sums, parts, tasks,
                  margin, s);
  }
  CLFAST_LAUNCH((gem_combine_kernel<T>), grid_of(divide_up(columns, kThreads)), dim3(kThreads), 0,
                stream, grad, memory_grads, tasks, columns, s.multipliers, out);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
