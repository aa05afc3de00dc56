// How many elements a row of classes takes in scratch memory: a whole number of vectors at every
// level, so that loops over few classes do not run element by element.
#pragma once
#include <cstdint>

namespace clfast::cpu {

static inline int64_t padded_classes(int64_t classes) { return (classes + 15) / 16 * 16; }

}  // namespace clfast::cpu
