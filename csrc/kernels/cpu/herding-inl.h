// Included once per SIMD level.
#include "herding.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Members lie in blocks of so many, [pairs of columns, kBlock] each: their products with a target
// need no sum over lanes, and every pick reads one stream. Two columns share the bits of a float,
// the even one in the lower half.
constexpr int kBlockVectors = 4, kBlock = kBlockVectors * kLanes<float>;
using Pairs = BitsOf<Vector<float>>;

// Both products of two pairs, added.
inline Pairs multiply_pairs(Pairs a, Pairs b) {
#if defined(__AVX512F__)
  return (Pairs)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (Pairs)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (Pairs)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}

template <class T>
inline const T* row_of(const HerdingClass<T>& of, int64_t member) {
  return of.features + of.members[member] * of.dim;
}

template <class T>
inline void add_members(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum) {
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

// As many pairs as columns, up to a vector of them, for every two vectors of columns.
inline int64_t pairs_of(int64_t dim) {
  constexpr int64_t lanes = kLanes<float>;
  const int64_t rest = dim % (2 * lanes);
  return dim / (2 * lanes) * lanes + (rest < lanes ? rest : lanes);
}

// The columns of two vectors in pairs of integers, to the nearest. Adding 1.5 * 2^23 leaves an
// integer of 16 bits in the lowest ones.
inline void round_pairs(Vector<float> a, Vector<float> b, float* pairs) {
  constexpr float rounding = 12582912.0f;
  const Pairs x = bits_as<Pairs>(a + rounding), y = bits_as<Pairs>(b + rounding);
  const Pairs both = (x & 0xffff) | (y << 16);
  memcpy(pairs, &both, sizeof both);
}

inline Vector<float> difference(const float* row, const float* mean) {
  return load(row) - load(mean);
}
inline Vector<float> difference(const double* row, const float* mean) {
  float own[kLanes<float>];
  for (int i = 0; i < kLanes<float>; ++i) own[i] = static_cast<float>(row[i]);
  return load(own) - load(mean);
}

// f(j, a, b) for every two vectors of row - mean over `count` columns, with zeros behind them.
template <class T, class F>
inline __attribute__((always_inline)) void for_differences(const T* row, const float* mean,
                                                           int64_t count, const F& f) {
  constexpr int64_t lanes = kLanes<float>;
  int64_t j = 0;
  for (; j + 2 * lanes <= count; j += 2 * lanes) {
    f(j, difference(row + j, mean + j), difference(row + j + lanes, mean + j + lanes));
  }
  if (j == count) return;
  float rest[2 * lanes] = {};
  for (int64_t c = 0; j + c < count; ++c) rest[c] = static_cast<float>(row[j + c]) - mean[j + c];
  f(j, load(rest), load(rest + lanes));
}

// Into the second level of the cache: a block need not fit the first.
template <class T>
inline void prefetch_columns(const T* row, int64_t count) {
  constexpr int64_t line = 64 / sizeof(T);
  for (int64_t j = 0; j < count; j += line) __builtin_prefetch(row + j, 0, 2);
}

template <class T>
inline double exact_sq_norm(const HerdingClass<T>& of, const double* origin, int64_t member) {
  double sum = 0;
  for (int64_t j = 0; j < of.dim; ++j) {
    const double y = static_cast<double>(row_of(of, member)[j]) - origin[j];
    sum += y * y;
  }
  return sum;
}

template <class T>
inline void pack_members(const HerdingClass<T>& of, const double* origin, int64_t begin,
                         int64_t end, const HerdingShort& out, double* sq_norms, double* sum) {
  constexpr int64_t width = kHerdingColumns;  // whole lines of rows and of the block
  float shift[kHerdingTerms], scales[kBlock];
  alignas(64) float tile[kBlock * width / 2];
  const int64_t pairs = pairs_of(of.dim);
  const auto columns_from = [&](int64_t j, int64_t most) {
    const int64_t own = of.dim - j < most ? of.dim - j : most;
    for (int64_t c = 0; c < own; ++c) shift[c] = static_cast<float>(origin[j + c]);
    return own;
  };
  for (int64_t j = 0; j < of.dim; ++j) sum[j] = 0;
  for (int64_t i = end; i % 64 != 0; ++i) out.lengths[i] = 0, out.squares[i] = HUGE_VALF;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int64_t count = end - first < kBlock ? end - first : kBlock;
    double* const sq_norm = sq_norms + first;
    add_members(of, first, first + count, sum);
    for (int64_t i = 0; i < count; ++i) sq_norm[i] = 0;
    for (int64_t j = 0; j < of.dim; j += kHerdingTerms) {
      const int64_t own = columns_from(j, kHerdingTerms);
      for (int64_t i = 0; i < count; ++i) {
        Vector<float> sums[2] = {};
        for_differences(row_of(of, first + i) + j, shift, own,
                        [&](int64_t, Vector<float> a, Vector<float> b) {
                          sums[0] = multiply_add<float>(a, a, sums[0]);
                          sums[1] = multiply_add<float>(b, b, sums[1]);
                        });
        sq_norm[i] += static_cast<double>(sum_lanes<float>(sums[0] + sums[1]));
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      if (!(sq_norm[i] > 0x1p-100 && sq_norm[i] < 0x1p120)) {
        sq_norm[i] = exact_sq_norm(of, origin, first + i);
      }
    }
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const double length = __builtin_sqrt(sq_norm[i]), scale = kHerdingLength / length;
      scales[i] = length >= kHerdingShortest ? static_cast<float>(scale) : 0.0f;
      out.lengths[first + i] = static_cast<float>(length);
      out.squares[first + i] = static_cast<float>(sq_norm[i]);
    }
    for (int64_t j = 0; j < of.dim; j += width) {
      const int64_t own = columns_from(j, width);
      for (int64_t i = 0; i < count; ++i) {
        if (first + kBlock + i < end) prefetch_columns(row_of(of, first + kBlock + i) + j, own);
        for_differences(row_of(of, first + i) + j, shift, own,
                        [&](int64_t c, Vector<float> a, Vector<float> b) {
                          round_pairs(scales[i] * a, scales[i] * b, tile + (i * width + c) / 2);
                        });
      }
      transpose(tile, width / 2, count, pairs_of(own), out.packed + first * pairs + j / 2 * kBlock,
                kBlock, kBlock);
    }
  }
}

