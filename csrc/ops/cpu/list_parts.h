// Parts of the tensors of a list, for threads.
#pragma once
#include <algorithm>
#include <vector>

#include "../tensor_lists.h"

namespace clfast::ops {

// Entries [begin, end) of one tensor. Tensors are cut at the same places whatever the threads, so
// that a sum over the parts has one order; multiples of 64 begin with a byte of a packed mask.
struct Part {
  size_t tensor;
  int64_t begin, end;
};
constexpr int64_t kPart = 8192;

// `size` entries of a tensor, each of which takes as much work as `weight` elements.
inline void cut(std::vector<Part>& parts, size_t tensor, int64_t size, int64_t weight = 1) {
  const int64_t step = std::max<int64_t>(64, kPart / std::max<int64_t>(1, weight) / 64 * 64);
  for (int64_t begin = 0; begin < size; begin += step) {
    parts.push_back({tensor, begin, std::min(size, begin + step)});
  }
}

inline std::vector<Part> parts_of(const std::vector<Tensor>& tensors) {
  std::vector<Part> parts;
  for (size_t i = 0; i < tensors.size(); ++i) cut(parts, i, tensors[i].numel());
  return parts;
}

// work(i, part) for part i of all. A thread takes two or more.
template <class Work>
void for_parts(const std::vector<Part>& parts, const Work& work) {
  torch::stable::parallel_for(0, static_cast<int64_t>(parts.size()), 2,
                              [&](int64_t begin, int64_t end) {
                                for (int64_t i = begin; i < end; ++i) work(i, parts[i]);
                              });
}

// Tensors of the list are contiguous, of type T.
template <class T>
void check_no_nan(const char* op, const char* list, const std::vector<Tensor>& tensors) {
  std::vector<const T*> data;
  for (const Tensor& t : tensors) data.push_back(t.const_data_ptr<T>());
  const std::vector<Part> parts = parts_of(tensors);
  std::vector<uint8_t> found(parts.size());
  for_parts(parts, [&](int64_t i, const Part& part) {
    found[i] = holds_nan(data[part.tensor] + part.begin, part.end - part.begin);
  });
  for (size_t i = 0; i < parts.size(); ++i) {
    CLFAST_CHECK(!found[i], op, ": ", Entry{list, parts[i].tensor}, " holds NaN");
  }
}

}  // namespace clfast::ops
