// A pool of threads that runs f(0) .. f(count - 1), each exactly once, on any thread; returns when all are done.
//
// What a task computes must not depend on its thread: then neither does the result. The first exception is thrown again.
// Thread i begins with task i, then takes the next that nobody has begun: what it wrote in one run is in its own cache in the next.
// A thread with nothing to do looks for work for some microseconds before it sleeps: runs that follow each other closely, such as
// the products of one token, then start in less time than it takes the system to wake a thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <concepts>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <relay/core/require.hpp>

namespace relay {

class Threads {
 public:
  /// The calling thread works too: `count` - 1 are started.
  explicit Threads(int count) {
    require(count >= 1 && count <= 1024, "the number of threads must be 1 .. 1024, not ", count);
    try {
      for (int i = 1; i < count; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error& error) {
      const std::size_t started = workers_.size() + 1;
      stop();
      fail("cannot start ", count, " threads, only ", started, " (", error.code().message(), "): ask for fewer");
    }
  }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { stop(); }

  int count() const { return static_cast<int>(workers_.size()) + 1; }

  /// One run at a time. Inside a task of several, a run works alone; a single task has all threads.
  void run(int count, const std::invocable<int> auto& f) {
    if (workers_.empty() || count <= 1 || at_work() == this) {
      for (int i = 0; i < count; ++i) f(i);
      return;
    }
    using F = std::remove_cvref_t<decltype(f)>;
    run_all(count, {&f, [](const void* object, int i) { (*static_cast<const F*>(object))(i); }});
  }

 private:
  /// A function of any type, which outlives the run; std::function would ask for memory.
  struct Task {
    const void* object = nullptr;
    void (*call)(const void*, int) = nullptr;
  };

  /// Tasks go in at most so many shares, a bit each: task i is in share i modulo their number.
  static constexpr unsigned most_shares = 31, stopped = 1u << most_shares;

  /// The threads, if any, of which the calling thread is running a task.
  static const Threads*& at_work() {
    thread_local const Threads* threads = nullptr;
    return threads;
  }

  void run_all(int count, Task f) {
    // Nobody reads these before it has taken a share of this run, and all of the last run's are done.
    f_ = f;
    count_ = count;
    shares_ = std::min(count, static_cast<int>(most_shares));
    error_ = nullptr;
    unfinished_.store(static_cast<unsigned>(shares_), std::memory_order_relaxed);
    // Sequentially consistent: the notification looks whether anybody sleeps, and must not look before this is seen.
    waiting_.store(static_cast<unsigned>((std::uint64_t{1} << shares_) - 1));
    waiting_.notify_all();
    const Threads* before = std::exchange(at_work(), this);
    take(0);
    at_work() = before;
    wait_while(unfinished_, [](unsigned n) { return n > 0; });
    if (error_) std::rethrow_exception(error_);
  }

  void stop() {
    waiting_.store(stopped);
    waiting_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  void work(int thread) {
    at_work() = this;
    while (true) {
      wait_while(waiting_, [](unsigned shares) { return shares == 0; });
      if (waiting_.load(std::memory_order_relaxed) == stopped) return;
      take(thread);
    }
  }

  /// Runs shares until none is left to start: the thread's own first, then the next after it.
  void take(int thread) {
    const int first = thread % static_cast<int>(most_shares);
    while (true) {
      const unsigned waiting = waiting_.load(std::memory_order_relaxed);
      if (waiting == 0 || waiting == stopped) return;
      const unsigned behind = waiting & (~0u << first);  // the share `first` and those after it
      const unsigned share = static_cast<unsigned>(std::countr_zero(behind != 0 ? behind : waiting)), bit = 1u << share;
      if ((waiting_.fetch_and(~bit, std::memory_order_acquire) & bit) == 0) continue;  // another thread has it
      for (int i = static_cast<int>(share); i < count_; i += shares_) {
        try {
          f_.call(f_.object, i);
        } catch (...) {
          const std::lock_guard lock(error_mutex_);
          if (!error_) error_ = std::current_exception();
        }
      }
      if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_all();
    }
  }

  /// Returns once condition(value) is false: looks again and again for a while, then sleeps until it is told of a change.
  static void wait_while(const std::atomic<unsigned>& value, auto&& condition) {
    constexpr int looks = 2000;  // ten to a hundred microseconds
    for (int i = 0; i < looks; ++i) {
      if (!condition(value.load(std::memory_order_acquire))) return;
      relax();
    }
    for (unsigned now; condition(now = value.load(std::memory_order_acquire));) value.wait(now);
  }

  /// Leaves the core to its other thread for a moment.
  static void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  // Lines of the cache of their own: the one is asked by those without work, the other written by those who have done some.
  alignas(64) std::atomic<unsigned> waiting_ = 0;  // a bit for each share of the run at hand that nobody has started
  alignas(64) std::atomic<unsigned> unfinished_ = 0;
  alignas(64) Task f_;
  int count_ = 0, shares_ = 0;
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
};

}  // namespace relay
