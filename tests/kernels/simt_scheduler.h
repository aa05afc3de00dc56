// The threads of a block in the SIMT emulator: what they wait for, the memory they share, who runs
// next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "simt_fibers.h"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace simt {

// Thrown by a launch whose kernel breaks a rule that the emulator checks.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The order in which the blocks of a grid run, and the threads of a block that can go on. kRandom
// draws a new order of the threads in every round.
enum class Order { kForward, kReverse, kRandom };

constexpr int kLanes = 32;
constexpr int kMaxThreads = 1024;

// A place in the kernel's text; as a default argument, the place of the call.
struct Site {
  const char* file = "";
  int line = 0;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

enum class State : unsigned char { kReady, kAtBlockBarrier, kAtWarpOperation, kReturned };

struct Thread {
  Fiber fiber;
  uint3 index;
  State state = State::kReturned;
  // What it waits at and, for a warp operation, the arguments and the result of it.
  const char* operation = "";
  Site site;
  unsigned mask = 0;
  int source_lane = 0;  // whose value is the result; none: the result is the ballot
  uint64_t value = 0, result = 0;
};
constexpr int kNoLane = -1;

struct Warp {
  unsigned live, waiting;  // a bit for each lane
};

struct SharedArray {
  std::unique_ptr<char[]> data;  // of `bytes` exactly: the address sanitizer sees the end
  size_t bytes;
};

// The memory of a shared variable in the launch that it was last used in.
struct SharedVariable {
  uint64_t launch = 0;
  void* data = nullptr;
};

// One launch at a time in a process.
struct Machine {
  Thread threads[kMaxThreads];
  Warp warps[kMaxThreads / kLanes];
  Fiber host;
  Thread* current = nullptr;  // none outside kernels
  int thread_count = 0;
  int at_barrier = 0;
  Site barrier_site;  // of those at the barrier
  bool failed = false;
  std::exception_ptr error;  // what a thread threw, if failed

  const char* kernel = "";
  void (*body)(void*) = nullptr;
  void* call = nullptr;
  bool running = false;
  uint64_t launches = 0;

  std::vector<SharedArray> shared;
  void* dynamic_shared = nullptr;
  size_t shared_bytes = 0, shared_limit = 0;

