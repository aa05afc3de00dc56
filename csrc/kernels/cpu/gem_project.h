// What GEM's projection reads and writes of the gradients: their inner products, and the gradient
// with multiples of theirs added. The programme between them is common/gem_program.h.
#pragma once
#include <cstdint>

#include "simd.h"

namespace clfast::cpu {

template <class T>
struct GemGradients {
  const T* grad;          // [P]
  const T* memory_grads;  // [T, P]
  int64_t tasks, columns;
};

// Columns [begin, end). gem_products: products [T] += those of grad with each of the memory's.
// gem_gram: gram [T, T] += those of the memory's with each other, where column <= row. Both sum in
// double and take gem_gradients_scratch() doubles of scratch. gem_combine: out = grad + sum_k
// multipliers[k] memory_grads[k].
#define CLFAST_GEM_PROJECT(T)                                                                      \
  void gem_products(const GemGradients<T>& gradients, int64_t begin, int64_t end, double* scratch, \
                    double* products);                                                             \
  void gem_gram(const GemGradients<T>& gradients, int64_t begin, int64_t end, double* scratch,     \
                double* gram);                                                                     \
  void gem_combine(const GemGradients<T>& gradients, const double* multipliers, int64_t begin,     \
                   int64_t end, T* out);
CLFAST_GEM_PROJECT(float)
CLFAST_GEM_PROJECT(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_GEM_PROJECT(float) CLFAST_GEM_PROJECT(double))

// So many columns of all gradients are worked on at a time, and stay in the cache.
constexpr int64_t kGemColumns = 512;

static inline int64_t gem_gradients_scratch(int64_t tasks) { return (tasks + 1) * kGemColumns; }

}  // namespace clfast::cpu
