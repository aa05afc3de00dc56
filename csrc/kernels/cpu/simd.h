// The SIMD level in use: detected once by CPUID, capped by CLFAST_SIMD, changed by tests.
#pragma once

namespace clfast::cpu {

// kAvx512Bf16 and kAmx run the kernels of kAvx512, with products of bfloat16 where knn looks for
// candidates: of vectors, or of tiles.
enum class Simd : int { kBase = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kAmx = 4 };

Simd simd_level();
Simd best_simd_level();           // what this processor has; asks for AMX, see amx.h
void set_simd_level(Simd level);  // values above best_simd_level() are lowered to it
const char* simd_name(Simd level);
// Whether products of bfloat16 are of tiles: at kAmx. Tests that emulate AMX have them at kAvx2.
bool amx_in_use();
void set_amx_emulated(bool emulated);

}  // namespace clfast::cpu

// CLFAST_DECLARE_PER_LEVEL(void f(int);) declares f in namespaces base, avx2 and avx512;
// CLFAST_CALL_AT(level, f(3)) returns f(3) of that level, CLFAST_CALL_AT_LEVEL(f(3)) of the level
// in use. Only x86-64 has levels above base.
#if defined(__x86_64__)
#define CLFAST_DECLARE_PER_LEVEL(...) \
  namespace base {                    \
  __VA_ARGS__                         \
  }                                   \
  namespace avx2 {                    \
  __VA_ARGS__                         \
  }                                   \
  namespace avx512 {                  \
  __VA_ARGS__                         \
  }
#define CLFAST_CALL_AT(level, ...)         \
  switch (level) {                         \
    case ::clfast::cpu::Simd::kAvx512:     \
    case ::clfast::cpu::Simd::kAvx512Bf16: \
    case ::clfast::cpu::Simd::kAmx:        \
      return avx512::__VA_ARGS__;          \
    case ::clfast::cpu::Simd::kAvx2:       \
      return avx2::__VA_ARGS__;            \
    default:                               \
      return base::__VA_ARGS__;            \
  }
#else
#define CLFAST_DECLARE_PER_LEVEL(...) \
  namespace base {                    \
  __VA_ARGS__                         \
  }
#define CLFAST_CALL_AT(level, ...) return static_cast<void>(level), base::__VA_ARGS__
#endif
#define CLFAST_CALL_AT_LEVEL(...) CLFAST_CALL_AT(::clfast::cpu::simd_level(), __VA_ARGS__)
