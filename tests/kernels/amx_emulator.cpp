#include "amx_emulator.h"

#include <immintrin.h>
#include <signal.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace clfast::bind {

namespace {

constexpr int kTiles = 8, kMostRows = 16, kMostBytes = 64;

struct Tile {
  int rows = 0, bytes = 0;  // of its shape; what lies outside of it is zero
  alignas(64) uint8_t data[kMostRows][kMostBytes] = {};
};

struct Unit {
  bool configured = false;
  Tile tiles[kTiles];
};
thread_local Unit unit;

[[noreturn]] void fault(const char* what) {
  std::fprintf(stderr, "AMX emulator: %s\n", what);
  std::abort();
}

Tile& tile(int number) {
  if (!unit.configured) fault("tiles in use that have no shape");
  if (number >= kTiles) fault("there are eight tiles");
  Tile& found = unit.tiles[number];
  if (found.rows == 0 || found.bytes == 0) fault("a tile in use that has no shape");
  return found;
}

void load_shapes(const uint8_t* operand) {
  if (operand[0] != 1 || operand[1] != 0) fault("LDTILECFG: not palette 1 from its first row");
  for (int i = 2; i < 16; ++i) {
    if (operand[i] != 0) fault("LDTILECFG: reserved bytes that are not zero");
  }
  unit = Unit{};
  for (int t = 0; t < kTiles; ++t) {
    uint16_t bytes;
    std::memcpy(&bytes, operand + 16 + 2 * t, sizeof bytes);
    const int rows = operand[48 + t];
    if (bytes > kMostBytes || rows > kMostRows || (bytes == 0) != (rows == 0)) {
      fault("LDTILECFG: a shape that no tile has");
    }
    unit.tiles[t].bytes = bytes;
    unit.tiles[t].rows = rows;
  }
  for (int i = 32; i < 64; ++i) {
    const bool a_shape = i >= 48 && i < 48 + kTiles;
    if (!a_shape && operand[i] != 0) fault("LDTILECFG: a shape of a ninth tile");
  }
  unit.configured = true;
}

void load(Tile& to, const uint8_t* from, int64_t stride) {
  for (int r = 0; r < to.rows; ++r) std::memcpy(to.data[r], from + r * stride, to.bytes);
}

void store(const Tile& from, uint8_t* to, int64_t stride) {
  for (int r = 0; r < from.rows; ++r) std::memcpy(to + r * stride, from.data[r], from.bytes);
}

constexpr int kColumns = kMostBytes / 4;
using Sums = float[kColumns];

// The first (0) or the second (1) of every pair of a row.
void halves(const uint8_t* row, int part, Sums& out) {
  for (int n = 0; n < kColumns; ++n) {
    uint16_t bits;
    std::memcpy(&bits, row + 4 * n + 2 * part, sizeof bits);
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    std::memcpy(&out[n], &wide, sizeof wide);
  }
}

// Even and odd products are summed apart, by fused multiplications, and added to the destination in
// the end.
__attribute__((target("avx2,fma"), optimize("O3"))) void multiply_rows(Tile& to, const Tile& a,
                                                                       const Tile& b) {
  Sums right[kMostRows][2];
  for (int k = 0; k < b.rows; ++k) {
    for (const int part : {0, 1}) halves(b.data[k], part, right[k][part]);
  }
  for (int m = 0; m < to.rows; ++m) {
    Sums left[2], sums[2] = {}, sum;
    for (const int part : {0, 1}) halves(a.data[m], part, left[part]);
    for (int k = 0; k < b.rows; ++k) {
      for (const int part : {0, 1}) {
        for (int n = 0; n < kColumns; ++n) {
          sums[part][n] = __builtin_fmaf(left[part][k], right[k][part][n], sums[part][n]);
        }
      }
    }
    std::memcpy(sum, to.data[m], sizeof sum);
    for (int n = 0; n < kColumns; ++n) sum[n] += sums[0][n] + sums[1][n];
    std::memcpy(to.data[m], sum, to.bytes);
  }
}

void multiply(Tile& to, const Tile& a, const Tile& b) {
  if (to.rows != a.rows || to.bytes != b.bytes || a.bytes != 4 * b.rows) {
    fault("TDPBF16PS: shapes that do not fit each other");
  }
  // To nearest, no exceptions, and subnormal numbers are taken and given as zero.
  const unsigned before = _mm_getcsr();
  _mm_setcsr(0x1f80 | 0x8040);
  multiply_rows(to, a, b);
  _mm_setcsr(before);
}

// The general registers in the order of their numbers.
constexpr int kRegisters[] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                              REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                              REG_R12, REG_R13, REG_R14, REG_R15};