double herding_target(const double* target, int64_t dim, float* pairs) {
  constexpr int64_t width = kHerdingColumns;
  Vector<double> sums = {};
  for_vectors<double>(dim, [&](int64_t j, int64_t count) {
    const Vector<double> t = load_first(target + j, count, 0.0);
    sums += t * t;
  });
  const double sq_length = sum_lanes<double>(sums);
  const double scale = sq_length > 0 ? kHerdingLength / __builtin_sqrt(sq_length) : 0;
  float scaled[width];
  for (int64_t j = 0; j < dim; j += width) {
    const int64_t own = dim - j < width ? dim - j : width;
    for (int64_t c = 0; c < own; ++c) scaled[c] = static_cast<float>(target[j + c] * scale);
    for (int64_t c = own; c < width; ++c) scaled[c] = 0;
    for (int64_t c = 0; c < width; c += 2 * kLanes<float>) {
      round_pairs(load(scaled + c), load(scaled + c + kLanes<float>), pairs + (j + c) / 2);
    }
  }
  return sq_length;
}

// sums = <member, target> for the members of a block.
inline void multiply_block(const float* block, const float* target, int64_t pairs,
                           Pairs (&sums)[kBlockVectors]) {
  // Not by an initialiser, which GCC makes a slow string instruction of.
#pragma GCC unroll 4
  for (int v = 0; v < kBlockVectors; ++v) sums[v] = Pairs{};
  for (int64_t p = 0; p < pairs; ++p) {
    const Pairs of_target = bits_as<int32_t>(target[p]) - Pairs{};  // exact, and no instruction
#pragma GCC unroll 4
    for (int v = 0; v < kBlockVectors; ++v) {
      Pairs members;
      memcpy(&members, block + p * kBlock + v * kLanes<float>, sizeof members);
      sums[v] += multiply_pairs(members, of_target);
    }
  }
}

