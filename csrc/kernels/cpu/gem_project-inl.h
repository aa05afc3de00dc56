// Included once per SIMD level.
#include "gem_project.h"
#include "reduce-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void widen_row(const T* from, int64_t count, double* to) {
#pragma omp simd
  for (int64_t j = 0; j < count; ++j) to[j] = static_cast<double>(from[j]);
}

// f(at, count) for the columns, some at a time.
template <class F>
inline void for_columns(int64_t begin, int64_t end, F&& f) {
  for (int64_t at = begin; at < end; at += kGemColumns) {
    f(at, end - at < kGemColumns ? end - at : kGemColumns);
  }
}

template <class T>
inline void products_of_columns(const GemGradients<T>& g, int64_t begin, int64_t end,
                                double* scratch, double* products) {
  double *own = scratch, *other = scratch + kGemColumns;
  for_columns(begin, end, [&](int64_t at, int64_t count) {
    widen_row(g.grad + at, count, own);
    for (int64_t k = 0; k < g.tasks; ++k) {
      widen_row(g.memory_grads + k * g.columns + at, count, other);
      products[k] += reduce_pair<Product>(own, other, count);
    }
  });
}

template <class T>
inline void gram_of_columns(const GemGradients<T>& g, int64_t begin, int64_t end, double* scratch,
                            double* gram) {
  // Tiles of two rows by two share what they read; see distances_of_all() for the levels below.
#if defined(__AVX512F__)
  constexpr int tile = 2;
#else
  constexpr int tile = 1;
#endif
  for_columns(begin, end, [&](int64_t at, int64_t count) {
    for (int64_t k = 0; k < g.tasks; ++k) {
      widen_row(g.memory_grads + k * g.columns + at, count, scratch + k * kGemColumns);
    }
    const auto row = [&](int64_t k) {  // the last of an odd number stands there twice
      return scratch + (k < g.tasks ? k : g.tasks - 1) * kGemColumns;
    };
    for (int64_t i = 0; i < g.tasks; i += tile) {
      for (int64_t k = 0; k <= i; k += tile) {
        const double *a[tile], *b[tile];
        for (int m = 0; m < tile; ++m) {
          a[m] = row(i + m);
          b[m] = row(k + m);
        }
        double sums[tile][tile];
        reduce_rows<Product>(a, b, count, sums);
        for (int m = 0; m < tile; ++m) {
          for (int n = 0; n < tile; ++n) {
            if (i + m < g.tasks && k + n <= i + m) gram[(i + m) * g.tasks + k + n] += sums[m][n];
          }
        }
      }
    }
  });
}

template <class T>
inline void combine_columns(const GemGradients<T>& g, const double* multipliers, int64_t begin,
                            int64_t end, T* out) {
  for_columns(begin, end, [&](int64_t at, int64_t count) {
    T* sum = out + at;
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) sum[j] = g.grad[at + j];
    for (int64_t k = 0; k < g.tasks; ++k) {
      const T times = static_cast<T>(multipliers[k]);
      if (times == T(0)) continue;
      const T* row = g.memory_grads + k * g.columns + at;
#pragma omp simd
      for (int64_t j = 0; j < count; ++j) sum[j] += times * row[j];
    }
  });
}

#define CLFAST_GEM_PROJECT_OF(T)                                                                   \
  void gem_products(const GemGradients<T>& gradients, int64_t begin, int64_t end, double* scratch, \
                    double* products) {                                                            \
    products_of_columns(gradients, begin, end, scratch, products);                                 \
  }                                                                                                \
  void gem_gram(const GemGradients<T>& gradients, int64_t begin, int64_t end, double* scratch,     \
                double* gram) {                                                                    \
    gram_of_columns(gradients, begin, end, scratch, gram);                                         \
  }                                                                                                \
  void gem_combine(const GemGradients<T>& gradients, const double* multipliers, int64_t begin,     \
                   int64_t end, T* out) {                                                          \
    combine_columns(gradients, multipliers, begin, end, out);                                      \
  }
CLFAST_GEM_PROJECT_OF(float)
CLFAST_GEM_PROJECT_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
