// Memory for vectors, none of which then lies across two lines of the cache.
#pragma once
#include <cstdint>
#include <memory>
#include <new>

namespace clfast::cpu {

constexpr std::align_val_t kCacheLine{64};

struct DeleteCacheLines {
  void operator()(void* memory) const { operator delete[](memory, kCacheLine); }
};

// Of numbers, at the beginning of a line.
template <class T>
using CacheLines = std::unique_ptr<T[], DeleteCacheLines>;

// Uninitialised on purpose.
template <class T>
CacheLines<T> new_cache_lines(int64_t size) {
  void* memory = operator new[](static_cast<size_t>(size) * sizeof(T), kCacheLine);
  return CacheLines<T>(static_cast<T*>(memory));
}

}  // namespace clfast::cpu
