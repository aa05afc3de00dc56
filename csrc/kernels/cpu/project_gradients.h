// A-GEM's projection: inner products of two lists of gradients, and a multiple of one taken off the
// other.
#pragma once
#include <cstdint>

#include "../common/gradient_lists.h"
#include "simd.h"

namespace clfast::cpu {

// Elements [begin, end) of the row of all. subtract_scaled: grads -= scale reference, each in
// double and rounded once.
#define CLFAST_PROJECT_GRADIENTS(T)                                                        \
  InnerProducts inner_products(const GradientLists<T>& lists, int64_t begin, int64_t end); \
  void subtract_scaled(const GradientLists<T>& lists, double scale, int64_t begin, int64_t end);
CLFAST_PROJECT_GRADIENTS(float)
CLFAST_PROJECT_GRADIENTS(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_PROJECT_GRADIENTS(float) CLFAST_PROJECT_GRADIENTS(double))

}  // namespace clfast::cpu
