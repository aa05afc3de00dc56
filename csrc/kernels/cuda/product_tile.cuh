// A 64 x 64 tile of sum_p combine(a[r, p], b[c, p]), 4 x 4 entries a thread, through shared memory.
#pragma once
#include "rows.cuh"

namespace clfast::cuda {

constexpr int kTile = 64;       // rows and columns of a tile
constexpr int kTileDepth = 16;  // terms held in shared memory at a time
constexpr int kPerThread = 4;
constexpr int kSide = kTile / kPerThread;  // threads along a side: 16 x 16

// One more column than needed: threads that walk down a column meet 32 different banks.
template <class T>
using TileHalf = T[kTileDepth][kTile + 1];

struct MultiplyAdd {
  template <class T>
  __device__ __forceinline__ T operator()(T sum, T a, T b) const {
    return sum + a * b;
  }
};
struct SquaredDifferenceAdd {
  template <class T>
  __device__ __forceinline__ T operator()(T sum, T a, T b) const {
    const T difference = a - b;
    return sum + difference * difference;
  }
};

// a(r, p) and b(c, p) read an operand at its row of this tile, and return 0 outside. kDepthFast
// says that neighbouring p, not neighbouring rows, are neighbours in memory.
template <bool kDepthFast, class T, class Read>
__device__ __forceinline__ void fill(TileHalf<T>& half, int64_t depth_begin, Read&& read) {
  for (int i = threadIdx.x; i < kTile * kTileDepth; i += kThreads) {
    const int row = kDepthFast ? i / kTileDepth : i % kTile;
    const int p = kDepthFast ? i % kTileDepth : i / kTile;
    half[p][row] = read(row, depth_begin + p);
  }
}

// Entry (r, c) of a thread is row threadIdx.x / 16 + 16 r and column threadIdx.x % 16 + 16 c of the
// tile. Sums of 16 terms in T are added up in double: the relative error of a sum of squares stays
// below 20 roundings (1.2e-6 in float32), whatever the depth.
template <class Combine, bool kADepthFast, bool kBDepthFast, class T, class ReadA, class ReadB>
__device__ __forceinline__ void accumulate_tile(int64_t depth, ReadA&& a, ReadB&& b,
                                                double (&total)[kPerThread][kPerThread]) {
  CLFAST_SHARED(TileHalf<T>, half_a);
  CLFAST_SHARED(TileHalf<T>, half_b);
  const int row = threadIdx.x / kSide, column = threadIdx.x % kSide;
  T sum[kPerThread][kPerThread];
  CLFAST_UNROLL
  for (int r = 0; r < kPerThread; ++r) {
    CLFAST_UNROLL
    for (int c = 0; c < kPerThread; ++c) {
      sum[r][c] = T(0);
      total[r][c] = 0;
    }
  }
  for (int64_t p0 = 0; p0 < depth; p0 += kTileDepth) {
    fill<kADepthFast, T>(half_a, p0, a);
    fill<kBDepthFast, T>(half_b, p0, b);
    __syncthreads();
    CLFAST_UNROLL
    for (int p = 0; p < kTileDepth; ++p) {
      T x[kPerThread], y[kPerThread];
      CLFAST_UNROLL
      for (int i = 0; i < kPerThread; ++i) {
        x[i] = half_a[p][row + kSide * i];
        y[i] = half_b[p][column + kSide * i];
      }
      CLFAST_UNROLL
      for (int r = 0; r < kPerThread; ++r) {
        CLFAST_UNROLL
        for (int c = 0; c < kPerThread; ++c) sum[r][c] = Combine{}(sum[r][c], x[r], y[c]);
      }
    }
    __syncthreads();
    CLFAST_UNROLL
    for (int r = 0; r < kPerThread; ++r) {
      CLFAST_UNROLL
      for (int c = 0; c < kPerThread; ++c) {
        total[r][c] += static_cast<double>(sum[r][c]);
        sum[r][c] = T(0);
      }
    }
  }
}

// f(row of the tile, column of the tile, value) for every entry of this thread.
template <class F>
__device__ __forceinline__ void for_each_entry(const double (&total)[kPerThread][kPerThread],
                                               F&& f) {
  CLFAST_UNROLL
  for (int r = 0; r < kPerThread; ++r) {
    CLFAST_UNROLL
    for (int c = 0; c < kPerThread; ++c) {
      f(static_cast<int>(threadIdx.x) / kSide + kSide * r,
        static_cast<int>(threadIdx.x) % kSide + kSide * c, total[r][c]);
    }
  }
}

}  // namespace clfast::cuda
