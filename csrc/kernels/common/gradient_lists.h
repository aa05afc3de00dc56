// Gradients as lists of tensors, which are walked through as one row of all their elements, and how
// A-GEM projects one on another.
#pragma once
#include <cstdint>

#include "host_device.h"

namespace clfast {

template <class T>
struct GradientLists {
  T* const* grads;            // [tensors], the elements of each one behind another
  const T* const* reference;  // [tensors], in the same order
  const int64_t* ends;        // [tensors], where each ends in the row of all elements
  int64_t tensors;
};

// What a range of the row has of one tensor.
struct Piece {
  int64_t tensor, offset, count;
};

// From `at` on, before `end`. Lists: anything with the members `ends` and `tensors`.
template <class Lists>
CLFAST_HD Piece piece_at(const Lists& lists, int64_t at, int64_t end) {
  int64_t tensor = 0;  // the first that ends behind `at`
  for (int64_t count = lists.tensors; count > 1;) {
    const int64_t half = count / 2;
    if (lists.ends[tensor + half - 1] <= at) tensor += half;
    count -= half;
  }
  const int64_t first = tensor > 0 ? lists.ends[tensor - 1] : 0;
  const int64_t stop = lists.ends[tensor] < end ? lists.ends[tensor] : end;
  return {tensor, at - first, stop - at};
}

// Sums over the row, in double: of floats they are exact up to about 1e-16 of sum |g_i r_i|.
struct InnerProducts {
  double dot;      // <g, r>
  double sq_norm;  // |r|^2
};

// How many times the reference is taken off the gradient (A-GEM, Eq. 11): <g, r> / |r|^2 where they
// point apart, otherwise 0.
CLFAST_HD double projection_scale(InnerProducts sums) {
  return sums.dot < 0 && sums.sq_norm > 0 ? sums.dot / sums.sq_norm : 0.0;
}

}  // namespace clfast