  Order order = Order::kForward;
  uint64_t random_state = 0;
  int order_of_threads[kMaxThreads];
};
inline Machine machine;

inline void set_order(Order order, uint64_t seed = 0) {
  machine.order = order;
  machine.random_state = seed;
}

// ---- Errors ----

inline std::string text_of(const Thread& thread) {
  if (thread.state == State::kReady) return "not waiting";
  if (thread.state == State::kReturned) return "returned";
  std::string text = std::string("waiting at ") + thread.operation;
  if (thread.state == State::kAtWarpOperation) {
    char mask[32];
    std::snprintf(mask, sizeof mask, " with mask 0x%08x", thread.mask);
    text += mask;
  }
  const char* const slash = std::strrchr(thread.site.file, '/');
  return text + " (" + (slash ? slash + 1 : thread.site.file) + ":" +
         std::to_string(thread.site.line) + ")";
}

[[noreturn]] inline void fail(const std::string& what) {
  Overlook overlook;
  std::string text = std::string("kernel ") + machine.kernel + ", block (" +
                     std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                     std::to_string(blockIdx.z) + "): " + what;
  std::map<std::string, std::string> threads_of;
  for (int first = 0, end; first < machine.thread_count; first = end) {
    const std::string state = text_of(machine.threads[first]);
    end = first + 1;
    while (end < machine.thread_count && text_of(machine.threads[end]) == state) ++end;
    std::string& threads = threads_of[state];
    if (threads.size() > 60) continue;  // enough to recognise the pattern
    threads += (threads.empty() ? "" : ", ") + std::to_string(first);
    if (end - first > 1) threads += "-" + std::to_string(end - 1);
    if (threads.size() > 60) threads += ", ...";
  }
  for (const auto& [state, threads] : threads_of) text += "; threads " + threads + ": " + state;
  throw Error(text);
}

// ---- What threads wait for ----

SIMT_UNTRACED inline int thread_number() {
  if (!machine.current) throw Error("a device function was called outside a kernel");
  return static_cast<int>(machine.current - machine.threads);
}

// Back to the scheduler, until it lets this thread go on.
SIMT_UNTRACED inline void wait() { switch_fiber(&machine.current->fiber, &machine.host); }

// The whole block and the host.
SIMT_UNTRACED inline void order_memory_of_block() {
  MeetingPlace place;
  for (int i = 0; i < machine.thread_count; ++i) place.arrive(machine.threads[i].fiber);
  place.arrive(machine.host);
  for (int i = 0; i < machine.thread_count; ++i) place.depart(machine.threads[i].fiber);
  place.depart(machine.host);
}

SIMT_UNTRACED inline void synchronize_block(Site site) {
  thread_number();
  Thread& self = *machine.current;
  self.state = State::kAtBlockBarrier;
  self.operation = "__syncthreads";
  self.site = site;
  if (machine.at_barrier == 0) machine.barrier_site = site;
  if (machine.barrier_site.line != site.line ||
      std::strcmp(machine.barrier_site.file, site.file) != 0) {
    fail("threads of one block wait at different barriers");
  }
  if (++machine.at_barrier < machine.thread_count) return wait();
  machine.at_barrier = 0;
  for (int i = 0; i < machine.thread_count; ++i) machine.threads[i].state = State::kReady;
  order_memory_of_block();
}

// Completes the operation with this mask if every lane of the mask is there. Like CUDA, it does
// not wait for lanes that returned or that the last warp of the block never had.
SIMT_UNTRACED inline bool complete_warp_operation(int warp_number, unsigned mask) {
  Warp& warp = machine.warps[warp_number];
  Thread* const threads = machine.threads + warp_number * kLanes;
  const unsigned lanes = mask & warp.live;
  if (lanes == 0 || (warp.waiting & lanes) != lanes) return false;
  const Thread& any = threads[__builtin_ctz(lanes)];
  uint64_t ballot = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    const Thread& thread = threads[lane];
    if (thread.mask != mask || std::strcmp(thread.operation, any.operation) != 0) {
      fail("lanes of one warp meet with different masks or in different operations");
    }
    ballot |= (thread.value & 1) << lane;
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    Thread& thread = threads[lane];
    thread.state = State::kReady;
    if (thread.source_lane == kNoLane) {
      thread.result = ballot;
    } else if (lanes >> thread.source_lane & 1) {
      thread.result = threads[thread.source_lane].value;
    } else {
      thread.result = ~uint64_t{0};  // undefined in CUDA; here NaN or -1, to be seen
    }
  }
  warp.waiting &= ~lanes;
  if (std::strcmp(any.operation, "__syncwarp") == 0) {  // no other orders memory
    MeetingPlace place;
    for (int lane = 0; lane < kLanes; ++lane) {
      if (lanes >> lane & 1) place.arrive(threads[lane].fiber);
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      if (lanes >> lane & 1) place.depart(threads[lane].fiber);
    }
  }
  return true;
}

SIMT_UNTRACED inline uint64_t warp_operation(const char* operation, unsigned mask, uint64_t value,
                                             int source_lane, Site site) {
  const int warp_number = thread_number() / kLanes, lane = thread_number() % kLanes;
  Thread& self = *machine.current;
  self.state = State::kAtWarpOperation;
  self.operation = operation;
  self.site = site;
  self.mask = mask;
  self.value = value;
  self.source_lane = source_lane;
  if (!(mask >> lane & 1)) fail("lane " + std::to_string(lane) + " is not in its own mask");
  machine.warps[warp_number].waiting |= 1u << lane;
  if (!complete_warp_operation(warp_number, mask)) wait();
  return self.result;
}

