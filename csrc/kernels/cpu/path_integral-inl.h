// Included once per SIMD level.
#include "path_integral.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline void path_integral_of_part(PathTensor<T> tensor, int64_t begin, int64_t end) {
  for_vectors<T>(end - begin, [&](int64_t offset, int64_t lanes) {
    const int64_t i = begin + offset;
    const Vector<T> grad = load_first(tensor.grad + i, lanes, T(0));
    Vector<T> delta = load_first(tensor.after + i, lanes, T(0));
    if (tensor.before != nullptr) delta -= load_first(tensor.before + i, lanes, T(0));
    const Vector<T> omega = load_first(tensor.omega + i, lanes, T(0));
    const Vector<T> moved = multiply_add<T>(-grad, delta, omega);
    store_first(tensor.omega + i, lanes, delta == T(0) ? omega : moved);
  });
}

#define CLFAST_PATH_INTEGRAL_OF(T)                                              \
  void path_integral(const PathTensor<T>& tensor, int64_t begin, int64_t end) { \
    path_integral_of_part(tensor, begin, end);                                  \
  }
CLFAST_PATH_INTEGRAL_OF(float)
CLFAST_PATH_INTEGRAL_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
