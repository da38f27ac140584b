// A pool of threads that runs f(0) .. f(count - 1), each exactly once, on any thread; returns when all are done.
//
// What a task computes must not depend on its thread: then neither does the result. The first exception is thrown again.
#pragma once

#include <concepts>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#include <relay/core/require.hpp>

namespace relay {

class Threads {
 public:
  /// The calling thread works too: `count` - 1 are started.
  explicit Threads(int count) {
    require(count >= 1 && count <= 1024, "the number of threads must be 1 .. 1024, not ", count);
    try {
      for (int i = 1; i < count; ++i) workers_.emplace_back([this] { work(); });
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

  void run(int count, const std::invocable<int> auto& f) {
    if (workers_.empty()) {
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

  void run_all(int count, Task f) {
    std::unique_lock lock(mutex_);
    f_ = f;
    next_ = 0;
    count_ = count;
    unfinished_ = count;
    error_ = nullptr;
    wake_.notify_all();
    take(lock);
    done_.wait(lock, [this] { return unfinished_ == 0; });
    f_ = {};
    if (error_) std::rethrow_exception(error_);
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [this] { return stop_ || (f_.call && next_ < count_); });
      if (stop_) return;
      take(lock);
    }
  }

  /// Runs tasks until none is left to start; holds the lock on entry and exit.
  void take(std::unique_lock<std::mutex>& lock) {
    while (f_.call && next_ < count_) {
      const int task = next_++;
      const Task f = f_;
      lock.unlock();
      std::exception_ptr error;
      try {
        f.call(f.object, task);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      if (error && !error_) error_ = error;
      if (--unfinished_ == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Task f_;
  int next_ = 0, count_ = 0, unfinished_ = 0;
  std::exception_ptr error_;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace relay
