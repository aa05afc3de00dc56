// Included once per SIMD level.
#include "herding.h"
#include "vector-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

constexpr int kRowsTogether = 4;

// Behind the last member it stands again.
template <class T>
inline void rows_from(const HerdingClass<T>& of, int64_t first, int64_t end,
                      const T* (&rows)[kRowsTogether]) {
  for (int r = 0; r < kRowsTogether; ++r) {
    const int64_t member = first + r < end ? first + r : end - 1;
    rows[r] = of.features + of.members[member] * of.dim;
  }
}

template <class T>
inline void sums_of_members(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum,
                            double* sq_norms) {
  constexpr int64_t lanes = kLanes<double>;
  const int64_t dim = of.dim, whole = dim / lanes * lanes;
  for (int64_t j = 0; j < dim; ++j) sum[j] = 0;
  int64_t i = begin;
  for (; i + kRowsTogether <= end; i += kRowsTogether) {
    const T* rows[kRowsTogether];
    rows_from(of, i, end, rows);
    Vector<double> squares[kRowsTogether] = {};
    for (int64_t j = 0; j < whole; j += lanes) {
      Vector<double> x[kRowsTogether];
#pragma GCC unroll 4
      for (int r = 0; r < kRowsTogether; ++r) {
        x[r] = load_wide(rows[r] + j);
        squares[r] = multiply_add<double>(x[r], x[r], squares[r]);
      }
      store<double>(sum + j, load(sum + j) + ((x[0] + x[1]) + (x[2] + x[3])));
    }
    sum_lanes<double, kRowsTogether>(squares, sq_norms + i);
    for (int64_t j = whole; j < dim; ++j) {
      for (int r = 0; r < kRowsTogether; ++r) {
        const double x = static_cast<double>(rows[r][j]);
        sum[j] += x;
        sq_norms[i + r] += x * x;
      }
    }
  }
  for (; i < end; ++i) {
    const T* row = of.features + of.members[i] * dim;
    sq_norms[i] = 0;
    for (int64_t j = 0; j < dim; ++j) {
      const double x = static_cast<double>(row[j]);
      sum[j] += x;
      sq_norms[i] += x * x;
    }
  }
}

// products[r] = <rows[r], target>. Two accumulators a row; a panel of 16 terms an accumulator is
// summed in T, the panels in double. Rows share what is read of the target, and nothing else.
template <class T>
inline void products_of_rows(const T* const (&rows)[kRowsTogether], const T* target, int64_t dim,
                             double (&products)[kRowsTogether]) {
  constexpr int64_t lanes = kLanes<T>, step = 2 * lanes, panel = 16 * step;
  for (int r = 0; r < kRowsTogether; ++r) products[r] = 0;
  for (int64_t begin = 0; begin < dim; begin += panel) {
    const int64_t end = dim - begin < panel ? dim : begin + panel;
    Vector<T> even[kRowsTogether] = {}, odd[kRowsTogether] = {};
    int64_t j = begin;
    for (; j + step <= end; j += step) {
      const Vector<T> first = load(target + j), second = load(target + j + lanes);
#pragma GCC unroll 4
      for (int r = 0; r < kRowsTogether; ++r) {
        even[r] = multiply_add<T>(load(rows[r] + j), first, even[r]);
        odd[r] = multiply_add<T>(load(rows[r] + j + lanes), second, odd[r]);
      }
    }
    for (; j < end; j += lanes) {  // the last panel's last two
      const int64_t rest = end - j;
      const Vector<T> part = rest >= lanes ? load(target + j) : load_partial(target + j, rest);
#pragma GCC unroll 4
      for (int r = 0; r < kRowsTogether; ++r) {
        const Vector<T> x = rest >= lanes ? load(rows[r] + j) : load_partial(rows[r] + j, rest);
        even[r] = multiply_add<T>(x, part, even[r]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRowsTogether; ++r) even[r] += odd[r];
    T sums[kRowsTogether];
    sum_lanes<T, kRowsTogether>(even, sums);
    for (int r = 0; r < kRowsTogether; ++r) products[r] += static_cast<double>(sums[r]);
  }
}

template <class T>
inline double scores_of_members(const HerdingClass<T>& of, const T* target, const double* sq_norms,
                                int64_t begin, int64_t end, double* scores) {
  double best = -HUGE_VAL;
  for (int64_t i = begin; i < end; i += kRowsTogether) {
    const T* rows[kRowsTogether];
    rows_from(of, i, end, rows);
    double products[kRowsTogether];
    products_of_rows(rows, target, of.dim, products);
    const int64_t count = end - i < kRowsTogether ? end - i : kRowsTogether;
    for (int64_t r = 0; r < count; ++r) {
      const double score = herding_score(products[r], sq_norms[i + r]);
      scores[i + r] = score;
      best = score > best ? score : best;
    }
  }
  return best;
}

template <class T>
inline double product_of_member(const HerdingClass<T>& of, const double* target, int64_t member) {
  constexpr int64_t lanes = kLanes<double>, step = 2 * lanes;
  const T* row = of.features + of.members[member] * of.dim;
  Vector<double> even = {}, odd = {};
  int64_t j = 0;
  for (; j + step <= of.dim; j += step) {
    even = multiply_add<double>(load_wide(row + j), load(target + j), even);
    odd = multiply_add<double>(load_wide(row + j + lanes), load(target + j + lanes), odd);
  }
  double sum = sum_lanes<double>(even + odd);
  for (; j < of.dim; ++j) sum += static_cast<double>(row[j]) * target[j];
  return sum;
}

#define CLFAST_DEFINE_HERDING(T)                                                            \
  void herding_sums(const HerdingClass<T>& of, int64_t begin, int64_t end, double* sum,     \
                    double* sq_norms) {                                                     \
    sums_of_members(of, begin, end, sum, sq_norms);                                         \
  }                                                                                         \
  double herding_scores(const HerdingClass<T>& of, const T* target, const double* sq_norms, \
                        int64_t begin, int64_t end, double* scores) {                       \
    return scores_of_members(of, target, sq_norms, begin, end, scores);                     \
  }                                                                                         \
  double herding_product(const HerdingClass<T>& of, const double* target, int64_t member) { \
    return product_of_member(of, target, member);                                           \
  }
CLFAST_DEFINE_HERDING(float)
CLFAST_DEFINE_HERDING(double)
#undef CLFAST_DEFINE_HERDING

int64_t herding_next(const double* scores, double least, int64_t begin, int64_t end) {
  constexpr int64_t block = 16;  // a known number at a time vectorises
  for (; begin + block <= end; begin += block) {
    int64_t found = 0;
    for (int64_t j = 0; j < block; ++j) found |= !(scores[begin + j] < least);
    if (found) break;
  }
  while (begin < end && scores[begin] < least) ++begin;
  return begin;
}

}  // namespace clfast::cpu::CLFAST_LEVEL
