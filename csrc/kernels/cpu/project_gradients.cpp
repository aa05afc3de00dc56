#include "project_gradients.h"

namespace clfast::cpu {

#define CLFAST_PICK_PROJECT_GRADIENTS(T)                                                          \
  InnerProducts inner_products(const GradientLists<T>& lists, int64_t begin, int64_t end) {       \
    CLFAST_CALL_AT_LEVEL(inner_products(lists, begin, end));                                      \
  }                                                                                               \
  void subtract_scaled(const GradientLists<T>& lists, double scale, int64_t begin, int64_t end) { \
    CLFAST_CALL_AT_LEVEL(subtract_scaled(lists, scale, begin, end));                              \
  }
CLFAST_PICK_PROJECT_GRADIENTS(float)
CLFAST_PICK_PROJECT_GRADIENTS(double)

}  // namespace clfast::cpu
