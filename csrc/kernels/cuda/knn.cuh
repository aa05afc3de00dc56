// Exact k nearest neighbours: all distances of a chunk of queries in difference form, then for each
// query a radix selection of the k-th smallest and a sort of the k that remain.
#pragma once
#include <type_traits>

#include "../common/ordering.h"
#include "launch.h"
#include "product_tile.cuh"
#include "retrieval.h"

namespace clfast::cuda {

// distances[q, m] = |query_q - key_m|^2. Grid: tiles of keys x tiles of queries.
template <class T, class Key>
__global__ void __launch_bounds__(kThreads)
    distances_kernel(const T* __restrict__ queries, int64_t batch, const Key* __restrict__ keys,
                     int64_t memory_size, int64_t dim, T* __restrict__ distances) {
  const int64_t first_query = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t first_key = static_cast<int64_t>(blockIdx.x) * kTile;
  double total[kPerThread][kPerThread];
  accumulate_tile<SquaredDifferenceAdd, true, true, T>(
      dim,
      [&](int row, int64_t p) {
        const int64_t q = first_query + row;
        return q < batch && p < dim ? queries[q * dim + p] : T(0);
      },
      [&](int row, int64_t p) {
        const int64_t m = first_key + row;
        return m < memory_size && p < dim ? static_cast<T>(widen(keys[m * dim + p])) : T(0);
      },
      total);
  for_each_entry(total, [&](int row, int column, double value) {
    const int64_t q = first_query + row, m = first_key + column;
    if (q < batch && m < memory_size) distances[q * memory_size + m] = static_cast<T>(value);
  });
}

// The k-th smallest order among `count` distances, and how many are smaller than it: eight bits a
// pass, from the top. `histogram` [256] and `found` [2] are shared memory.
template <class T>
__device__ uint64_t select_kth(const T* distances, int64_t count, int64_t k, unsigned* histogram,
                               unsigned long long* found, int64_t* smaller) {
  using Order = decltype(order_of(T{}));
  Order prefix = 0;
  int64_t rank = k;  // 1-based, among those that share the prefix
  for (int shift = 8 * static_cast<int>(sizeof(Order)) - 8; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < 256; i += kThreads) histogram[i] = 0;
    __syncthreads();
    for (int64_t m = threadIdx.x; m < count; m += kThreads) {
      const Order order = order_of(distances[m]);
      // The part above this pass's digit; a shift by the full width would be undefined.
      const bool same = shift + 8 == 8 * static_cast<int>(sizeof(Order)) ||
                        (order >> (shift + 8)) == (prefix >> (shift + 8));
      if (same) atomicAdd(&histogram[(order >> shift) & 255], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int64_t below = 0;
      int digit = 0;
      while (below + histogram[digit] < rank) below += histogram[digit++];
      found[0] = static_cast<unsigned long long>(digit);
      found[1] = static_cast<unsigned long long>(rank - below);
    }
    __syncthreads();
    prefix |= static_cast<Order>(found[0]) << shift;
    rank = static_cast<int64_t>(found[1]);
    __syncthreads();
  }
  *smaller = k - rank;
  return prefix;
}

// Where this thread's element goes among the flagged ones of the block, in thread order; `base` is
// advanced by their number. `warp_counts` [kWarps] is shared memory.
__device__ inline int64_t block_rank(bool flag, int64_t* base, unsigned* warp_counts) {
  const unsigned ballot = __ballot_sync(kFullWarp, flag);
  const int lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;
  if (lane == 0) warp_counts[warp] = __popc(ballot);
  __syncthreads();
  int64_t before = *base;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += warp_counts[w];
    *base += warp_counts[w];
  }
  __syncthreads();
  return before + __popc(ballot & ((1u << lane) - 1u));
}

