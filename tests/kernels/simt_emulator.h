// The SIMT emulator: CUDA kernels compiled by a host compiler and run without a GPU, one fiber for
// every CUDA thread. csrc/kernels/cuda/launch.h includes it wherever nvcc does not compile, so a
// kernel's own text meets an oracle, the address sanitizer (global memory, dynamic shared memory,
// CLFAST_SHARED), the undefined-behaviour sanitizer (index overflow, misaligned vectors) and the
// thread sanitizer (a missing __syncthreads() or __syncwarp(), in whatever order threads run).
//
// A thread runs until it waits at a barrier, shuffle or vote, or returns; simt::set_order() says
// who is next. Without the thread sanitizer a missing barrier shows only in orders in which it
// changes a result, so results should be compared in several. Reported as simt::Error, with the
// block and what each thread waits for:
//   - a __syncthreads() that part of the block does not reach. Threads that returned count as
//     missing; hardware may let that pass, CUDA does not promise it. So do threads at another
//     __syncthreads() in the text;
//   - a warp operation whose mask leaves out the caller, names a lane that goes elsewhere, or
//     differs between lanes;
//   - shared memory beyond the limit of the launch.
// Launches that CUDA refuses set the same error for cudaGetLastError() and run nothing.
//
// What it cannot show:
//   - the memory model. A write is visible at once to whoever runs next, __threadfence() does
//     nothing and atomics take effect in the order of execution. The thread sanitizer sees
//     unordered accesses within a block, not between blocks;
//   - progress. One launch runs at a time, one block of it after another, and a thread that waits
//     for another by reading memory in a loop waits forever;
//   - divergence. Lanes of a warp do not run in step, and __activemask() is every lane that has not
//     returned;
//   - speed, registers, __launch_bounds__, streams (a launch is over when it returns);
//   - tensor cores, asynchronous copies, clusters, cooperative groups;
//   - the last bits of __expf, __logf and the other fast functions, which are exact here.
// A plain __shared__ variable is a `static`: it works, but keeps its content from block to block,
// and the address sanitizer may miss an access past its end that CLFAST_SHARED would show.
//
// Compile with -ffp-contract=off, and -ftrivial-auto-var-init=pattern to find uninitialised locals
// (they then hold 0xFE bytes).
#pragma once

#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "simt_launch.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

constexpr int warpSize = 32;

// ---- Vector types ----

#define SIMT_VECTOR_TYPES(scalar, name)                                \
  struct alignas(8) name##2 { scalar x, y; };                          \
  struct alignas(16) name##4 { scalar x, y, z, w; };                   \
  inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; } \
  inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }
SIMT_VECTOR_TYPES(int, int)
SIMT_VECTOR_TYPES(unsigned, uint)
SIMT_VECTOR_TYPES(float, float)
#undef SIMT_VECTOR_TYPES

struct alignas(16) double2 {
  double x, y;
};

inline double2 make_double2(double x, double y) { return {x, y}; }
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

// ---- Barriers, shuffles, votes ----

inline void __syncthreads(simt::Site site = simt::Site::here()) { simt::synchronize_block(site); }

inline void __syncwarp(unsigned mask = 0xffffffffu, simt::Site site = simt::Site::here()) {
  simt::warp_operation("__syncwarp", mask, 0, simt::kNoLane, site);
}

inline void __threadfence_block() {}
inline void __threadfence() {}

SIMT_UNTRACED inline unsigned __activemask() {
  return simt::machine.warps[simt::thread_number() / simt::kLanes].live;
}

inline unsigned __ballot_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  return static_cast<unsigned>(
      simt::warp_operation("__ballot_sync", mask, predicate != 0, simt::kNoLane, site));
}

inline int __any_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  return simt::warp_operation("__any_sync", mask, predicate != 0, simt::kNoLane, site) != 0;
}

inline int __all_sync(unsigned mask, int predicate, simt::Site site = simt::Site::here()) {
  return simt::warp_operation("__all_sync", mask, predicate == 0, simt::kNoLane, site) == 0;
}

namespace simt {

// The calling lane and the bounds of its group of `width` lanes. A shuffle that points past them
// gives a lane its own value.
struct Group {
  int lane, first, last;
};

inline Group group_of(int width) {
  if (width <= 0 || width > kLanes || (width & (width - 1)) != 0) {
    fail("the width of a shuffle is " + std::to_string(width) + ", not a power of 2 up to 32");
  }
  const int lane = thread_number() % kLanes, first = lane / width * width;
  return {lane, first, first + width - 1};
}

template <class T>
T shuffle_from(const char* operation, unsigned mask, T value, int source_lane, Site site) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) >= 4 && sizeof(T) <= 8,
                "CUDA shuffles int, unsigned, long, long long, float and double");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = warp_operation(operation, mask, bits, source_lane, site);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source_lane, int width = warpSize,
              simt::Site site = simt::Site::here()) {
  const simt::Group group = simt::group_of(width);
  const int source = group.first + (source_lane & (width - 1));
  return simt::shuffle_from("__shfl_sync", mask, value, source, site);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                 simt::Site site = simt::Site::here()) {
  const simt::Group group = simt::group_of(width);
  const int source = group.lane - static_cast<int>(delta & 31);
  return simt::shuffle_from("__shfl_up_sync", mask, value,
                            source >= group.first ? source : group.lane, site);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize,
                   simt::Site site = simt::Site::here()) {
  const simt::Group group = simt::group_of(width);
  const int source = group.lane + static_cast<int>(delta & 31);
  return simt::shuffle_from("__shfl_down_sync", mask, value,
                            source <= group.last ? source : group.lane, site);
}