SIMT_UNTRACED inline void leave_block() {
  const int warp_number = thread_number() / kLanes;
  machine.current->state = State::kReturned;
  Warp& warp = machine.warps[warp_number];
  warp.live &= ~(1u << thread_number() % kLanes);
  for (int lane = 0; lane < kLanes; ++lane) {
    if (!(warp.waiting >> lane & 1)) continue;
    complete_warp_operation(warp_number, machine.threads[warp_number * kLanes + lane].mask);
  }
}

// A fiber runs one thread of every block, block after block.
SIMT_UNTRACED inline void fiber_main() {
  enter_fiber(&machine.host);
  for (;;) {
    try {
      machine.body(machine.call);
      leave_block();
    } catch (...) {  // nothing may unwind past the end of this stack
      machine.error = std::current_exception();
      machine.failed = true;
    }
    wait();
  }
}

// ---- Shared memory ----

inline void* allocate_shared(size_t bytes) {
  Overlook overlook;
  machine.shared_bytes += bytes;
  if (machine.shared_bytes > machine.shared_limit) {
    fail(std::to_string(machine.shared_bytes) + " bytes of shared memory, limit " +
         std::to_string(machine.shared_limit));
  }
  machine.shared.push_back({std::unique_ptr<char[]>(new char[bytes]), bytes});
  return std::memset(machine.shared.back().data.get(), 0xff, bytes);
}

SIMT_UNTRACED inline void* dynamic_shared() {
  thread_number();
  return machine.dynamic_shared;
}

// `Unique` tells one variable of a kernel from another.
template <class T, class Unique>
SIMT_UNTRACED T& shared_variable(Unique) {
  static_assert(std::is_trivially_default_constructible_v<std::remove_all_extents_t<T>>,
                "shared memory is not initialised");
  static_assert(alignof(T) <= 16, "shared memory is aligned to 16 bytes");
  static SharedVariable variable;
  thread_number();
  if (variable.launch != machine.launches) {
    variable = {machine.launches, allocate_shared(sizeof(T))};
  }
  return *static_cast<T*>(variable.data);
}

// ---- Running ----

// Splitmix64. The remainder favours small numbers by less than 2^-40 for any grid.
inline uint64_t random_below(uint64_t bound) {
  uint64_t bits = machine.random_state += 0x9e3779b97f4a7c15u;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
  return (bits ^ (bits >> 31)) % bound;
}

template <class Number>
void shuffle(Number* numbers, size_t count) {
  for (size_t i = count; i > 1; --i) std::swap(numbers[i - 1], numbers[random_below(i)]);
}

// Until the thread waits or ends. True: it threw machine.error.
SIMT_UNTRACED inline bool run_thread(Thread* thread) {
  machine.current = thread;
  threadIdx = thread->index;
  switch_fiber(&machine.host, &thread->fiber);
  machine.current = nullptr;
  if (!machine.failed) return false;
  machine.failed = false;
  order_memory_of_block();
  return true;
}

inline void run_block() {
  for (const SharedArray& array : machine.shared) std::memset(array.data.get(), 0xff, array.bytes);
  for (int i = 0; i < machine.thread_count; ++i) machine.threads[i].state = State::kReady;
  for (int first = 0; first < machine.thread_count; first += kLanes) {
    const int lanes = std::min(kLanes, machine.thread_count - first);
    machine.warps[first / kLanes] = {~0u >> (kLanes - lanes), 0};
  }
  machine.at_barrier = 0;
  order_memory_of_block();
  for (bool any_ran = true; any_ran;) {
    any_ran = false;
    if (machine.order == Order::kRandom) shuffle(machine.order_of_threads, machine.thread_count);
    for (int i = 0; i < machine.thread_count; ++i) {
      Thread& thread = machine.threads[machine.order_of_threads[i]];
      if (thread.state != State::kReady) continue;
      any_ran = true;
      if (run_thread(&thread)) std::rethrow_exception(std::exchange(machine.error, nullptr));
    }
  }
  order_memory_of_block();
  for (int i = 0; i < machine.thread_count; ++i) {
    if (machine.threads[i].state != State::kReturned) fail("no thread can go on");
  }
}

}  // namespace simt
