// Included once per SIMD level.
#include <cmath>

#include "image_prior.h"
#include "reduce-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// A row as it was before any step, with `lag` elements at either end repeated: a difference across
// the border is then 0, as it should be, and all elements are treated alike.
template <class T>
inline void take_row(const ImagePrior<T>& p, const T* row, T* out) {
  const int64_t lag = p.lag, width = p.row;  // rows are short: calls of memcpy would cost more
#pragma omp simd
  for (int64_t j = 0; j < width; ++j) out[lag + j] = row[j];
  for (int64_t j = 0; j < lag; ++j) out[j] = row[j];
  for (int64_t j = 0; j < lag; ++j) out[lag + width + j] = row[width - lag + j];
}

// f(at, up, here, down) for all rows of an image: where it starts, and the rows as take_row() left
// them, of which `up` and `down` are `here` itself at the border.
template <class T, class F>
inline void for_rows(const ImagePrior<T>& p, const T* image, T* scratch, F&& f) {
  const int64_t width = p.row + 2 * p.lag;
  T *up = scratch, *here = up + width, *down = here + width;
  for (int64_t plane = 0; plane < p.planes; ++plane) {
    const int64_t first = plane * p.height * p.row;
    for (int64_t i = 0; i < p.height; ++i) {
      const int64_t at = first + i * p.row;
      if (i == 0) take_row(p, image + at, here);
      const bool last = i + 1 == p.height;
      if (!last) take_row(p, image + at + p.row, down);
      f(at, i == 0 ? here : up, here, last ? here : down);
      T* const free = up;
      up = here, here = down, down = free;
    }
  }
}

template <class T>
inline T sign_of(T x) {
  return static_cast<T>((x > T(0)) - (x < T(0)));
}

// The gradient of both differences of x with a and with b.
template <bool kAbsolute, class T>
inline T slope_of(T x, T a, T b) {
  return kAbsolute ? sign_of(x - a) + sign_of(x - b) : T(2) * ((x - a) + (x - b));
}

template <bool kAbsolute, class T>
inline T size_of_difference(T a, T b) {
  const T difference = a - b;
  return kAbsolute ? (difference < T(0) ? -difference : difference) : difference * difference;
}

template <class T>
inline T norm_of(const ImagePrior<T>& p, const T* image) {
  double sum = 0;  // of many rows
  for (int64_t i = 0; i < p.planes * p.height; ++i) {
    sum += static_cast<double>(reduce_pair<Product>(image + i * p.row, image + i * p.row, p.row));
  }
  return static_cast<T>(std::sqrt(sum));
}

// What an element of the image counts in its norm's gradient: nothing in an image of zeros.
template <class T>
inline T slope_of_norm(const ImagePrior<T>& p, T norm) {
  return norm > T(0) ? p.norm / norm : T(0);
}

template <bool kAbsolute, class T>
inline void priors(const ImagePrior<T>& p, const T* images, const T* weights, int64_t begin,
                   int64_t end, T* scratch, T* values, T* gradient) {
  const T along_height = p.down, along_width = p.right;
  const int64_t lag = p.lag, width = p.row;
  for (int64_t i = begin; i < end; ++i) {
    const T* image = images + i * size_of(p);
    T* out = gradient == nullptr ? nullptr : gradient + i * size_of(p);
    const T norm = norm_of(p, image), toward_zero = slope_of_norm(p, norm), weight = weights[i];
    double sum = static_cast<double>(p.norm * norm);
    for_rows(p, image, scratch, [&](int64_t at, const T* up, const T* here, const T* down) {
      T of_row = 0;
#pragma omp simd reduction(+ : of_row)
      for (int64_t j = 0; j < width; ++j) {
        const T x = here[lag + j];
        of_row += along_height * size_of_difference<kAbsolute>(x, down[lag + j]) +
                  along_width * size_of_difference<kAbsolute>(x, here[2 * lag + j]);
      }
      sum += static_cast<double>(of_row);
      if (out == nullptr) return;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T x = here[lag + j];
        out[at + j] = weight * (along_height * slope_of<kAbsolute>(x, up[lag + j], down[lag + j]) +
                                along_width * slope_of<kAbsolute>(x, here[j], here[2 * lag + j]) +
                                toward_zero * x);
      }
    });
    values[i] = static_cast<T>(sum);
  }
}

template <class T>
inline void steps(const ImagePrior<T>& p, const T* grad, const T* weights, const T* rates,
                  int64_t begin, int64_t end, T* scratch, T* images) {
  const T along_height = p.down, along_width = p.right;
  const int64_t lag = p.lag, width = p.row;
  for (int64_t i = begin; i < end; ++i) {
    T* image = images + i * size_of(p);
    const T* given = grad + i * size_of(p);
    const T toward_zero = slope_of_norm(p, p.norm == T(0) ? T(0) : norm_of(p, image));
    const T weight = weights[i], rate = rates[i];
    for_rows(p, image, scratch, [&](int64_t at, const T* up, const T* here, const T* down) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const T x = here[lag + j];
        const T slope = along_height * slope_of<false>(x, up[lag + j], down[lag + j]) +
                        along_width * slope_of<false>(x, here[j], here[2 * lag + j]) +
                        toward_zero * x;
        image[at + j] = x - rate * (given[at + j] + weight * slope);
      }
    });
  }
}

#define CLFAST_IMAGE_PRIOR_OF(T)                                                                 \
  void image_prior(const ImagePrior<T>& prior, const T* images, const T* weights, int64_t begin, \
                   int64_t end, T* scratch, T* values, T* gradient) {                            \
    if (prior.absolute) {                                                                        \
      priors<true>(prior, images, weights, begin, end, scratch, values, gradient);               \
    } else {                                                                                     \
      priors<false>(prior, images, weights, begin, end, scratch, values, gradient);              \
    }                                                                                            \
  }                                                                                              \
  void recall_step(const ImagePrior<T>& prior, const T* grad, const T* weights, const T* rates,  \
                   int64_t begin, int64_t end, T* scratch, T* images) {                          \
    steps(prior, grad, weights, rates, begin, end, scratch, images);                             \
  }
CLFAST_IMAGE_PRIOR_OF(float)
CLFAST_IMAGE_PRIOR_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
