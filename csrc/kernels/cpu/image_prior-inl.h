// Included once per SIMD level.
#include <cmath>

#include "image_prior.h"
#include "reduce-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

// Elements of a row in a vector, and their neighbours: across the border the element itself, from
// which it does not differ.
template <class T>
struct Pixels {
  Vector<T> here, up, down, left, right;
};

// The elements `lag` before those at `j`.
template <class T>
inline Vector<T> left_of(const T* row, int64_t j, int64_t count, int64_t lag, Vector<T> here) {
  if (j >= lag) return load_first(row + j - lag, count, T(0));
  if (j + count <= lag) return here;
  const LaneIndex<T> lane = lane_numbers<T>();
  const LaneOf<T> inside = static_cast<LaneOf<T>>(lag - j);  // lanes without a neighbour
  const Vector<T> first = load_first(row, count, T(0));
  return lane < inside ? here : __builtin_shuffle(first, lane - inside);
}

// The elements `lag` behind those at `j`.
template <class T>
inline Vector<T> right_of(const T* row, int64_t width, int64_t j, int64_t lag, Vector<T> here) {
  const int64_t left = width - lag - j;  // lanes with a neighbour
  if (left >= kLanes<T>) return load(row + j + lag);
  if (left <= 0) return here;
  const Vector<T> found = load_partial(row + j + lag, left);
  return lane_numbers<T>() < static_cast<LaneOf<T>>(left) ? found : here;
}

// visit(at, j, count, pixels) for the vectors of an image: the `count` elements from `j` on of the
// row that begins at `at`, zeros behind them. done(at) behind each row.
template <class T, class Visit, class Done>
inline __attribute__((always_inline)) void for_pixels(const ImagePrior<T>& p, const T* image,
                                                      const Visit& visit, const Done& done) {
  const int64_t width = p.row, height = p.height, lag = p.lag;
  int64_t at = 0;
  for (int64_t plane = 0; plane < p.planes; ++plane) {
    for (int64_t i = 0; i < height; ++i, at += width) {
      const T* here = image + at;
      const T *up = i > 0 ? here - width : here, *down = i + 1 < height ? here + width : here;
      for_vectors<T>(width, [&](int64_t j, int64_t count) {
        Pixels<T> x;
        x.here = load_first(here + j, count, T(0));
        x.up = load_first(up + j, count, T(0)), x.down = load_first(down + j, count, T(0));
        x.left = left_of(here, j, count, lag, x.here);
        x.right = right_of(here, width, j, lag, x.here);
        visit(at, j, count, x);
      });
      done(at);
    }
  }
}

template <bool kAbsolute, class T>
inline Vector<T> size_of_difference(Vector<T> a, Vector<T> b) {
  const Vector<T> difference = a - b;
  if constexpr (!kAbsolute) return difference * difference;
  return difference < T(0) ? -difference : difference;
}

template <class T>
inline Vector<T> sign_of(Vector<T> x) {
  const Vector<T> none = {}, one = none + T(1);
  return x > T(0) ? one : (x < T(0) ? -one : none);
}

// The gradient of both differences of x with a and with b.
template <bool kAbsolute, class T>
inline Vector<T> slope_of(Vector<T> x, Vector<T> a, Vector<T> b) {
  if constexpr (kAbsolute) return sign_of<T>(x - a) + sign_of<T>(x - b);
  return T(2) * ((x - a) + (x - b));
}

// The gradient of an image's value; toward_zero: what its elements count in that of the norm.
template <bool kAbsolute, class T>
inline Vector<T> slope_of_value(const ImagePrior<T>& p, const Pixels<T>& x, T toward_zero) {
  return p.down * slope_of<kAbsolute, T>(x.here, x.up, x.down) +
         p.right * slope_of<kAbsolute, T>(x.here, x.left, x.right) + toward_zero * x.here;
}

template <class T>
inline T norm_of(const ImagePrior<T>& p, const T* image) {
  return std::sqrt(reduce_pair<Product>(image, image, size_of(p)));
}