// A VEX-encoded instruction of map 0F38 without a width: the prefix, opcode, and operands.
struct Instruction {
  int prefix, opcode, reg, rm, vvvv, length;
  bool in_memory;
  uint8_t* address;
  int64_t stride;
};

bool decode(const uint8_t* at, const greg_t* registers, Instruction& found) {
  if (at[0] != 0xc4 || (at[1] & 0x1f) != 2 || (at[2] & 0x84) != 0) return false;
  const int index_bit = at[1] & 0x40 ? 0 : 8, base_bit = at[1] & 0x20 ? 0 : 8;
  found.prefix = at[2] & 3;
  found.vvvv = ~(at[2] >> 3) & 15;
  found.opcode = at[3];
  const int mode = at[4] >> 6;
  found.reg = ((at[4] >> 3) & 7) + (at[1] & 0x80 ? 0 : 8);
  found.rm = (at[4] & 7) + base_bit;
  found.in_memory = mode != 3;
  found.length = 5;
  found.stride = 0;
  found.address = nullptr;
  if (!found.in_memory) return true;
  int base = found.rm;
  if ((at[4] & 7) == 4) {
    const uint8_t sib = at[found.length++];
    const int index = ((sib >> 3) & 7) + index_bit;
    base = (sib & 7) + base_bit;
    if (index != 4) found.stride = registers[kRegisters[index]] << (sib >> 6);
  }
  if (mode == 0 && (base & 7) == 5) return false;  // relative to the instruction, or no base
  int64_t offset = 0;
  if (mode == 1) offset = static_cast<int8_t>(at[found.length++]);
  if (mode == 2) {
    int32_t wide;
    std::memcpy(&wide, at + found.length, sizeof wide);
    offset = wide;
    found.length += 4;
  }
  found.address = reinterpret_cast<uint8_t*>(registers[kRegisters[base]] + offset);
  return true;
}

bool carry_out(const Instruction& i) {
  enum { kNone, k66, kF3, kF2 };
  if (i.opcode == 0x49 && i.prefix == kNone && i.in_memory && i.reg == 0) {
    load_shapes(i.address);
  } else if (i.opcode == 0x49 && i.prefix == kNone && !i.in_memory && i.reg == 0 && i.rm == 0) {
    unit = Unit{};
  } else if (i.opcode == 0x49 && i.prefix == kF2 && !i.in_memory && i.rm == 0) {
    std::memset(tile(i.reg).data, 0, sizeof(Tile::data));
  } else if (i.opcode == 0x4b && i.prefix == kF2 && i.in_memory) {
    load(tile(i.reg), i.address, i.stride);
  } else if (i.opcode == 0x4b && i.prefix == kF3 && i.in_memory) {
    store(tile(i.reg), i.address, i.stride);
  } else if (i.opcode == 0x5c && i.prefix == kF3 && !i.in_memory) {
    if (i.reg == i.rm || i.reg == i.vvvv || i.rm == i.vvvv) fault("TDPBF16PS: a tile twice");
    multiply(tile(i.reg), tile(i.rm), tile(i.vvvv));
  } else {
    return false;
  }
  return true;
}

void on_illegal_instruction(int, siginfo_t*, void* context) {
  greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  // As many as follow one another: a signal takes longer than they do.
  bool some = false;
  Instruction found{};
  const auto next = [&] { return reinterpret_cast<const uint8_t*>(registers[REG_RIP]); };
  while (decode(next(), registers, found) && carry_out(found)) {
    registers[REG_RIP] += found.length;
    some = true;
  }
  if (!some) signal(SIGILL, SIG_DFL);  // it is raised again, and ends the process
}

}  // namespace

void emulate_amx() {
  struct sigaction action = {};
  action.sa_sigaction = on_illegal_instruction;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;  // on the thread's own stack: tiles are large
  sigaction(SIGILL, &action, nullptr);
}

}  // namespace clfast::bind
