// Fibers for the SIMT emulator: functions that stop in their middle and go on later, all on one
// host thread, and what the sanitizers must be told about them.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <new>

#ifdef __has_feature  // clang; GCC defines these two by itself
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#if __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
// Exported by the sanitizer's run-time library, declared in none of its headers.
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

// In front of emulator code that runs on a fiber. To the thread sanitizer every fiber is a thread,
// and it shall look at the kernel's own memory accesses only.
#define SIMT_UNTRACED __attribute__((no_sanitize("thread")))

namespace simt {

// Of address space: memory is taken for the pages that a kernel touches. Below each stack lies a
// page without access, so that an overflow is a fault and not a wrong number.
constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kGuardBytes = 4096;

#if defined(__x86_64__) && !defined(SIMT_USE_UCONTEXT)

struct Context {
  void* stack_pointer;
};

// Stores what the System V ABI lets a caller rely on and goes on where `to` stopped. swapcontext
// does the same in 220 ns, since it has the kernel set the signal mask; this takes 3 ns. `noipa`,
// since the compiler must not conclude from the text that other registers keep their values.
__attribute__((naked, noinline, noipa)) SIMT_UNTRACED inline void switch_context(
    Context* /*from*/, const Context* /*to*/) {
  asm("pushq %rbp\n\t"
      "pushq %rbx\n\t"
      "pushq %r12\n\t"
      "pushq %r13\n\t"
      "pushq %r14\n\t"
      "pushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq (%rsi), %rsp\n\t"
      "popq %r15\n\t"
      "popq %r14\n\t"
      "popq %r13\n\t"
      "popq %r12\n\t"
      "popq %rbx\n\t"
      "popq %rbp\n\t"
      "ret");
}

inline void prepare_context(Context* context, char* stack, void (*entry)()) {
  // From the top: no return address, `entry` for the `ret` above, six registers. The ABI wants the
  // stack pointer to be 8 past a multiple of 16 where `entry` begins.
  void** top = reinterpret_cast<void**>(stack + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context->stack_pointer = top;
}

#else

using Context = ucontext_t;

SIMT_UNTRACED inline void switch_context(Context* from, const Context* to) {
  swapcontext(from, to);
}

inline void prepare_context(Context* context, char* stack, void (*entry)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStackBytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}

#endif

// The host thread, which runs the scheduler, is a Fiber too: one whose stack was there already.
struct Fiber {
  Context context;
  const void* stack = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;     // the address sanitizer's
  void* traced_thread = nullptr;  // the thread sanitizer's
};

// `entry` never returns; it begins with enter_fiber().
inline void start_fiber(Fiber* fiber, void (*entry)()) {
  if (!fiber->stack) {
    void* const memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0) {
      throw std::bad_alloc();
    }
    fiber->stack = static_cast<char*>(memory) + kGuardBytes;
    fiber->stack_bytes = kStackBytes;
  }
  // A fiber that is started anew may have stopped inside functions whose marks are still there.
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(fiber->stack, kStackBytes);
#endif
#ifdef __SANITIZE_THREAD__
  if (fiber->traced_thread) __tsan_destroy_fiber(fiber->traced_thread);
  fiber->traced_thread = __tsan_create_fiber(0);
#endif
  prepare_context(&fiber->context, static_cast<char*>(const_cast<void*>(fiber->stack)), entry);
}

SIMT_UNTRACED inline void enter_fiber([[maybe_unused]] Fiber* came_from) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &came_from->stack, &came_from->stack_bytes);
#endif
}

// `from` goes on when `to`, and no other fiber, switches back.
SIMT_UNTRACED inline void switch_fiber(Fiber* from, Fiber* to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_bytes);
#endif
#ifdef __SANITIZE_THREAD__
  __tsan_switch_to_fiber(to->traced_thread, __tsan_switch_to_fiber_no_sync);
#endif
  switch_context(&from->context, &to->context);
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from->fake_stack, &to->stack, &to->stack_bytes);
#endif
}

// A place where fibers meet: what any of them did before is ordered before what any does after.
// Only the thread sanitizer cares. First every fiber arrives, then every fiber departs. A place is
// used for one meeting, or those who met there before would take part.
class MeetingPlace {
#ifdef __SANITIZE_THREAD__
 public:
  SIMT_UNTRACED MeetingPlace() : caller_(__tsan_get_current_fiber()), place_(new char) {}
  SIMT_UNTRACED ~MeetingPlace() {
    __tsan_switch_to_fiber(caller_, __tsan_switch_to_fiber_no_sync);
    delete place_;
  }
  SIMT_UNTRACED void arrive(const Fiber& fiber) {
    __tsan_switch_to_fiber(fiber.traced_thread, __tsan_switch_to_fiber_no_sync);
    __tsan_release(place_);
  }
  SIMT_UNTRACED void depart(const Fiber& fiber) {
    __tsan_switch_to_fiber(fiber.traced_thread, __tsan_switch_to_fiber_no_sync);
    __tsan_acquire(place_);
  }

 private:
  void* caller_;
  char* place_;
#else
 public:
  void arrive(const Fiber&) {}
  void depart(const Fiber&) {}
#endif
};

// While one lives, the thread sanitizer overlooks what the running fiber does.
struct Overlook {
#ifdef __SANITIZE_THREAD__
  SIMT_UNTRACED Overlook() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  SIMT_UNTRACED ~Overlook() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Overlook() {}
#endif
  Overlook(const Overlook&) = delete;
  Overlook& operator=(const Overlook&) = delete;
};

}  // namespace simt