// Nothing in an image of zeros.
template <class T>
inline T slope_of_norm(const ImagePrior<T>& p, T norm) {
  return norm > T(0) ? p.norm / norm : T(0);
}

template <bool kAbsolute, class T>
inline void priors(const ImagePrior<T>& given, const T* images, const T* weights, int64_t begin,
                   int64_t end, T* values, T* gradient) {
  const ImagePrior<T> p = given;  // known not to change
  for (int64_t i = begin; i < end; ++i) {
    const T* image = images + i * size_of(p);
    T* out = gradient == nullptr ? nullptr : gradient + i * size_of(p);
    const T norm = norm_of(p, image), toward_zero = slope_of_norm(p, norm), weight = weights[i];
    double sum = static_cast<double>(p.norm * norm);
    Vector<T> of_row = {};
    for_pixels(
        p, image,
        [&](int64_t at, int64_t j, int64_t count, const Pixels<T>& x) {
          of_row += p.down * size_of_difference<kAbsolute, T>(x.here, x.down) +
                    p.right * size_of_difference<kAbsolute, T>(x.here, x.right);
          if (out == nullptr) return;
          store_first<T>(out + at + j, count,
                         weight * slope_of_value<kAbsolute>(p, x, toward_zero));
        },
        [&](int64_t) {
          sum += static_cast<double>(sum_lanes<T>(of_row));
          of_row = Vector<T>{};
        });
    values[i] = static_cast<T>(sum);
  }
}

// A row is written when the one below it has been read.
template <class T>
inline void steps(const ImagePrior<T>& given, const T* grad, const T* weights, const T* rates,
                  int64_t begin, int64_t end, T* scratch, T* images) {
  const ImagePrior<T> p = given;  // known not to change
  T *moved = scratch, *waiting = scratch + p.row;
  for (int64_t i = begin; i < end; ++i) {
    T* image = images + i * size_of(p);
    const T* slopes = grad + i * size_of(p);
    const T toward_zero = slope_of_norm(p, p.norm == T(0) ? T(0) : norm_of(p, image));
    const T weight = weights[i], rate = rates[i];
    const auto write = [&](const T* row, int64_t at) {
      for_vectors<T>(p.row, [&](int64_t j, int64_t count) {
        store_first<T>(image + at + j, count, load_first(row + j, count, T(0)));
      });
    };
    for_pixels(
        p, image,
        [&](int64_t at, int64_t j, int64_t count, const Pixels<T>& x) {
          const Vector<T> slope = load_first(slopes + at + j, count, T(0)) +
                                  weight * slope_of_value<false>(p, x, toward_zero);
          store_first<T>(moved + j, count, x.here - rate * slope);
        },
        [&](int64_t at) {
          if (at > 0) write(waiting, at - p.row);
          T* const free = waiting;
          waiting = moved, moved = free;
        });
    write(waiting, size_of(p) - p.row);
  }
}

#define CLFAST_IMAGE_PRIOR_OF(T)                                                                 \
  void image_prior(const ImagePrior<T>& prior, const T* images, const T* weights, int64_t begin, \
                   int64_t end, T* values, T* gradient) {                                        \
    if (prior.absolute) {                                                                        \
      priors<true>(prior, images, weights, begin, end, values, gradient);                        \
    } else {                                                                                     \
      priors<false>(prior, images, weights, begin, end, values, gradient);                       \
    }                                                                                            \
  }                                                                                              \
  void recall_step(const ImagePrior<T>& prior, const T* grad, const T* weights, const T* rates,  \
                   int64_t begin, int64_t end, T* scratch, T* images) {                          \
    steps(prior, grad, weights, rates, begin, end, scratch, images);                             \
  }
CLFAST_IMAGE_PRIOR_OF(float)
CLFAST_IMAGE_PRIOR_OF(double)

}  // namespace clfast::cpu::CLFAST_LEVEL
