#include "gem_project.h"

namespace clfast::cpu {

#define CLFAST_PICK_GEM_PROJECT(T)                                                                 \
  void gem_products(const GemGradients<T>& gradients, int64_t begin, int64_t end, double* scratch, \
                    double* products) {                                                            \
    CLFAST_CALL_AT_LEVEL(gem_products(gradients, begin, end, scratch, products));                  \
  }                                                                                                \
  void gem_gram(const GemGradients<T>& gradients, int64_t begin, int64_t end, double* scratch,     \
                double* gram) {                                                                    \
    CLFAST_CALL_AT_LEVEL(gem_gram(gradients, begin, end, scratch, gram));                          \
  }                                                                                                \
  void gem_combine(const GemGradients<T>& gradients, const double* multipliers, int64_t begin,     \
                   int64_t end, T* out) {                                                          \
    CLFAST_CALL_AT_LEVEL(gem_combine(gradients, multipliers, begin, end, out));                    \
  }
CLFAST_PICK_GEM_PROJECT(float)
CLFAST_PICK_GEM_PROJECT(double)

}  // namespace clfast::cpu
