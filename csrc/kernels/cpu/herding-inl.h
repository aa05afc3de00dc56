// Included once per SIMD level.
#include "herding.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Members lie in blocks of so many, [pairs of columns, kBlock] each: their products with a target
// need no sum over lanes, and every pick reads one stream, which bfloat16 makes half as long. Two
// columns share the bits of a float, the even one in the lower half.
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

// Columns 2 i and 2 i + 1 of `count` floats as a pair of bfloat16, to the nearest; whole vectors.
inline void round_pairs(const float* columns, int64_t count, float* pairs) {
  constexpr int lanes = kLanes<float>;
  Pairs even, odd;  // of two vectors
  for (int i = 0; i < lanes; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
  for (int64_t j = 0; j < count; j += 2 * lanes) {
    const Pairs a = bits_as<Pairs>(load(columns + j)) + 0x8000u;
    const Pairs b = bits_as<Pairs>(load(columns + j + lanes)) + 0x8000u;
    const Pairs both =
        (__builtin_shuffle(a, b, even) >> 16) | (__builtin_shuffle(a, b, odd) & 0xffff0000u);
    memcpy(pairs + j / 2, &both, sizeof both);
  }
}

// y = row - mean over `count` columns, zeros up to `width`; returns |y|^2.
inline float subtract_mean(const float* row, const float* mean, int64_t count, int64_t width,
                           float* y) {
  Vector<float> sums[2] = {};
  int64_t j = 0;
  for (; j + 2 * kLanes<float> <= count; j += 2 * kLanes<float>) {
    for (int s = 0; s < 2; ++s) {
      const int64_t at = j + s * kLanes<float>;
      const Vector<float> difference = load(row + at) - load(mean + at);
      store<float>(y + at, difference);
      sums[s] = multiply_add<float>(difference, difference, sums[s]);
    }
  }
  float sum = sum_lanes<float>(sums[0] + sums[1]);
  for (; j < width; ++j) {
    y[j] = j < count ? row[j] - mean[j] : 0.0f;
    sum += y[j] * y[j];
  }
  return sum;
}
inline float subtract_mean(const double* row, const float* mean, int64_t count, int64_t width,
                           float* y) {
  float own[64];
  for (int64_t j = 0; j < count; ++j) own[j] = static_cast<float>(row[j]);
  return subtract_mean(own, mean, count, width, y);
}

template <class T>
inline double exact_sq_norm(const HerdingClass<T>& of, const double* mean, int64_t member) {
  double sum = 0;
  for (int64_t j = 0; j < of.dim; ++j) {
    const double y = static_cast<double>(row_of(of, member)[j]) - mean[j];
    sum += y * y;
  }
  return sum;
}

template <class T>
inline void pack_members(const HerdingClass<T>& of, const double* mean, int64_t begin, int64_t end,
                         float* packed, double* sq_norms) {
  constexpr int64_t width = 64;  // whole lines of rows and of the block
  float shift[width], y[width];
  float tile[kBlock * width / 2];
  const int64_t pairs = column_pairs(of.dim);
  for (int64_t i = begin; i < end; ++i) sq_norms[i] = 0;
  for (int64_t i = end; i % 64 != 0; ++i) sq_norms[i] = HUGE_VAL;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = end - first < kBlock ? end - first : kBlock;
    for (int64_t j = 0; j < of.dim; j += width) {
      const int64_t own = of.dim - j < width ? of.dim - j : width;
      for (int64_t c = 0; c < own; ++c) shift[c] = static_cast<float>(mean[j + c]);
      for (int64_t i = 0; i < count; ++i) {
        const float sq_norm = subtract_mean(row_of(of, first + i) + j, shift, own, width, y);
        sq_norms[first + i] += static_cast<double>(sq_norm);
        round_pairs(y, width, tile + i * width / 2);
      }
      transpose(tile, width / 2, count, column_pairs(own), packed + first * pairs + j / 2 * kBlock,
                kBlock, kBlock);
    }
  }
  for (int64_t i = begin; i < end; ++i) {
    if (!(sq_norms[i] > 0x1p-100 && sq_norms[i] < 0x1p120))
      sq_norms[i] = exact_sq_norm(of, mean, i);
  }
}

// sums += <member, target> for the members of a block over pairs of columns [begin, end).
inline void add_products(const float* block, const float* target, int64_t begin, int64_t end,
                         double* sums) {
  // Not by an initialiser, which GCC makes a slow string instruction of.
  Vector<float> even[kBlockVectors], odd[kBlockVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kBlockVectors; ++v) even[v] = odd[v] = Vector<float>{};
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

double herding_scores(const float* packed, int64_t pairs, const float* target,
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

// 2 <target, y> - |y|^2 = <y, 2 target - y>. Four independent accumulators hide the latency of the
// addition.
template <class T>
inline double exact_score(const HerdingClass<T>& of, const double* mean, const double* target,
                          int64_t member) {
  constexpr int64_t lanes = kLanes<double>, step = 4 * lanes;
  const T* row = row_of(of, member);
  Vector<double> sums[4] = {};
  int64_t j = 0;
  for (; j + step <= of.dim; j += step) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const int64_t at = j + s * lanes;
      const Vector<double> y = load_wide(row + at) - load(mean + at);
      sums[s] = multiply_add<double>(2 * load(target + at) - y, y, sums[s]);
    }
  }
  double sum = sum_lanes<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; j < of.dim; ++j) {
    const double y = static_cast<double>(row[j]) - mean[j];
    sum += (2 * target[j] - y) * y;
  }
  return sum;
}

#define CLFAST_DEFINE_HERDING(T)                                                               \
  void herding_sum(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum) {       \
    sum_of_members(of, begin, end, sum);                                                       \
  }                                                                                            \
  void herding_pack(const HerdingClass<T>& of, const double* mean, int64_t begin, int64_t end, \
                    float* packed, double* sq_norms) {                                         \
    pack_members(of, mean, begin, end, packed, sq_norms);                                      \
  }                                                                                            \
  double herding_exact(const HerdingClass<T>& of, const double* mean, const double* target,    \
                       int64_t member) {                                                       \
    return exact_score(of, mean, target, member);                                              \
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
