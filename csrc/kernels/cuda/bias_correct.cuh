// Logits of the new classes scaled and shifted, and the gradients: one block a row.
#pragma once
#include "exemplar_losses.h"
#include "new_classes.cuh"
#include "recall_rows.cuh"

namespace clfast::cuda {

template <class T>
__global__ void __launch_bounds__(kThreads)
    bias_correct_kernel(BiasCorrectProblem<T> p, const T* __restrict__ shift,
                        const uint8_t* __restrict__ is_new, T* __restrict__ out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * p.classes;
  for (int64_t c = threadIdx.x; c < p.classes; c += kThreads) {
    const T z = p.logits[at + c];
    out[at + c] = is_new[c] ? *p.scale * z + *shift : z;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    bias_correct_gradients_kernel(BiasCorrectProblem<T> p, const T* __restrict__ grad,
                                  const uint8_t* __restrict__ is_new, T* __restrict__ sums,
                                  T* __restrict__ d_logits) {
  CLFAST_SHARED(T[kWarps], shared);
  const int64_t row = blockIdx.x, at = row * p.classes;
  T products = T(0), slopes = T(0);
  for (int64_t c = threadIdx.x; c < p.classes; c += kThreads) {
    const T g = grad[at + c];
    if (is_new[c]) {
      products += g * p.logits[at + c];
      slopes += g;
    }
    d_logits[at + c] = is_new[c] ? *p.scale * g : g;
  }
  products = block_sum<kThreads>(products, shared);
  slopes = block_sum<kThreads>(slopes, shared);
  if (threadIdx.x == 0) {
    sums[row] = products;
    sums[p.rows + row] = slopes;
  }
}

template <class T>
cudaError_t bias_correct(const BiasCorrectProblem<T>& p, const T* shift, uint8_t* is_new, T* out,
                         cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  const cudaError_t status =
      mark_new_classes(p.new_classes, p.new_count, p.classes, is_new, stream);
  if (status != cudaSuccess) return status;
  CLFAST_LAUNCH((bias_correct_kernel<T>), grid_of(p.rows), dim3(kThreads), 0, stream, p, shift,
                is_new, out);
  return cudaGetLastError();
}

template <class T>
cudaError_t bias_correct_gradients(const BiasCorrectProblem<T>& p, const T* grad, uint8_t* is_new,
                                   T* sums, T* d_logits, T* d_scale, T* d_shift,
                                   cudaStream_t stream) {
  if (p.rows > 0) {
    const cudaError_t status =
        mark_new_classes(p.new_classes, p.new_count, p.classes, is_new, stream);
    if (status != cudaSuccess) return status;
    CLFAST_LAUNCH((bias_correct_gradients_kernel<T>), grid_of(p.rows), dim3(kThreads), 0, stream, p,
                  grad, is_new, sums, d_logits);
  }
  T* const totals[] = {d_scale, d_shift};
  for (int i = 0; i < 2; ++i) {
    CLFAST_LAUNCH((total_kernel<T>), dim3(1), dim3(kThreads), 0, stream, 0.0, 1.0,
                  sums + i * p.rows, p.rows, static_cast<const T*>(nullptr),
                  static_cast<const T*>(nullptr), int64_t{0}, totals[i]);
  }
  return cudaGetLastError();
}

}  // namespace clfast::cuda
