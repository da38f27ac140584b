// Work of the device that comes again and again, as CUDA graphs: a step of decoding is some fifty launches of a few microseconds each, and
// the host takes as long for each of them.
#pragma once

#include <bit>
#include <map>
#include <utility>

#include <relay/backend/cuda/tensor.hpp>

namespace relay::cuda {

class Graphs {
 public:
  Graphs() = default;
  Graphs(const Graphs&) = delete;
  Graphs& operator=(const Graphs&) = delete;
  ~Graphs() { clear(); }

  /// Has the device do what f asks of it: launches, and copies on the device, which depend on nothing but `size`, and on how many `times` it does
  /// the same, and for which f takes memory from `pool` alone, which nobody else uses. f is called twice or more for each of these, and then no
  /// more: the same addresses are read and written then. Tensors that f writes must not be larger for smaller sizes, or more times.
  void run(int size, int times, const Memory& pool, auto&& f) {
    if (size > largest_) clear();  // tensors move
    largest_ = std::max(largest_, size);
    Entry& entry = entries_[{size, times}];
    if (entry.state == State::recorded) return replay(entry);
    if (entry.state == State::warm) {
      if (record(entry, pool, f)) return replay(entry);
      entry.state = State::impossible;
    }
    const long before = pool.allocations();
    f();
    // All that it needs is loaded now; where it also needed no more memory, it will find the same the next time.
    if (entry.state == State::fresh && pool.allocations() == before) entry.state = State::warm;
  }

  /// Few sizes, as large as `size` or a little larger, so that graphs are found again: eight to an octave.
  static int size_of(int size) {
    const int step = std::max(1, static_cast<int>(std::bit_floor(static_cast<unsigned>(std::max(size - 1, 1)))) / 8);
    return (size + step - 1) / step * step;
  }

 private:
  enum class State { fresh, warm, recorded, impossible };
  struct Entry {
    State state = State::fresh;
    cudaGraphExec_t graph = nullptr;
  };

  void clear() noexcept {
    for (auto& [key, entry] : entries_)
      if (entry.graph != nullptr) (void)cudaGraphExecDestroy(entry.graph);
    entries_.clear();
  }

  static void replay(const Entry& entry) { check(cudaGraphLaunch(entry.graph, stream()), "repeat what it did"); }

  /// While it lives, this thread records.
  class Recording {
   public:
    explicit Recording(const Memory& pool) {
      check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "begin to record");
      begun_ = true;
      recorded_memory = &pool;
    }
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;
    ~Recording() {
      if (begun_) (void)cudaStreamEndCapture(stream(), &graph_);
      if (graph_ != nullptr) (void)cudaGraphDestroy(graph_);
      recorded_memory = nullptr;
    }

    cudaGraphExec_t end() {
      begun_ = false;
      check(cudaStreamEndCapture(stream(), &graph_), "record what it does");
      cudaGraphExec_t ready = nullptr;
      check(cudaGraphInstantiateWithFlags(&ready, graph_, 0), "make ready what it recorded");
      return ready;
    }

   private:
    RecordingStream stream_;
    cudaGraph_t graph_ = nullptr;
    bool begun_ = false;
  };

  /// False where something in f cannot be recorded; nothing is computed either way.
  static bool record(Entry& entry, const Memory& pool, auto&& f) {
    try {
      Recording recording(pool);
      f();
      entry.graph = recording.end();
      entry.state = State::recorded;
      return true;
    } catch (const Error&) {
      (void)cudaGetLastError();
      return false;
    }
  }

  std::map<std::pair<int, int>, Entry> entries_;
  int largest_ = 0;
};

}  // namespace relay::cuda
