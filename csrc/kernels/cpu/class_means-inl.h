// Included once per SIMD level.
#include "class_means.h"
#include "unit_length-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// The sum is in double: a class may have any number of members.
template <class T>
inline void mean_of_members(Rows features, int64_t dim, const int64_t* members, int64_t count,
                            bool normalize, T* scratch, double* sum, T* out) {
  for (int64_t j = 0; j < dim; ++j) sum[j] = 0;
  for_each_row(features, members, 0, count, dim, scratch, [=](int64_t, const T* x) {
    const double scale = normalize ? inverse_length_of(x, dim) : 1.0;
#pragma omp simd
    for (int64_t j = 0; j < dim; ++j) sum[j] += scale * static_cast<double>(x[j]);
  });
  double scale = 1.0 / static_cast<double>(count > 0 ? count : 1);
  if (normalize) {
    double sq_norm = 0;
    for (int64_t j = 0; j < dim; ++j) sq_norm += (scale * sum[j]) * (scale * sum[j]);
    scale *= inverse_length(sq_norm);
  }
  for (int64_t j = 0; j < dim; ++j) out[j] = static_cast<T>(scale * sum[j]);
}

#define CLFAST_DEFINE_CLASS_MEANS(T)                                                 \
  void class_mean(Rows features, int64_t dim, const int64_t* members, int64_t count, \
                  bool normalize, T* scratch, double* sum, T* out) {                 \
    mean_of_members(features, dim, members, count, normalize, scratch, sum, out);    \
  }
CLFAST_DEFINE_CLASS_MEANS(float)
CLFAST_DEFINE_CLASS_MEANS(double)
#undef CLFAST_DEFINE_CLASS_MEANS

}  // namespace clfast::cpu::CLFAST_LEVEL
