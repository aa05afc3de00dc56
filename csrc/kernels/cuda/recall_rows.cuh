// What the recall kernels share: the weights of rows, the softmax of a row, sums over all rows.
#pragma once
#include "recall.h"
#include "rows.cuh"

namespace clfast::cuda {

CLFAST_HD int64_t copies_of(const int64_t* multiplicity, int64_t row) {
  return multiplicity == nullptr || multiplicity[row] < 1 ? 1 : multiplicity[row];
}

// One block. weights[i] = multiplicity[i] / their sum.
template <class T>
__global__ void __launch_bounds__(kThreads)
    row_weights_kernel(const int64_t* __restrict__ multiplicity, int64_t rows,
                       T* __restrict__ weights) {
  CLFAST_SHARED(double[kWarps], shared);
  double all = 0;
  for (int64_t i = threadIdx.x; i < rows; i += kThreads) {
    all += static_cast<double>(copies_of(multiplicity, i));
  }
  all = block_sum<kThreads>(all, shared);
  for (int64_t i = threadIdx.x; i < rows; i += kThreads) {
    weights[i] = static_cast<T>(static_cast<double>(copies_of(multiplicity, i)) / all);
  }
}

// One block. total = constant + factor sum_j terms_j + sum_i weights_i values_i.
template <class T>
__global__ void __launch_bounds__(kThreads)
    total_kernel(double constant, double factor, const T* __restrict__ terms, int64_t term_count,
                 const T* __restrict__ weights, const T* __restrict__ values, int64_t rows,
                 T* __restrict__ total) {
  CLFAST_SHARED(double[kWarps], shared);
  double sum = 0;
  for (int64_t j = threadIdx.x; j < term_count; j += kThreads) {
    sum += factor * static_cast<double>(terms[j]);
  }
  for (int64_t i = threadIdx.x; i < rows; i += kThreads) {
    sum += static_cast<double>(weights[i]) * static_cast<double>(values[i]);
  }
  sum = block_sum<kThreads>(sum, shared);
  if (threadIdx.x == 0) *total = static_cast<T>(constant + sum);
}

// log p_i = (z_i - top) scale - log_sum.
template <class T>
struct RowSoftmax {
  T top, scale, log_sum;

  __device__ __forceinline__ T log_of_share(T z) const { return (z - top) * scale - log_sum; }
};

// The whole block calls; a NaN is passed over by the maximum and met by the sum.
template <class T>
__device__ RowSoftmax<T> softmax_of_row(const T* z, int64_t classes, T scale, T* shared) {
  T top = static_cast<T>(-INFINITY);
  for (int64_t i = threadIdx.x; i < classes; i += kThreads) top = max(top, z[i]);
  top = block_max<kThreads>(top, shared);
  T sum = T(0);
  for (int64_t i = threadIdx.x; i < classes; i += kThreads) sum += exp((z[i] - top) * scale);
  return {top, scale, log(block_sum<kThreads>(sum, shared))};
}

// x_j and y_j of common/recall.h, and the shares they are weighed by.
template <class T>
struct DivergenceTerms {
  T p, q, x, y;
};

template <class T>
__device__ __forceinline__ DivergenceTerms<T> divergence_terms(const DivergenceForm<T>& form,
                                                               T log_p, T log_q) {
  const T p = exp(log_p), q = exp(log_q), mean = T(0.5) * (p + q);
  // A comparison, not max, which would lose a NaN.
  const T log_mean = log(mean < smallest_mean<T>() ? smallest_mean<T>() : mean);
  return {p, q, form.old_mean * log_mean + form.old_p * log_p + form.old_q * log_q,
          form.new_mean * log_mean + form.new_p * log_p + form.new_q * log_q};
}

template <class T>
__device__ __forceinline__ T old_slope(const DivergenceForm<T>& form, const DivergenceTerms<T>& t,
                                       T mean_x) {
  return t.p * (t.x - mean_x) + form.old_difference * (t.p - t.q);
}
template <class T>
__device__ __forceinline__ T new_slope(const DivergenceForm<T>& form, const DivergenceTerms<T>& t,
                                       T mean_y) {
  return t.q * (t.y - mean_y) + form.new_difference * (t.q - t.p);
}

}  // namespace clfast::cuda
