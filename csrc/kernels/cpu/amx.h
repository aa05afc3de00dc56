// Products of bfloat16 in the tiles of AMX: sixteen rows of sixteen pairs at a time.
#pragma once
#include <cstdint>

#include "../common/scalar.h"

namespace clfast::cpu {

// Linux on x86-64 alone has amx.cpp.
#if defined(__x86_64__) && defined(__linux__)
#define CLFAST_HAS_AMX 1
#else
#define CLFAST_HAS_AMX 0
#endif

constexpr int64_t kAmxRows = 32;   // of a block: two tiles
constexpr int64_t kAmxPairs = 16;  // of a tile's row; rows of both sides end in zeros up to that

// Whether this processor has such tiles, and Linux lets the process use them: the first call asks
// for that (arch_prctl), for good, since they make the state of a thread larger, and with it what a
// signal needs of a stack.
bool amx_is_permitted();

// Blocks of `rows` rows, 1 to kAmxRows, for as long as it lives: a thread's tiles take their shape
// from it.
class AmxBlock {
 public:
  explicit AmxBlock(int64_t rows);
  ~AmxBlock();
  AmxBlock(const AmxBlock&) = delete;
  AmxBlock& operator=(const AmxBlock&) = delete;

  // out[r][c] = sum_p rows[r][p] panel[p][c] over `depth` pairs, a multiple of kAmxPairs; `columns`
  // of panel and out are 16 or 32. Sums are of float, rounded to nearest; what is below the normal
  // range counts as zero.
  void multiply(const BFloat16Pair* rows, int64_t stride, const BFloat16Pair* panel,
                int64_t columns, int64_t depth, float* out) const;

 private:
  const int64_t rows_;
};

}  // namespace clfast::cpu
