// Included once per SIMD level.
#include "herding.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Members lie in blocks of so many, [pairs of columns, kBlock] each: their products with a target
// need no sum over lanes, and every pick reads one stream, which bfloat16 makes half as long. The
// even column of a pair is in the lower half.
constexpr int kBlockVectors = 4, kBlock = kBlockVectors * kLanes<float>;
using Pairs = UnsignedBitsOf<Vector<float>>;

template <class T>
inline const T* row_of(const HerdingClass<T>& of, int64_t member) {
  return of.features + of.members[member] * of.dim;
}

template <class T>
inline void sum_of_members(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum) {
  for (int64_t j = 0; j < of.dim; ++j) sum[j] = 0;
  int64_t i = begin;
  for (; i + 4 <= end; i += 4) {
    const T *a = row_of(of, i), *b = row_of(of, i + 1), *c = row_of(of, i + 2);
    const T* d = row_of(of, i + 3);
#pragma omp simd
    for (int64_t j = 0; j < of.dim; ++j) {
      sum[j] += (static_cast<double>(a[j]) + static_cast<double>(b[j])) +
                (static_cast<double>(c[j]) + static_cast<double>(d[j]));
    }
  }
  for (; i < end; ++i) {
    const T* row = row_of(of, i);
#pragma omp simd
    for (int64_t j = 0; j < of.dim; ++j) sum[j] += static_cast<double>(row[j]);
  }
}

// Columns [dim, kBlock] as pairs of bfloat16, to the nearest.
inline void round_pairs(const float* columns, int64_t dim, uint32_t* pairs) {
  for (int64_t j = 0; j < dim; j += 2) {
    for (int i = 0; i < kBlock; i += kLanes<float>) {
      const Pairs even = bits_as<Pairs>(load(columns + j * kBlock + i));
      const Pairs odd =
          j + 1 < dim ? bits_as<Pairs>(load(columns + (j + 1) * kBlock + i)) : Pairs{};
      const Pairs both = ((even + 0x8000u) >> 16) | ((odd + 0x8000u) & 0xffff0000u);
      memcpy(pairs + j / 2 * kBlock + i, &both, sizeof both);
    }
  }
}

template <class T>
inline void pack_members(const HerdingClass<T>& of, const double* mean, int64_t begin, int64_t end,
                         uint32_t* packed, double* sq_norms) {
  constexpr int64_t width = 64;  // whole lines of rows and of the block
  float tile[kBlock * width], columns[width * kBlock];
  const int64_t pairs = column_pairs(of.dim);
  for (int64_t i = begin; i < end; ++i) sq_norms[i] = 0;
  for (int64_t i = end; i % 64 != 0; ++i) sq_norms[i] = HUGE_VAL;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = end - first < kBlock ? end - first : kBlock;
    for (int64_t j = 0; j < of.dim; j += width) {
      const int64_t own = of.dim - j < width ? of.dim - j : width;
      const double* shift = mean + j;
      for (int64_t i = 0; i < count; ++i) {
        const T* row = row_of(of, first + i) + j;
        float* out = tile + i * width;
        double sq_norm = 0;
#pragma omp simd reduction(+ : sq_norm)
        for (int64_t c = 0; c < own; ++c) {
          const double y = static_cast<double>(row[c]) - shift[c];
          sq_norm += y * y;
          out[c] = static_cast<float>(y);
        }
        sq_norms[first + i] += sq_norm;
      }
      transpose(tile, width, count, own, columns, kBlock, kBlock);
      round_pairs(columns, own, packed + first * pairs + j / 2 * kBlock);
    }
  }
}

