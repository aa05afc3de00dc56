#include "path_integral.h"

namespace clfast::cpu {

#define CLFAST_PICK_PATH_INTEGRAL(T)                                            \
  void path_integral(const PathTensor<T>& tensor, int64_t begin, int64_t end) { \
    CLFAST_CALL_AT_LEVEL(path_integral(tensor, begin, end));                    \
  }
CLFAST_PICK_PATH_INTEGRAL(float)
CLFAST_PICK_PATH_INTEGRAL(double)

}  // namespace clfast::cpu