// May read from an earlier group of lanes, not from a later one.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize,
                  simt::Site site = simt::Site::here()) {
  const simt::Group group = simt::group_of(width);
  const int source = group.lane ^ (lane_mask & 31);
  return simt::shuffle_from("__shfl_xor_sync", mask, value,
                            source <= group.last ? source : group.lane, site);
}

// ---- Atomics: the overloads that CUDA has, each returning the old value ----

namespace simt {

template <class T, class Update>
T atomic_update(T* address, Update update) {
  T old, next;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    next = update(old);
  } while (!__atomic_compare_exchange(address, &old, &next, /*weak=*/false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED));
  return old;
}

}  // namespace simt

#define SIMT_ATOMIC(name, T, next)                                         \
  inline T name(T* address, T value) {                                     \
    return simt::atomic_update(address, [=](T old) -> T { return next; }); \
  }
#define SIMT_ATOMICS_OF_INTEGERS(T)                    \
  SIMT_ATOMIC(atomicMax, T, old > value ? old : value) \
  SIMT_ATOMIC(atomicMin, T, old < value ? old : value) \
  SIMT_ATOMIC(atomicAnd, T, (old & value))             \
  SIMT_ATOMIC(atomicOr, T, (old | value))              \
  SIMT_ATOMIC(atomicXor, T, (old ^ value))
#define SIMT_ATOMICS_OF_WORDS(T)                                                              \
  SIMT_ATOMIC(atomicExch, T, (static_cast<void>(old), value))                                 \
  inline T atomicCAS(T* address, T compare, T value) {                                        \
    return simt::atomic_update(address, [=](T old) { return old == compare ? value : old; }); \
  }
using SimtULongLong = unsigned long long;
SIMT_ATOMICS_OF_INTEGERS(int)
SIMT_ATOMICS_OF_INTEGERS(unsigned)
SIMT_ATOMICS_OF_INTEGERS(long long)
SIMT_ATOMICS_OF_INTEGERS(SimtULongLong)
SIMT_ATOMICS_OF_WORDS(int)
SIMT_ATOMICS_OF_WORDS(unsigned)
SIMT_ATOMICS_OF_WORDS(SimtULongLong)
SIMT_ATOMIC(atomicExch, float, (static_cast<void>(old), value))
// int wraps around on a GPU.
SIMT_ATOMIC(atomicAdd, int, static_cast<int>(static_cast<unsigned>(old) + value))
SIMT_ATOMIC(atomicSub, int, static_cast<int>(static_cast<unsigned>(old) - value))
SIMT_ATOMIC(atomicAdd, unsigned, old + value)
SIMT_ATOMIC(atomicSub, unsigned, old - value)
SIMT_ATOMIC(atomicAdd, SimtULongLong, old + value)
SIMT_ATOMIC(atomicAdd, float, old + value)
SIMT_ATOMIC(atomicAdd, double, old + value)
#undef SIMT_ATOMICS_OF_WORDS
#undef SIMT_ATOMICS_OF_INTEGERS
#undef SIMT_ATOMIC

// ---- Bits, loads, arithmetic ----

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) {
  return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x));
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }

namespace simt {

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "of equal size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace simt

inline unsigned __float_as_uint(float x) { return simt::bits_as<unsigned>(x); }
inline int __float_as_int(float x) { return simt::bits_as<int>(x); }
inline float __uint_as_float(unsigned x) { return simt::bits_as<float>(x); }
inline float __int_as_float(int x) { return simt::bits_as<float>(x); }
inline long long __double_as_longlong(double x) { return simt::bits_as<long long>(x); }
inline double __longlong_as_double(long long x) { return simt::bits_as<double>(x); }

template <class T>
T __ldg(const T* address) {
  return *address;
}

// Where one number is a NaN the result is the other, as on a GPU.
template <class A, class B>
std::common_type_t<A, B> max(A a, B b) {
  static_assert(std::is_floating_point_v<A> == std::is_floating_point_v<B>, "one kind of number");
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmax(static_cast<T>(a), static_cast<T>(b));
  } else {
    return static_cast<T>(a) > static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
  }
}

template <class A, class B>
std::common_type_t<A, B> min(A a, B b) {
  static_assert(std::is_floating_point_v<A> == std::is_floating_point_v<B>, "one kind of number");
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) {
    return std::fmin(static_cast<T>(a), static_cast<T>(b));
  } else {
    return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(a) : static_cast<T>(b);
  }
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) noexcept { return expf(x); }
inline float __logf(float x) noexcept { return logf(x); }
inline float __log2f(float x) noexcept { return log2f(x); }
inline float __powf(float x, float y) noexcept { return powf(x, y); }
inline float __sinf(float x) noexcept { return sinf(x); }
inline float __cosf(float x) noexcept { return cosf(x); }