// One block a query. The k nearest are gathered in row order, so that of equal distances at the
// threshold the smaller rows stay, and then sorted by (distance, row).
template <class T>
__global__ void __launch_bounds__(kThreads)
    select_kernel(const T* __restrict__ distances, int64_t memory_size, int64_t k, int64_t padded,
                  SortEntry<T>* __restrict__ scratch, T* __restrict__ sq_distances,
                  int64_t* __restrict__ indices) {
  CLFAST_SHARED(unsigned[256], histogram);
  CLFAST_SHARED(unsigned[kWarps], warp_counts);
  CLFAST_SHARED(unsigned long long[2], found);
  const int64_t query = blockIdx.x;
  const T* mine = distances + query * memory_size;
  SortEntry<T>* entries = scratch + query * padded;

  int64_t smaller;
  const uint64_t kth = select_kth(mine, memory_size, k, histogram, found, &smaller);
  int64_t next_smaller = 0, next_equal = smaller;
  for (int64_t begin = 0; begin < memory_size; begin += kThreads) {
    const int64_t m = begin + threadIdx.x;
    const uint64_t order = m < memory_size ? order_of(mine[m]) : ~uint64_t(0);
    const bool is_smaller = m < memory_size && order < kth;
    const bool is_equal = m < memory_size && order == kth;
    const int64_t place_smaller = block_rank(is_smaller, &next_smaller, warp_counts);
    const int64_t place_equal = block_rank(is_equal, &next_equal, warp_counts);
    if (is_smaller) entries[place_smaller] = {order, m};
    if (is_equal && place_equal < k) entries[place_equal] = {order, m};
  }
  for (int64_t i = k + threadIdx.x; i < padded; i += kThreads) {
    entries[i] = {~uint64_t(0), INT64_MAX};
  }

  // Bitonic sort: within runs of `width`, pairs `stride` apart.
  for (int64_t width = 2; width <= padded; width *= 2) {
    for (int64_t stride = width / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int64_t i = threadIdx.x; i < padded; i += kThreads) {
        const int64_t j = i ^ stride;
        if (j < i) continue;
        const SortEntry<T> a = entries[i], b = entries[j];
        const bool a_behind = a.order != b.order ? a.order > b.order : a.row > b.row;
        if (a_behind == ((i & width) == 0)) {
          entries[i] = b;
          entries[j] = a;
        }
      }
    }
  }
  __syncthreads();
  using Order = decltype(order_of(T{}));
  for (int64_t i = threadIdx.x; i < k; i += kThreads) {
    sq_distances[query * k + i] = distance_of(static_cast<Order>(entries[i].order));
    indices[query * k + i] = entries[i].row;
  }
}

template <class T>
cudaError_t compute_distances(const T* queries, int64_t batch, Rows keys, int64_t memory_size,
                              int64_t dim, T* distances, cudaStream_t stream) {
  return dispatch_rows(keys, T{}, [&](auto* data) {
    using Key = std::remove_const_t<std::remove_pointer_t<decltype(data)>>;
    CLFAST_LAUNCH((distances_kernel<T, Key>),
                  grid_of(divide_up(memory_size, kTile), divide_up(batch, kTile)), dim3(kThreads),
                  0, stream, queries, batch, data, memory_size, dim, distances);
    return cudaGetLastError();
  });
}

template <class T>
cudaError_t select_nearest(const T* distances, int64_t batch, int64_t memory_size, int64_t k,
                           SortEntry<T>* entries, T* sq_distances, int64_t* indices,
                           cudaStream_t stream) {
  CLFAST_LAUNCH((select_kernel<T>), grid_of(batch), dim3(kThreads), 0, stream, distances,
                memory_size, k, entries_per_query(k), entries, sq_distances, indices);
  return cudaGetLastError();
}

template <class T>
cudaError_t knn(const KnnProblem<T>& p, const KnnScratch<T>& scratch, T* sq_distances,
                int64_t* indices, cudaStream_t stream) {
  for (int64_t begin = 0; begin < p.batch; begin += scratch.chunk) {
    const int64_t count = p.batch - begin < scratch.chunk ? p.batch - begin : scratch.chunk;
    cudaError_t status = compute_distances(p.queries + begin * p.dim, count, p.keys, p.memory_size,
                                           p.dim, scratch.distances, stream);
    if (status != cudaSuccess) return status;
    status = select_nearest(scratch.distances, count, p.memory_size, p.k, scratch.entries,
                            sq_distances + begin * p.k, indices + begin * p.k, stream);
    if (status != cudaSuccess) return status;
  }
  return cudaSuccess;
}

}  // namespace clfast::cuda
