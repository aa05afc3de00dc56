// MbPA's local adaptation of a chunk of queries: their layers are adapted side by side, one launch
// for all forward passes, one for all softmaxes, one for all gradient-and-optimiser steps.
#pragma once
#include "neighbours.cuh"
#include "product_tile.cuh"

namespace clfast::cuda {

// Copies of the given layer, and the optimiser's first state. Grid: blocks of entries x queries.
template <class T>
__global__ void start_kernel(const T* __restrict__ given, int64_t entries, T first_state,
                             T* __restrict__ copy, T* __restrict__ state) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= entries) return;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * entries + i;
  copy[at] = given == nullptr ? T(0) : given[i];
  state[at] = first_state;
}

// logits[q, k, i] = <w_qi, h_k> + b_qi. Grid: tiles of classes x tiles of neighbours x queries.
template <class T, class Key>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const Key* __restrict__ keys, int64_t dim, int64_t neighbours,
                   int64_t num_classes, const int64_t* __restrict__ rows,
                   const T* __restrict__ weight, const T* __restrict__ bias,
                   T* __restrict__ logits) {
  const int64_t query = blockIdx.z;
  const int64_t first_k = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first_class = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t* row_of = rows + query * neighbours;
  const T* w = weight + query * num_classes * dim;
  double total[kPerThread][kPerThread];
  accumulate_tile<MultiplyAdd, true, true, T>(
      dim,
      [&](int row, int64_t p) {
        const int64_t k = first_k + row;
        return k < neighbours && p < dim ? feature_of<T>(keys, row_of[k], dim, p) : T(0);
      },
      [&](int row, int64_t p) {
        const int64_t i = first_class + row;
        return i < num_classes && p < dim ? w[i * dim + p] : T(0);
      },
      total);
  for_each_entry(total, [&](int row, int column, double value) {
    const int64_t k = first_k + row, i = first_class + column;
    if (k >= neighbours || i >= num_classes) return;
    logits[(query * neighbours + k) * num_classes + i] =
        static_cast<T>(value) + bias[query * num_classes + i];
  });
}

// logits[q, k, :] become c_k / K (softmax - [y_k = i]). Grid: neighbours x queries.
template <class T>
__global__ void __launch_bounds__(kThreads)
    residual_kernel(int64_t neighbours, int64_t num_classes, const int64_t* __restrict__ labels,
                    const T* __restrict__ closeness, T* __restrict__ logits) {
  CLFAST_SHARED(T[kWarps], shared);
  const int64_t at = static_cast<int64_t>(blockIdx.y) * neighbours + blockIdx.x;
  T* z = logits + at * num_classes;
  T largest = static_cast<T>(-INFINITY);
  for (int64_t i = threadIdx.x; i < num_classes; i += kThreads) largest = max(largest, z[i]);
  largest = block_max<kThreads>(largest, shared);
  T sum = T(0);
  for (int64_t i = threadIdx.x; i < num_classes; i += kThreads) sum += exp(z[i] - largest);
  sum = block_sum<kThreads>(sum, shared);
  const T share = closeness[at] / static_cast<T>(neighbours);
  for (int64_t i = threadIdx.x; i < num_classes; i += kThreads) {
    z[i] = share * (exp(z[i] - largest) / sum - (labels[at] == i ? T(1) : T(0)));
  }
}

template <class T>
__device__ __forceinline__ void optimizer_step(Optimizer optimizer, T& weight, T& state, T gradient,
                                               T lr) {
  switch (optimizer) {
    case Optimizer::kRmsprop:
      return rmsprop_step(weight, state, gradient, lr);
    case Optimizer::kRmspropTf:
      return rmsprop_tf_step(weight, state, gradient, lr);
    case Optimizer::kSgd:
      weight -= lr * gradient;
  }
}

