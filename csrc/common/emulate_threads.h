// A block's threads on the CPU, for emulate.h: `run(count, f)` calls f(0) ... f(count - 1) as if at once, `Barrier` makes
// them wait for each other.
//
// Under the thread sanitizer each is an OS thread, so it sees the kernel's own races. Elsewhere they are fibers of one
// thread, which take turns at barriers: 256 of them cost 0.1 ms a block where OS threads took 5 ms, and a barrier that
// some of them never reach is an error, not a hang.
#pragma once

#include <cstdint>

namespace fastiqa::emulate {

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

}  // namespace fastiqa::emulate

inline thread_local fastiqa::emulate::Index3 threadIdx, blockIdx, blockDim, gridDim;

#if defined(__SANITIZE_THREAD__)

#include <barrier>
#include <thread>
#include <vector>

namespace fastiqa::emulate {

class Barrier {
 public:
  explicit Barrier(int count) : barrier_(count) {}
  void wait() { barrier_.arrive_and_wait(); }

 private:
  std::barrier<> barrier_;
};

template <class F>
void run(int count, const F& f) {
  std::vector<std::thread> threads;
  for (int t = 0; t < count; ++t) threads.emplace_back(f, t);
  for (auto& thread : threads) thread.join();
}

}  // namespace fastiqa::emulate

#else

#include <sys/mman.h>
#include <ucontext.h>

#include <functional>
#include <stdexcept>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastiqa::emulate {

class Fibers {
 public:
  template <class F>
  Fibers(int count, const F& f) : f_(f), fibers_(count) {
    // Not committed until touched. Never returned to the heap, so the address sanitizer knows it as nobody's.
    stacks_ = static_cast<char*>(mmap(nullptr, count * kStack, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stacks_ == MAP_FAILED) throw std::runtime_error("no memory for the stacks of a block's threads");
  }
  ~Fibers() { munmap(stacks_, fibers_.size() * kStack); }

  void run() {
    current = this;
    for (size_t t = 0; t < fibers_.size(); ++t) {
      getcontext(&fibers_[t].context);
      fibers_[t].context.uc_stack = {stacks_ + t * kStack, 0, kStack};
      fibers_[t].context.uc_link = nullptr;
      makecontext(&fibers_[t].context, &Fibers::enter, 0);
    }
    for (size_t left = fibers_.size(); left > 0;) {
      const size_t before = left;
      progress_ = false;
      for (Fiber& fiber : fibers_) {
        if (fiber.finished) continue;
        running_ = &fiber;
        index_ = static_cast<int>(&fiber - fibers_.data());
        threadIdx = {static_cast<unsigned>(index_)};
        swap(main_, fiber, fiber.finished);
        left -= fiber.finished;
      }
      if (left == before && !progress_) throw std::runtime_error("a barrier is not reached by every thread");
    }
    current = nullptr;
  }

  void yield() { swap(*running_, main_, false); }
  void progress() { progress_ = true; }

  static inline Fibers* current = nullptr;

 private:
  struct Fiber {
    ucontext_t context;
    void* fake_stack = nullptr;
    bool finished = false;
  };
  static constexpr size_t kStack = 256 << 10;

  static void enter() {
    current->arrived(*current->running_);
    current->f_(current->index_);
    Fiber& self = *current->running_;
    self.finished = true;
    current->progress();
    current->swap(self, current->main_, true);
  }

  void swap(Fiber& from, Fiber& to, [[maybe_unused]] const bool& ends) {
#if defined(__SANITIZE_ADDRESS__)
    const bool enters = &to != &main_;
    const char* bottom = enters ? stacks_ + index_ * kStack : static_cast<const char*>(main_bottom_);
    __sanitizer_start_switch_fiber(!enters && ends ? nullptr : &from.fake_stack, bottom, enters ? kStack : main_size_);
#endif
    swapcontext(&from.context, &to.context);
    arrived(from);
  }

  /// What a fiber does first when it is switched to.
  void arrived([[maybe_unused]] Fiber& self) {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(self.fake_stack, &bottom, &size);
    if (&self != &main_) main_bottom_ = bottom, main_size_ = size;
#endif
  }

  std::function<void(int)> f_;
  std::vector<Fiber> fibers_;
  char* stacks_ = nullptr;
  Fiber main_;
  Fiber* running_ = nullptr;
  int index_ = 0;
  bool progress_ = false;
  [[maybe_unused]] const void* main_bottom_ = nullptr;
  [[maybe_unused]] size_t main_size_ = 0;
};

class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}

  void wait() {
    const uint64_t round = round_;
    if (++arrived_ == count_) {
      arrived_ = 0;
      ++round_;
      Fibers::current->progress();
    }
    while (round_ == round) Fibers::current->yield();
  }

 private:
  int count_, arrived_ = 0;
  uint64_t round_ = 0;
};

template <class F>
void run(int count, const F& f) {
  Fibers(count, f).run();
}

}  // namespace fastiqa::emulate

#endif
