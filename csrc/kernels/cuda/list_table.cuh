// The tensors of one launch, as one row of all their elements, passed as an argument of a kernel.
#pragma once
#include "list_walk.cuh"

namespace clfast::cuda {

template <class Entry>
constexpr int64_t kEntriesOfALaunch = (4096 - 256) / (sizeof(Entry) + sizeof(int64_t));

template <class Entry>
struct ListTable {
  Entry of[kEntriesOfALaunch<Entry>];
  int64_t ends[kEntriesOfALaunch<Entry>];
  int64_t tensors;
};

// launch(table, blocks, elements) for the entries of each launch; ends as of for_launches().
template <class Entry, class F>
void for_tables(const Entry* entries, const int64_t* ends, int64_t count, F&& launch) {
  for_launches<kEntriesOfALaunch<Entry>>(ends, count,
                                         [&](int64_t first, int64_t some, int64_t elements) {
                                           ListTable<Entry> table = {};
                                           const int64_t before = first > 0 ? ends[first - 1] : 0;
                                           for (int64_t i = 0; i < some; ++i) {
                                             table.of[i] = entries[first + i];
                                             table.ends[i] = ends[first + i] - before;
                                           }
                                           table.tensors = some;
                                           launch(table, parts_of_elements(elements), elements);
                                         });
}

}  // namespace clfast::cuda
