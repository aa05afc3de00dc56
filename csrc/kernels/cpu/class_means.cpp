#include "class_means.h"

namespace clfast::cpu {

#define CLFAST_PICK_CLASS_MEANS(T)                                                                 \
  void class_mean(Rows features, int64_t dim, const int64_t* members, int64_t count,               \
                  bool normalize, T* scratch, double* sum, T* out) {                               \
    CLFAST_CALL_AT_LEVEL(class_mean(features, dim, members, count, normalize, scratch, sum, out)); \
  }
CLFAST_PICK_CLASS_MEANS(float)
CLFAST_PICK_CLASS_MEANS(double)

}  // namespace clfast::cpu