// Gradient tile sum_k residual[k, i] h_k and the optimiser's step on it. Grid: tiles of features x
// tiles of classes x queries.
template <class T, class Key>
__global__ void __launch_bounds__(kThreads)
    step_kernel(const Key* __restrict__ keys, int64_t dim, int64_t neighbours, int64_t num_classes,
                const int64_t* __restrict__ rows, const T* __restrict__ residual,
                Optimizer optimizer, T lr, T* __restrict__ weight, T* __restrict__ state) {
  const int64_t query = blockIdx.z;
  const int64_t first_class = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first_feature = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t* row_of = rows + query * neighbours;
  const T* r = residual + query * neighbours * num_classes;
  double total[kPerThread][kPerThread];
  accumulate_tile<MultiplyAdd, false, false, T>(
      neighbours,
      [&](int row, int64_t k) {
        const int64_t i = first_class + row;
        return i < num_classes && k < neighbours ? r[k * num_classes + i] : T(0);
      },
      [&](int row, int64_t k) {
        const int64_t j = first_feature + row;
        return j < dim && k < neighbours ? feature_of<T>(keys, row_of[k], dim, j) : T(0);
      },
      total);
  for_each_entry(total, [&](int row, int column, double value) {
    const int64_t i = first_class + row, j = first_feature + column;
    if (i >= num_classes || j >= dim) return;
    const int64_t at = (query * num_classes + i) * dim + j;
    optimizer_step(optimizer, weight[at], state[at], static_cast<T>(value), lr);
  });
}

// One thread a (query, class): the bias's gradient and step. Grid: blocks of classes x queries.
template <class T>
__global__ void bias_step_kernel(int64_t neighbours, int64_t num_classes,
                                 const T* __restrict__ residual, Optimizer optimizer, T lr,
                                 T* __restrict__ bias, T* __restrict__ state) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= num_classes) return;
  const T* r = residual + static_cast<int64_t>(blockIdx.y) * neighbours * num_classes + i;
  T gradient = T(0);
  for (int64_t k = 0; k < neighbours; ++k) gradient += r[k * num_classes];
  const int64_t at = static_cast<int64_t>(blockIdx.y) * num_classes + i;
  optimizer_step(optimizer, bias[at], state[at], gradient, lr);
}

// Adapts the layers of queries [begin, begin + count); they are left in scratch.
template <class T>
cudaError_t adapt(const MbpaProblem<T>& p, const Resolved<T>& resolved, int64_t begin,
                  int64_t count, const MbpaScratch<T>& s, cudaStream_t stream) {
  const Neighbourhood<T>& n = p.neighbourhood;
  const int64_t classes = n.num_classes, first = begin * n.neighbours;
  const T first_state = static_cast<T>(initial_square_average(p.optimizer));
  if (n.dim > 0) {  // without features there are biases only
    CLFAST_LAUNCH((start_kernel<T>), grid_of(divide_up(classes * n.dim, kThreads), count),
                  dim3(kThreads), 0, stream, p.weight, classes * n.dim, first_state, s.weight,
                  s.weight_state);
  }
  CLFAST_LAUNCH((start_kernel<T>), grid_of(divide_up(classes, kThreads), count), dim3(kThreads), 0,
                stream, p.bias, classes, first_state, s.bias, s.bias_state);
  return dispatch_rows(n.keys, T{}, [&](auto* keys) {
    using Key = std::remove_const_t<std::remove_pointer_t<decltype(keys)>>;
    for (int64_t step = 0; step < p.steps; ++step) {
      CLFAST_LAUNCH((forward_kernel<T, Key>),
                    grid_of(divide_up(classes, kTile), divide_up(n.neighbours, kTile), count),
                    dim3(kThreads), 0, stream, keys, n.dim, n.neighbours, classes,
                    resolved.rows + first, s.weight, s.bias, s.logits);
      CLFAST_LAUNCH((residual_kernel<T>), grid_of(n.neighbours, count), dim3(kThreads), 0, stream,
                    n.neighbours, classes, resolved.labels + first, resolved.closeness + first,
                    s.logits);
      if (n.dim > 0) {
        CLFAST_LAUNCH((step_kernel<T, Key>),
                      grid_of(divide_up(n.dim, kTile), divide_up(classes, kTile), count),
                      dim3(kThreads), 0, stream, keys, n.dim, n.neighbours, classes,
                      resolved.rows + first, s.logits, p.optimizer, p.lr, s.weight, s.weight_state);
      }
      if (p.bias != nullptr) {
        CLFAST_LAUNCH((bias_step_kernel<T>), grid_of(divide_up(classes, kThreads), count),
                      dim3(kThreads), 0, stream, n.neighbours, classes, s.logits, p.optimizer, p.lr,
                      s.bias, s.bias_state);
      }
      const cudaError_t status = cudaGetLastError();
      if (status != cudaSuccess) return status;
    }
    return cudaGetLastError();
  });
}

}  // namespace clfast::cuda
