// A block's threads on the CPU, for emulate.h: `run(count, f)` calls f `count` times as if at once, `Barrier` makes the
// calls wait for each other, `thread_index` says which of them this is.
//
// They are fibers of one OS thread, which take turns at barriers: 256 of them cost less than 0.1 ms a block where OS
// threads took 5 ms, and a barrier that some of them never reach is an error, not a hang. The thread sanitizer is told of
// them: to it each is a thread, ordered with the others by barriers alone and not by the turns they take.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// What belongs to the emulation and not to the kernel: here the turns are an order.
#if defined(__SANITIZE_THREAD__)
#define FASTIQA_UNSEEN __attribute__((noinline, no_sanitize("thread")))
#else
#define FASTIQA_UNSEEN
#endif

namespace fastiqa::emulate {

/// Where a fiber goes on: what a call keeps, on its stack. swapcontext would ask the kernel for the signals' mask as well,
/// and the address sanitizer's would clear what it knows of a whole stack each time: 95 instead of 14 s of
/// test_sanitizers.py, 19 instead of 9 under the thread sanitizer.
#if defined(__x86_64__)
class Context {
 public:
  void begin(char* stack, size_t size, void (*f)()) {
    void** top = reinterpret_cast<void**>(stack + size);
    *--top = nullptr;  // where f would return to; so its stack is aligned as by a call
    *--top = reinterpret_cast<void*>(f);
    sp_ = top - kKept;
  }
  static void swap(Context& from, Context& to) { go(&from.sp_, to.sp_); }

 private:
  static constexpr int kKept = 6;
  __attribute__((naked, noinline)) static void go(void*** /*from, in rdi*/, void** /*to, in rsi*/) {
    asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n"
        "mov %rsp, (%rdi); mov %rsi, %rsp\n"
        "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
  }
  void** sp_ = nullptr;
};
#else
class Context {
 public:
  void begin(char* stack, size_t size, void (*f)()) {
    getcontext(&context_);
    context_.uc_stack = {stack, 0, size};
    context_.uc_link = nullptr;
    makecontext(&context_, f, 0);
  }
  static void swap(Context& from, Context& to) { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_;
};
#endif

class Fibers {
 public:
  template <class F>
  Fibers(int count, const F& f) : f_(f), fibers_(count) {
    // Not committed until touched. Never returned to the heap, so the address sanitizer knows it as nobody's.
    stacks_ = static_cast<char*>(mmap(nullptr, count * kStack, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks_ == MAP_FAILED) throw std::runtime_error("no memory for the stacks of a block's threads");
#if defined(__SANITIZE_THREAD__)
    while (known_.size() < fibers_.size()) known_.push_back(__tsan_create_fiber(0));
    for (size_t t = 0; t < fibers_.size(); ++t) fibers_[t].known = known_[t];
    main_.known = __tsan_get_current_fiber();
#endif
  }
  ~Fibers() { munmap(stacks_, fibers_.size() * kStack); }

  FASTIQA_UNSEEN void run() {
    current = this;
    for (size_t t = 0; t < fibers_.size(); ++t)
      fibers_[t].context.begin(stacks_ + t * kStack, kStack, &Fibers::enter);
    for (size_t left = fibers_.size(); left > 0;) {
      const size_t before = left;
      progress_ = false;
      for (Fiber& fiber : fibers_) {
        if (fiber.finished) continue;
        running_ = &fiber;
        index_ = static_cast<unsigned>(&fiber - fibers_.data());
        swap(main_, fiber, fiber.finished);
        left -= fiber.finished;
      }
      if (left == before && !progress_) throw std::runtime_error("a barrier is not reached by every thread");
    }
    current = nullptr;
  }

  FASTIQA_UNSEEN void yield() { swap(*running_, main_, false); }
  FASTIQA_UNSEEN void progress() { progress_ = true; }
  FASTIQA_UNSEEN unsigned index() const { return index_; }

  static inline Fibers* current = nullptr;

 private:
  struct Fiber {
    Context context;
    void* fake_stack = nullptr;
    void* known = nullptr;
    bool started = false;
    bool finished = false;
  };
  static constexpr size_t kStack = 256 << 10;

  FASTIQA_UNSEEN static void enter() {
    current->arrived(*current->running_);
    current->f_();
    Fiber& self = *current->running_;
    self.finished = true;
    current->progress();
    current->swap(self, current->main_, true);
  }

  FASTIQA_UNSEEN void swap(Fiber& from, Fiber& to, [[maybe_unused]] const bool& ends) {
    [[maybe_unused]] const bool enters = &to != &main_;
#if defined(__SANITIZE_ADDRESS__)
    const char* bottom = enters ? stacks_ + index_ * kStack : static_cast<const char*>(main_bottom_);
    __sanitizer_start_switch_fiber(!enters && ends ? nullptr : &from.fake_stack, bottom, enters ? kStack : main_size_);
#elif defined(__SANITIZE_THREAD__)
    // What the launch wrote comes before a fiber's beginning, and a fiber's end before what the launch does next.
    const bool ordered = enters ? !to.started : ends;
    to.started = true;
    __tsan_switch_to_fiber(to.known, ordered ? 0 : __tsan_switch_to_fiber_no_sync);
#endif
    Context::swap(from.context, to.context);
    arrived(from);
  }

  /// What a fiber does first when it is switched to.
  FASTIQA_UNSEEN void arrived([[maybe_unused]] Fiber& self) {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(self.fake_stack, &bottom, &size);
    if (&self != &main_) main_bottom_ = bottom, main_size_ = size;
#endif
  }

  // Of all launches, kept: to make one takes longer than to run it, and the sanitizer has 8128 at most.
  [[maybe_unused]] static inline std::vector<void*> known_;
  std::function<void()> f_;
  std::vector<Fiber> fibers_;
  char* stacks_ = nullptr;
  Fiber main_;
  Fiber* running_ = nullptr;
  unsigned index_ = 0;
  bool progress_ = false;
  [[maybe_unused]] const void* main_bottom_ = nullptr;
  [[maybe_unused]] size_t main_size_ = 0;
};

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  FASTIQA_UNSEEN void wait() {
    const uint64_t round = round_;
#if defined(__SANITIZE_THREAD__)
    // By turns: a fiber that already waits for the next round is not ordered before one that leaves this round.
    char* const order = &order_[8 * (round % 2)];
    __tsan_release(order);
#endif
    if (++arrived_ == count_) {
      arrived_ = 0;
      ++round_;
      Fibers::current->progress();
    }
    while (round_ == round) Fibers::current->yield();
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(order);
#endif
  }

 private:
  int count_, arrived_ = 0;
  uint64_t round_ = 0;
  [[maybe_unused]] alignas(8) char order_[16] = {};
};

template <class F>
void run(int count, const F& f) {
  Fibers(count, f).run();
}

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

inline unsigned block_number = 0;

FASTIQA_UNSEEN inline void begin_block(int64_t number) { block_number = static_cast<unsigned>(number); }
FASTIQA_UNSEEN inline Index3 block_index() { return {block_number}; }
FASTIQA_UNSEEN inline Index3 thread_index() { return {Fibers::current->index()}; }

}  // namespace fastiqa::emulate

// By value, from a function that the thread sanitizer does not see: all fibers share the variables behind them.
#define threadIdx ::fastiqa::emulate::thread_index()
#define blockIdx ::fastiqa::emulate::block_index()

inline fastiqa::emulate::Index3 blockDim, gridDim;
