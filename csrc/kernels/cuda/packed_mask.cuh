// Masks of one bit an element, and the reservation of what embeddings open.
#pragma once
#include "masks.h"
#include "rows.cuh"

namespace clfast::cuda {

// One thread a byte.
static __global__ void __launch_bounds__(kThreads)
    pack_mask_kernel(const uint8_t* __restrict__ mask, int64_t elements,
                     uint8_t* __restrict__ packed) {
  const int64_t byte = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t first = 8 * byte, rest = elements - first;
  if (rest <= 0) return;
  unsigned bits = 0;
  for (int64_t j = 0; j < 8 && j < rest; ++j) {
    bits |= static_cast<unsigned>(mask[first + j] != 0) << j;
  }
  packed[byte] = static_cast<uint8_t>(bits);
}

static __global__ void __launch_bounds__(kThreads)
    unpack_mask_kernel(const uint8_t* __restrict__ packed, int64_t elements,
                       uint8_t* __restrict__ mask) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < elements) mask[i] = is_reserved({packed, true}, i);
}

// One block; a thread takes whole bytes of a packed mask.
template <class T>
__global__ void __launch_bounds__(kThreads)
    reserve_kernel(uint8_t* __restrict__ marks, bool packed, const T* __restrict__ embedding,
                   int64_t elements, int64_t* __restrict__ fresh) {
  CLFAST_SHARED(int64_t[kWarps], shared);
  int64_t count = 0;
  for (int64_t first = 8 * static_cast<int64_t>(threadIdx.x); first < elements;
       first += 8 * kThreads) {
    for (int64_t i = first; i < first + 8 && i < elements; ++i) {
      if (!(embedding[i] >= T(0)) || is_reserved({marks, packed}, i)) continue;
      uint8_t& mark = marks[packed ? i / 8 : i];
      mark = static_cast<uint8_t>(packed ? mark | 1u << (i % 8) : 1u);
      ++count;
    }
  }
  count = block_sum<kThreads>(count, shared);
  if (threadIdx.x == 0) *fresh = count;
}

cudaError_t pack_mask(const uint8_t* mask, int64_t elements, uint8_t* packed, cudaStream_t stream) {
  if (elements == 0) return cudaSuccess;
  CLFAST_LAUNCH(pack_mask_kernel, grid_of(divide_up(elements, 8 * kThreads)), dim3(kThreads), 0,
                stream, mask, elements, packed);
  return cudaGetLastError();
}

cudaError_t unpack_mask(const uint8_t* packed, int64_t elements, uint8_t* mask,
                        cudaStream_t stream) {
  if (elements == 0) return cudaSuccess;
  CLFAST_LAUNCH(unpack_mask_kernel, grid_of(divide_up(elements, kThreads)), dim3(kThreads), 0,
                stream, packed, elements, mask);
  return cudaGetLastError();
}

template <class T>
cudaError_t reserve(uint8_t* marks, bool packed, const T* embedding, int64_t elements,
                    int64_t* fresh, cudaStream_t stream) {
  CLFAST_LAUNCH((reserve_kernel<T>), dim3(1), dim3(kThreads), 0, stream, marks, packed, embedding,
                elements, fresh);
  return cudaGetLastError();
}

}  // namespace clfast::cuda
