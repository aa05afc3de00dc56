// Images as they lie in memory, and what their prior counts.
#pragma once
#include <cstdint>

#include "host_device.h"

namespace clfast {

// An image is `planes` planes of `height` rows of `row` elements in one piece, in which neighbours
// along the width are `lag` apart: with channels first a plane is a channel and lag is 1, with
// channels last there is one plane, and lag is the number of channels.
template <class T>
struct ImagePrior {
  int64_t planes, height, row, lag;
  T down, right;  // what a squared or absolute difference of neighbours counts, along either side
  T norm;         // what an image's Euclidean norm counts
  bool absolute;  // differences count as they are, not squared
};

template <class T>
CLFAST_HD int64_t size_of(const ImagePrior<T>& prior) {
  return prior.planes * prior.height * prior.row;
}

}  // namespace clfast
