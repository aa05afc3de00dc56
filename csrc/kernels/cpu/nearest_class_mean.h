// The class whose mean is nearest. A product of features and means in register tiles gives every
// distance with a bound on its rounding; where more than one class lies within the bound of the
// smallest, the distances in difference form decide.
#pragma once
#include <cstdint>

#include "../common/neighbourhood.h"
#include "simd.h"

namespace clfast::cpu {

template <class T>
struct NearestMeanProblem {
  Rows features;           // [N, d]
  const T* means;          // [rows, d]
  const int64_t* classes;  // [C], ascending: the rows of means that may be predicted
  int64_t dim, num_classes;
  bool unit_length;  // compare features and means scaled to unit length
};

// The means as the tiles read them.
template <class T>
struct PackedMeans {
  T* panels;    // see pack_panels() in rows.h; null: every distance in difference form
  T* sq_norms;  // [C], after scaling
};

// Elements of T in the scratch of one thread.
template <class T>
int64_t nearest_class_mean_scratch(const NearestMeanProblem<T>& problem);

// pack_means packs panels [begin, end); nearest_class_mean then writes labels[begin .. end): -1
// where a distance is NaN or all are infinite. A feature of length 0 has the first class at unit
// length.
#define CLFAST_NEAREST_CLASS_MEAN(T)                                                            \
  void pack_means(const NearestMeanProblem<T>& problem, int64_t begin, int64_t end, T* scratch, \
                  const PackedMeans<T>& packed);                                                \
  void nearest_class_mean(const NearestMeanProblem<T>& problem, const PackedMeans<T>& packed,   \
                          int64_t begin, int64_t end, T* scratch, int64_t* labels);
CLFAST_NEAREST_CLASS_MEAN(float)
CLFAST_NEAREST_CLASS_MEAN(double)
CLFAST_DECLARE_PER_LEVEL(CLFAST_NEAREST_CLASS_MEAN(float) CLFAST_NEAREST_CLASS_MEAN(double))

// Features that go through the tiles together: a multiple of the tile's 6 or 12 rows.
constexpr int64_t kNearestMeanBlock = 96;

}  // namespace clfast::cpu
