// What every adaptation kernel reads: the memory, and the neighbours that knn found in it.
#pragma once
#include <cstdint>

#include "host_device.h"
#include "scalar.h"

namespace clfast {

// Row-major [rows, dim] values of any floating type, widened to T when a row is read.
struct Rows {
  const void* data;
  ScalarKind kind;
};

template <class T>
struct Neighbourhood {
  Rows keys;               // [M, d]
  const int64_t* labels;   // [M]
  const T* sq_distances;   // [B, K], true squared distances
  const int64_t* indices;  // [B, K], rows of the memory
  int64_t memory_size;     // M
  int64_t dim;             // d
  int64_t neighbours;      // K
  int64_t num_classes;     // C
  T eps;                   // of the closeness, > 0
  const T* closeness;      // [B, K], or null: Eq. 2's
};

// What is wrong with neighbour k of query b; kNone when nothing is.
enum class Fault : int { kNone, kIndex, kDistance, kCloseness, kLabel };

struct Finding {
  Fault fault = Fault::kNone;
  int64_t query = 0, neighbour = 0;
};

// Finite and >= 0: only then is the difference from itself 0.
template <class T>
CLFAST_HD bool is_closeness(T c) {
  return c >= T(0) && c - c == T(0);
}

template <class T>
CLFAST_HD Fault check_neighbour(const Neighbourhood<T>& n, int64_t query, int64_t k) {
  const int64_t at = query * n.neighbours + k;
  const int64_t row = n.indices[at];
  if (row < 0 || row >= n.memory_size) return Fault::kIndex;
  if (!(n.sq_distances[at] >= T(0))) return Fault::kDistance;
  if (n.closeness != nullptr && !is_closeness(n.closeness[at])) return Fault::kCloseness;
  const int64_t label = n.labels[row];
  if (label < 0 || label >= n.num_classes) return Fault::kLabel;
  return Fault::kNone;
}

// Hebb paper, Eq. 2: c_k = 1 / (eps + ||h_x - h_k||^2), unless it is given; `at` counts neighbours.
template <class T>
CLFAST_HD T closeness(const Neighbourhood<T>& n, int64_t at) {
  return n.closeness == nullptr ? T(1) / (n.eps + n.sq_distances[at]) : n.closeness[at];
}

// c_k times a term of its key. A key so far that c_k = 0 counts for nothing, also where the
// distance overflowed and took the term with it.
template <class T>
CLFAST_HD T weighed(T closeness, T term) {
  return closeness > T(0) ? closeness * term : T(0);
}

// <x, h> from ||x||^2, ||h||^2 and the true ||x - h||^2: absolute error about u (||x||^2 +
// ||h||^2).
template <class T>
CLFAST_HD T dot_from_norms(T query_sq_norm, T key_sq_norm, T sq_distance) {
  return T(0.5) * (query_sq_norm + key_sq_norm - sq_distance);
}

}  // namespace clfast
