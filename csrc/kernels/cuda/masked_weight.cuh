// Weights times their soft masks, how much of what is free the masks take, and both gradients. All
// layers of a launch form one row of elements; sums of parts have one order.
#pragma once
#include <cmath>

#include "list_table.cuh"
#include "masks.h"

namespace clfast::cuda {

template <class T>
__device__ __forceinline__ T decay_of(T x) {
  return exp(x < T(0) ? x : -x);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mask_weights_kernel(ListTable<MaskedEntry<T>> table, int64_t elements, T scale,
                        PartOfSparsity* __restrict__ parts) {
  CLFAST_SHARED(double[kWarps], used_of_warps);
  CLFAST_SHARED(int64_t[kWarps], free_of_warps);
  double used = 0;
  int64_t free = 0;
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    const MaskedEntry<T>& layer = table.of[at];
    const int64_t run = layer.inner == 1 ? i : i / layer.inner;
    const int64_t c = run < layer.channels ? run : run % layer.channels;
    const T x = scale * layer.embedding[c];
    const T m = soft_mask(x, decay_of(x));
    if (layer.masked != nullptr) layer.masked[i] = layer.weight[i] * m;
    // Every channel counts once: at the first element of its first run.
    if (run == c && i == run * layer.inner && !is_reserved(layer.reserved, c)) {
      used += static_cast<double>(m);
      ++free;
    }
  });
  used = block_sum<kThreads>(used, used_of_warps);
  free = block_sum<kThreads>(free, free_of_warps);
  if (threadIdx.x == 0) parts[blockIdx.x] = {used, free};
}

// One block.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sparsity_kernel(const PartOfSparsity* __restrict__ parts, int64_t count, T* __restrict__ value,
                    int64_t* __restrict__ total) {
  CLFAST_SHARED(double[kWarps], used_of_warps);
  CLFAST_SHARED(int64_t[kWarps], free_of_warps);
  double used = 0;
  int64_t free = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    used += parts[i].used;
    free += parts[i].free;
  }
  used = block_sum<kThreads>(used, used_of_warps);
  free = block_sum<kThreads>(free, free_of_warps);
  if (threadIdx.x != 0) return;
  if (value != nullptr) *value = static_cast<T>(used / static_cast<double>(free > 0 ? free : 1));
  if (total != nullptr) *total = free;
}

// The loss's gradient by one free entry of the masks.
template <class T>
__device__ __forceinline__ T share_of(const T* sparsity_grad, const int64_t* free) {
  const double grad = sparsity_grad != nullptr ? static_cast<double>(*sparsity_grad) : 1.0;
  return static_cast<T>(grad / static_cast<double>(*free > 0 ? *free : 1));
}

// The gradient by an embedding; of_mask: the loss's by its mask, without the sparsity's part.
template <class T>
__device__ __forceinline__ T embedding_grad(const MaskedGradEntry<T>& layer, int64_t c,
                                            const MaskScales<T>& scales, T of_mask, T share) {
  const T e = layer.embedding[c];
  const T slope = scales.compensated ? scales.max_scale * soft_mask_slope(decay_of(e))
                                     : scales.scale * soft_mask_slope(decay_of(scales.scale * e));
  return slope * (of_mask + (is_reserved(layer.reserved, c) ? T(0) : share));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mask_weights_backward_kernel(ListTable<MaskedGradEntry<T>> table, int64_t elements,
                                 MaskScales<T> scales, const T* __restrict__ sparsity_grad,
                                 const int64_t* __restrict__ free) {
  const T share = share_of(sparsity_grad, free);
  for_elements(table, elements, [&](int64_t at, int64_t i) {
    const MaskedGradEntry<T>& layer = table.of[at];
    T of_mask = T(0);
    if (layer.grad != nullptr) {
      const T x = scales.scale * layer.embedding[i], g = layer.grad[i];
      of_mask = g * layer.weight[i];
      layer.d_weight[i] = g * soft_mask(x, decay_of(x));
    }
    layer.d_embedding[i] = embedding_grad(layer, i, scales, of_mask, share);
  });
}

// One block a channel, in turns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    mask_channels_backward_kernel(ListTable<MaskedGradEntry<T>> table, int64_t channels,
                                  MaskScales<T> scales, const T* __restrict__ sparsity_grad,
                                  const int64_t* __restrict__ free) {
  CLFAST_SHARED(double[kWarps], shared);
  const T share = share_of(sparsity_grad, free);
  for (int64_t at = blockIdx.x; at < channels; at += gridDim.x) {
    const Piece piece = piece_at(table, at, at + 1);
    const MaskedGradEntry<T>& layer = table.of[piece.tensor];
    const int64_t c = piece.offset;
    const T x = scales.scale * layer.embedding[c], m = soft_mask(x, decay_of(x));
    double sum = 0;
    for (int64_t j = threadIdx.x; j < layer.outer * layer.inner; j += kThreads) {
      const int64_t outer = j / layer.inner, inner = j - outer * layer.inner;
      const int64_t i = (outer * layer.channels + c) * layer.inner + inner;
      const T g = layer.grad[i];
      sum += static_cast<double>(g) * static_cast<double>(layer.weight[i]);
      layer.d_weight[i] = g * m;
    }
    sum = block_sum<kThreads>(sum, shared);
    if (threadIdx.x == 0) {
      layer.d_embedding[c] = embedding_grad(layer, c, scales, static_cast<T>(sum), share);
    }
  }
}

template <class T>
int64_t parts_of_masks(const int64_t* ends, int64_t count) {
  return parts_of_launches<kEntriesOfALaunch<MaskedEntry<T>>>(ends, count);
}

template <class T>
cudaError_t mask_weights(const MaskedEntry<T>* layers, const int64_t* ends, int64_t count, T scale,
                         PartOfSparsity* parts, T* value, int64_t* free, cudaStream_t stream) {
  int64_t made = 0;
  for_tables(layers, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    CLFAST_LAUNCH((mask_weights_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream, table,
                  elements, scale, parts + made);
    made += blocks;
  });
  if (value != nullptr || free != nullptr) {
    CLFAST_LAUNCH((sparsity_kernel<T>), dim3(1), dim3(kThreads), 0, stream, parts, made, value,
                  free);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t mask_weights_backward(const MaskedGradEntry<T>* layers, const int64_t* ends,
                                  int64_t count, bool spread, const MaskScales<T>& scales,
                                  const T* sparsity_grad, const int64_t* free,
                                  cudaStream_t stream) {
  for_tables(layers, ends, count, [&](const auto& table, int64_t blocks, int64_t elements) {
    if (spread) {
      const int64_t most = elements < 65535 ? elements : 65535;
      CLFAST_LAUNCH((mask_channels_backward_kernel<T>), grid_of(most), dim3(kThreads), 0, stream,
                    table, elements, scales, sparsity_grad, free);
    } else {
      CLFAST_LAUNCH((mask_weights_backward_kernel<T>), grid_of(blocks), dim3(kThreads), 0, stream,
                    table, elements, scales, sparsity_grad, free);
    }
  });
  return cudaGetLastError();
}

}  // namespace clfast::cuda
