// Launchers of the exemplar kernels, for the glue and for the emulator's bindings. Include what
// defines cudaError_t and cudaStream_t first. All pointers are device pointers.
#pragma once
#include <cstdint>

namespace clfast::cuda {

// ---- herding ----

template <class T>
struct HerdingProblem {
  const T* features;       // [N, dim]
  const int64_t* sorted;   // [N], the labels in ascending order
  const int64_t* members;  // [N], the rows of features that have them, ascending where equal
  int64_t samples, dim, m;
};

// How many blocks share the classes: one a sample, unless their scratch would exceed 64 MiB.
inline int64_t herding_blocks(int64_t samples, int64_t dim) {
  const int64_t room = (int64_t{1} << 22) / (dim + 1) + 1;
  return samples < room ? samples : room;
}

struct HerdingScratch {
  double* means;              // [herding_blocks(), 2, dim]
  double *sq_norms, *scores;  // [N]
};

// picks and sizes [N], as the schema has them.
template <class T>
cudaError_t herding(const HerdingProblem<T>& problem, const HerdingScratch& scratch, int64_t* picks,
                    int64_t* sizes, cudaStream_t stream);

}  // namespace clfast::cuda
