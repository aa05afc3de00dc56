// Formulas that CPU and CUDA kernels share are written once, with CLFAST_HD in front.
//
//   template <class T>
//   CLFAST_HD T square(T x) { return x * x; }
//
// Internal linkage is on purpose. The same formula is included by the CPU units that are compiled
// once per SIMD level. As a plain inline function it would become a weak symbol in each of them,
// the linker would keep one copy for all, and if it kept the AVX-512 copy, a machine without
// AVX-512 would die of SIGILL in its baseline kernel.
#pragma once

#ifdef __CUDACC__
#define CLFAST_HD [[maybe_unused]] static __host__ __device__ __forceinline__
#else
#define CLFAST_HD static inline __attribute__((always_inline))
#endif
