#include "amx.h"

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace clfast::cpu {

namespace {

#define CLFAST_AMX __attribute__((target("amx-tile,amx-bf16")))

constexpr int64_t kTileRows = 16;
constexpr int64_t kRowBytes = kAmxPairs * static_cast<int64_t>(sizeof(BFloat16Pair));

// The operand of LDTILECFG, palette 1.
struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t height) {
    row_bytes[tile] = static_cast<uint16_t>(kRowBytes);
    rows[tile] = static_cast<uint8_t>(height);
  }
};
static_assert(sizeof(Shapes) == 64);

// Tiles 0 to 3 hold sums, 4 and 5 the upper and lower rows, 6 and 7 the columns of a panel.
template <bool kLower, bool kRight>
CLFAST_AMX void multiply_tiles(const BFloat16Pair* rows, int64_t stride, const BFloat16Pair* panel,
                               int64_t columns, int64_t depth, float* out) {
  const int64_t row_bytes = stride * static_cast<int64_t>(sizeof *rows);
  const int64_t column_bytes = columns * static_cast<int64_t>(sizeof *panel);
  // The compiler does not know that tiles are read from memory.
  asm volatile("" ::: "memory");
  _tile_zero(0);
  if constexpr (kRight) _tile_zero(1);
  if constexpr (kLower) _tile_zero(2);
  if constexpr (kLower && kRight) _tile_zero(3);
  for (int64_t p = 0; p < depth; p += kAmxPairs) {
    _tile_loadd(4, rows + p, row_bytes);
    _tile_loadd(6, panel + p * columns, column_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kRight) {
      _tile_loadd(7, panel + p * columns + kAmxPairs, column_bytes);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kLower) {
      _tile_loadd(5, rows + kTileRows * stride + p, row_bytes);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kRight) _tile_dpbf16ps(3, 5, 7);
    }
  }
  float* const lower = out + kTileRows * columns;
  _tile_stored(0, out, column_bytes);
  if constexpr (kRight) _tile_stored(1, out + kAmxPairs, column_bytes);
  if constexpr (kLower) _tile_stored(2, lower, column_bytes);
  if constexpr (kLower && kRight) _tile_stored(3, lower + kAmxPairs, column_bytes);
  asm volatile("" ::: "memory");
}

CLFAST_AMX void load_shapes(const Shapes& shapes) {
  // GCC 12's intrinsic names 8 of the 64 bytes that it reads: without this the rest might never
  // reach the memory.
  asm volatile("" ::"r"(&shapes) : "memory");
  _tile_loadconfig(&shapes);
}

CLFAST_AMX void release_tiles() { _tile_release(); }

}  // namespace

bool amx_is_permitted() {
  static const bool permitted = [] {
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (edx & kBf16) && (edx & kTile) &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return permitted;
}

AmxBlock::AmxBlock(int64_t rows) : rows_(rows) {
  Shapes shapes;
  const int64_t upper = std::min(rows, kTileRows), lower = rows - upper;
  for (const int tile : {0, 1, 4}) shapes.set(tile, upper);
  if (lower > 0) {
    for (const int tile : {2, 3, 5}) shapes.set(tile, lower);
  }
  for (const int tile : {6, 7}) shapes.set(tile, kTileRows);
  load_shapes(shapes);
}

AmxBlock::~AmxBlock() { release_tiles(); }

void AmxBlock::multiply(const BFloat16Pair* rows, int64_t stride, const BFloat16Pair* panel,
                        int64_t columns, int64_t depth, float* out) const {
  const bool lower = rows_ > kTileRows, right = columns > kAmxPairs;
  const auto run = lower ? (right ? multiply_tiles<true, true> : multiply_tiles<true, false>)
                         : (right ? multiply_tiles<false, true> : multiply_tiles<false, false>);
  run(rows, stride, panel, columns, depth, out);
}

}  // namespace clfast::cpu
