// Rows scaled to unit length.
#pragma once
#include <cmath>

#include "../common/unit_length.h"
#include "reduce-inl.h"

namespace clfast::cpu::CLFAST_LEVEL {

template <class T>
inline double inverse_length_of(const T* row, int64_t dim) {
  double sq_norm = reduce_pair<Product>(row, row, dim);
  if (std::isinf(sq_norm)) {  // of floats, doubles can hold the squares
    sq_norm = 0;
    for (int64_t j = 0; j < dim; ++j) sq_norm += static_cast<double>(row[j]) * row[j];
  }
  return inverse_length(sq_norm);
}

template <class T>
inline void scale_to_unit_length(T* row, int64_t dim) {
  const T scale = static_cast<T>(inverse_length_of(row, dim));
  for (int64_t j = 0; j < dim; ++j) row[j] *= scale;
}

}  // namespace clfast::cpu::CLFAST_LEVEL
