// Launches over lists of tensors: a kernel gets the pointers as an argument, and walks through the
// elements of all tensors of its launch as one row.
#pragma once
#include <cstdint>

namespace clfast::cuda {

// So many elements go to a block.
constexpr int64_t kElementsOfABlock = 4096;

// How many blocks share the elements of one launch.
inline int64_t parts_of_elements(int64_t elements) {
  const int64_t parts = (elements + kElementsOfABlock - 1) / kElementsOfABlock;
  return parts < 1024 ? parts : 1024;
}

// So many entries of a table go to a launch, since a kernel's arguments have 4 KiB.
template <class Entry>
constexpr int64_t kEntriesOfALaunch = (4096 - 256) / (sizeof(Entry) + sizeof(int64_t));

// Calls f(first, tensors, elements) for the tensors of each launch, `most` at a time; ends[i] is
// where tensor i ends in the row of all elements.
template <int64_t most, class F>
void for_launches(const int64_t* ends, int64_t tensors, F&& f) {
  for (int64_t first = 0; first < tensors; first += most) {
    const int64_t rest = tensors - first;
    const int64_t count = rest < most ? rest : most;
    const int64_t elements = ends[first + count - 1] - (first > 0 ? ends[first - 1] : 0);
    if (elements > 0) f(first, count, elements);
  }
}

// How many blocks all launches have together.
template <int64_t most>
int64_t parts_of_launches(const int64_t* ends, int64_t tensors) {
  int64_t parts = 0;
  for_launches<most>(ends, tensors, [&](int64_t, int64_t, int64_t elements) {
    parts += parts_of_elements(elements);
  });
  return parts;
}

}  // namespace clfast::cuda