float herding_scores(const HerdingShort& of, int64_t dim, const float* target, double target_length,
                     int64_t begin, int64_t end, float* scores) {
  const int64_t pairs = pairs_of(dim);
  const float unit = static_cast<float>(2 * target_length / (kHerdingLength * kHerdingLength));
  Vector<float> best = Vector<float>{} - HUGE_VALF;
  for (int64_t first = begin; first < end; first += kBlock) {
    Pairs sums[kBlockVectors];
    multiply_block(of.packed + first * pairs, target, pairs, sums);
    for (int v = 0; v < kBlockVectors; ++v) {
      const int64_t at = first + v * kLanes<float>;
      const Vector<float> product = as_floats(sums[v]) * (unit * load(of.lengths + at));
      const Vector<float> score = product - load(of.squares + at);
      store<float>(scores + at, score);
      best = score > best ? score : best;
    }
  }
  return largest_lane<float>(best);
}

// 2 <target, y> - |y|^2 = <y, 2 target - y>. Four independent accumulators hide the latency of the
// addition.
template <class T>
inline double exact_score(const HerdingClass<T>& of, const double* origin, const double* target,
                          int64_t member) {
  constexpr int64_t lanes = kLanes<double>, step = 4 * lanes;
  const T* row = row_of(of, member);
  Vector<double> sums[4] = {};
  int64_t j = 0;
  for (; j + step <= of.dim; j += step) {
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const int64_t at = j + s * lanes;
      const Vector<double> y = load_wide(row + at) - load(origin + at);
      sums[s] = multiply_add<double>(2 * load(target + at) - y, y, sums[s]);
    }
  }
  double sum = sum_lanes<double>((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; j < of.dim; ++j) {
    const double y = static_cast<double>(row[j]) - origin[j];
    sum += (2 * target[j] - y) * y;
  }
  return sum;
}

template <class T>
inline void subtract_member(const HerdingClass<T>& of, const double* mean, int64_t member,
                            double* target) {
  const T* row = row_of(of, member);
#pragma omp simd
  for (int64_t j = 0; j < of.dim; ++j) target[j] -= static_cast<double>(row[j]) - mean[j];
}

#define CLFAST_DEFINE_HERDING(T)                                                                 \
  void herding_sum(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum) {         \
    for (int64_t j = 0; j < of.dim; ++j) sum[j] = 0;                                             \
    add_members(of, begin, end, sum);                                                            \
  }                                                                                              \
  void herding_pack(const HerdingClass<T>& of, const double* origin, int64_t begin, int64_t end, \
                    const HerdingShort& out, double* sq_norms, double* sum) {                    \
    pack_members(of, origin, begin, end, out, sq_norms, sum);                                    \
  }                                                                                              \
  double herding_exact(const HerdingClass<T>& of, const double* origin, const double* target,    \
                       int64_t member) {                                                         \
    return exact_score(of, origin, target, member);                                              \
  }                                                                                              \
  void herding_advance(const HerdingClass<T>& of, const double* mean, int64_t member,            \
                       double* target) {                                                         \
    subtract_member(of, mean, member, target);                                                   \
  }
CLFAST_DEFINE_HERDING(float)
CLFAST_DEFINE_HERDING(double)
#undef CLFAST_DEFINE_HERDING

int64_t herding_next(const float* scores, double least, int64_t begin, int64_t end) {
  const Vector<float> bound = Vector<float>{} + static_cast<float>(least);
  for (; begin + kLanes<float> <= end; begin += kLanes<float>) {
    const uint32_t found = not_above<float>(bound, load(scores + begin));
    if (found != 0) return begin + __builtin_ctz(found);
  }
  while (begin < end && scores[begin] < bound[0]) ++begin;
  return begin;
}

}  // namespace clfast::cpu::CLFAST_LEVEL
