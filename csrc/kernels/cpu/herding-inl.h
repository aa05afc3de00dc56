// Included once per SIMD level.
#include "herding.h"
#include "transpose-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Members lie in blocks of so many, [dim, kBlock] each: their products with a target need no sum
// over lanes, and every pick reads one stream.
constexpr int kBlockVectors = 4;
template <class T>
constexpr int kBlock = kBlockVectors * kLanes<T>;

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

template <class T>
inline void pack_members(const HerdingClass<T>& of, const double* mean, int64_t begin, int64_t end,
                         T* packed, double* sq_norms) {
  constexpr int64_t columns = 64;
  T tile[kBlock<T> * columns];
  for (int64_t i = begin; i < end; ++i) sq_norms[i] = 0;
  for (int64_t i = end; i % 64 != 0; ++i) sq_norms[i] = HUGE_VAL;
  for (int64_t first = begin; first < end; first += kBlock<T>) {
    const int64_t count = end - first < kBlock<T> ? end - first : kBlock<T>;
    for (int64_t j = 0; j < of.dim; j += columns) {
      const int64_t width = of.dim - j < columns ? of.dim - j : columns;
      const double* shift = mean + j;
      for (int64_t i = 0; i < count; ++i) {
        const T* row = row_of(of, first + i) + j;
        T* out = tile + i * columns;
        double sq_norm = 0;
#pragma omp simd reduction(+ : sq_norm)
        for (int64_t c = 0; c < width; ++c) {
          const double y = static_cast<double>(row[c]) - shift[c];
          sq_norm += y * y;
          out[c] = static_cast<T>(y);
        }
        sq_norms[first + i] += sq_norm;
      }
      transpose(tile, columns, count, width, packed + first * of.dim + j * kBlock<T>, kBlock<T>,
                kBlock<T>);
    }
  }
}

// sums += <member, target> for the members of a block over columns [begin, end).
template <class T>
inline void add_products(const T* block, const T* target, int64_t begin, int64_t end,
                         double* sums) {
  Vector<T> even[kBlockVectors] = {}, odd[kBlockVectors] = {};
  const auto add = [&](int64_t j, Vector<T>(&to)[kBlockVectors]) {
    const Vector<T> x = target[j] - Vector<T>{};  // exact, and no instruction
#pragma GCC unroll 4
    for (int v = 0; v < kBlockVectors; ++v) {
      to[v] = multiply_add<T>(load(block + j * kBlock<T> + v * kLanes<T>), x, to[v]);
    }
  };
  int64_t j = begin;
  for (; j + 2 <= end; j += 2) add(j, even), add(j + 1, odd);
  if (j < end) add(j, even);
  T joined[kBlock<T>];
  for (int v = 0; v < kBlockVectors; ++v) store<T>(joined + v * kLanes<T>, even[v] + odd[v]);
  for (int i = 0; i < kBlock<T>; i += kLanes<double>) {
    store<double>(sums + i, load(sums + i) + load_wide(joined + i));
  }
}

template <class T>
inline double scores_of_members(const T* packed, int64_t dim, const T* target,
                                const double* sq_norms, int64_t begin, int64_t end,
                                double* scores) {
  Vector<double> best = Vector<double>{} - HUGE_VAL;
  for (int64_t first = begin; first < end; first += kBlock<T>) {
    double* const own = scores + first;
    for (int i = 0; i < kBlock<T>; ++i) own[i] = 0;
    for (int64_t j = 0; j < dim; j += 2 * kHerdingTerms) {
      const int64_t last = dim - j < 2 * kHerdingTerms ? dim : j + 2 * kHerdingTerms;
      add_products(packed + first * dim, target, j, last, own);
    }
    for (int i = 0; i < kBlock<T>; i += kLanes<double>) {
      const Vector<double> score = 2 * load(own + i) - load(sq_norms + first + i);
      store<double>(own + i, score);
      best = score > best ? score : best;
    }
  }
  return largest_lane<double>(best);
}

template <class T>
inline double product_of_member(const HerdingClass<T>& of, const double* mean, const double* target,
                                int64_t member) {
  const T* row = row_of(of, member);
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < of.dim; ++j) sum += target[j] * (static_cast<double>(row[j]) - mean[j]);
  return sum;
}

#define CLFAST_DEFINE_HERDING(T)                                                               \
  void herding_sum(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum) {       \
    sum_of_members(of, begin, end, sum);                                                       \
  }                                                                                            \
  void herding_pack(const HerdingClass<T>& of, const double* mean, int64_t begin, int64_t end, \
                    T* packed, double* sq_norms) {                                             \
    pack_members(of, mean, begin, end, packed, sq_norms);                                      \
  }                                                                                            \
  double herding_scores(const T* packed, int64_t dim, const T* target, const double* sq_norms, \
                        int64_t begin, int64_t end, double* scores) {                          \
    return scores_of_members(packed, dim, target, sq_norms, begin, end, scores);               \
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
