#include "simd.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "amx.h"

namespace clfast::cpu {

namespace {

// What this processor has, but for AMX.
Simd best_vectors() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) {
    return __builtin_cpu_supports("avx512bf16") ? Simd::kAvx512Bf16 : Simd::kAvx512;
  }
  if (avx2) return Simd::kAvx2;
#endif
  return Simd::kBase;
}

// The highest level up to `wish`; AMX is not asked for below it.
Simd level_up_to(Simd wish) {
  const Simd best = best_vectors();
  if (wish < Simd::kAmx || best < Simd::kAvx512Bf16) return wish < best ? wish : best;
#if CLFAST_HAS_AMX
  if (amx_is_permitted()) return Simd::kAmx;
#endif
  return best;
}

Simd level_at_start() {
  const char* wish = std::getenv("CLFAST_SIMD");
  if (wish == nullptr) return level_up_to(Simd::kAmx);
  for (const Simd level :
       {Simd::kBase, Simd::kAvx2, Simd::kAvx512, Simd::kAvx512Bf16, Simd::kAmx}) {
    if (std::strcmp(wish, simd_name(level)) == 0) return level_up_to(level);
  }
  const Simd best = level_up_to(Simd::kAmx);
  std::fprintf(stderr,
               "clfast: CLFAST_SIMD=%s is none of base, avx2, avx512, avx512_bf16, amx; using %s\n",
               wish, simd_name(best));
  return best;
}

std::atomic<Simd>& current() {
  static std::atomic<Simd> level{level_at_start()};
  return level;
}

std::atomic<bool> amx_emulated{false};

}  // namespace

bool amx_in_use() {
  return simd_level() == Simd::kAmx || amx_emulated.load(std::memory_order_relaxed);
}

void set_amx_emulated(bool emulated) { amx_emulated.store(emulated, std::memory_order_relaxed); }

Simd best_simd_level() { return level_up_to(Simd::kAmx); }

Simd simd_level() { return current().load(std::memory_order_relaxed); }

void set_simd_level(Simd level) { current().store(level_up_to(level), std::memory_order_relaxed); }

const char* simd_name(Simd level) {
  switch (level) {
    case Simd::kAmx:
      return "amx";
    case Simd::kAvx512Bf16:
      return "avx512_bf16";
    case Simd::kAvx512:
      return "avx512";
    case Simd::kAvx2:
      return "avx2";
    default:
      return "base";
  }
}

}  // namespace clfast::cpu
