// How a block walks through its part of the row that the tensors of a launch form.
#pragma once
#include "../common/gradient_lists.h"
#include "list_launches.h"
#include "rows.cuh"

namespace clfast::cuda {

// f(tensor, i) for element i of a tensor, all elements of the block, its threads side by side.
// Table: anything with the members `ends`, in the row of this launch, and `tensors`.
template <class Table, class F>
__device__ __forceinline__ void for_elements(const Table& table, int64_t elements, F&& f) {
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kElementsOfABlock; first < elements;
       first += static_cast<int64_t>(gridDim.x) * kElementsOfABlock) {
    const int64_t last = min(first + kElementsOfABlock, elements);
    for (int64_t at = first; at < last;) {
      const Piece piece = piece_at(table, at, last);
      for (int64_t i = threadIdx.x; i < piece.count; i += kThreads) {
        f(piece.tensor, piece.offset + i);
      }
      at += piece.count;
    }
  }
}

// The sum of what the blocks of all launches have found, by one block; `shared` as of block_sum().
__device__ __forceinline__ double sum_of_parts(const double* sums, int64_t parts, double* shared) {
  double all = 0;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) all += sums[i];
  return block_sum<kThreads>(all, shared);
}

}  // namespace clfast::cuda