// sums += <member, target> for the members of a block over pairs of columns [begin, end).
inline void add_products(const uint32_t* block, const float* target, int64_t begin, int64_t end,
                         double* sums) {
  Vector<float> even[kBlockVectors] = {}, odd[kBlockVectors] = {};
  for (int64_t p = begin; p < end; ++p) {
    const Vector<float> x = target[2 * p] - Vector<float>{};  // exact, and no instruction
    const Vector<float> y = target[2 * p + 1] - Vector<float>{};
#pragma GCC unroll 4
    for (int v = 0; v < kBlockVectors; ++v) {
      Pairs both;
      memcpy(&both, block + p * kBlock + v * kLanes<float>, sizeof both);
      even[v] = multiply_add<float>(bits_as<Vector<float>>(both << 16), x, even[v]);
      odd[v] = multiply_add<float>(bits_as<Vector<float>>(both & 0xffff0000u), y, odd[v]);
    }
  }
  float joined[kBlock];
  for (int v = 0; v < kBlockVectors; ++v) {
    store<float>(joined + v * kLanes<float>, even[v] + odd[v]);
  }
  for (int i = 0; i < kBlock; i += kLanes<double>) {
    store<double>(sums + i, load(sums + i) + load_wide(joined + i));
  }
}

double herding_scores(const uint32_t* packed, int64_t pairs, const float* target,
                      const double* sq_norms, int64_t begin, int64_t end, double* scores) {
  Vector<double> best = Vector<double>{} - HUGE_VAL;
  for (int64_t first = begin; first < end; first += kBlock) {
    double* const own = scores + first;
    for (int i = 0; i < kBlock; ++i) own[i] = 0;
    for (int64_t p = 0; p < pairs; p += kHerdingTerms) {
      add_products(packed + first * pairs, target, p,
                   pairs - p < kHerdingTerms ? pairs : p + kHerdingTerms, own);
    }
    for (int i = 0; i < kBlock; i += kLanes<double>) {
      const Vector<double> score = 2 * load(own + i) - load(sq_norms + first + i);
      store<double>(own + i, score);
      best = score > best ? score : best;
    }
  }
  return largest_lane<double>(best);
}

// Four independent accumulators hide the latency of the addition.
template <class T>
inline double product_of_member(const HerdingClass<T>& of, const double* mean, const double* target,
                                int64_t member) {
  constexpr int64_t lanes = kLanes<double>, step = 4 * lanes;
  const T* row = row_of(of, member);
  Vector<double> sums[4] = {};
  int64_t j = 0;
  for (; j + step <= of.dim; j += step) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const Vector<double> y = load_wide(row + j + s * lanes) - load(mean + j + s * lanes);
      sums[s] = multiply_add<double>(load(target + j + s * lanes), y, sums[s]);
    }
  }
  double sum = sum_lanes<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; j < of.dim; ++j) sum += target[j] * (static_cast<double>(row[j]) - mean[j]);
  return sum;
}

#define CLFAST_DEFINE_HERDING(T)                                                               \
  void herding_sum(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum) {       \
    sum_of_members(of, begin, end, sum);                                                       \
  }                                                                                            \
  void herding_pack(const HerdingClass<T>& of, const double* mean, int64_t begin, int64_t end, \
                    uint32_t* packed, double* sq_norms) {                                      \
    pack_members(of, mean, begin, end, packed, sq_norms);                                      \
  }                                                                                            \
  double herding_product(const HerdingClass<T>& of, const double* mean, const double* target,  \
                         int64_t member) {                                                     \
    return product_of_member(of, mean, target, member);                                        \
  }
CLFAST_DEFINE_HERDING(float)
CLFAST_DEFINE_HERDING(double)
#undef CLFAST_DEFINE_HERDING

int64_t herding_next(const double* scores, double least, int64_t begin, int64_t end) {
  constexpr int64_t block = 16;  // a known number at a time vectorises
  for (; begin + block <= end; begin += block) {
    int64_t found = 0;
    for (int64_t j = 0; j < block; ++j) found |= !(scores[begin + j] < least);
    if (found) break;
  }
  while (begin < end && scores[begin] < least) ++begin;
  return begin;
}

}  // namespace clfast::cpu::CLFAST_LEVEL
