#include <relay/core/threads.hpp>

#include <atomic>
#include <chrono>
#include <numeric>
#include <string>

#include <doctest/doctest.h>

using namespace relay;

TEST_CASE("every task runs exactly once, for any number of threads and tasks, again and again") {
  for (const int count : {1, 2, 3, 8}) {
    Threads threads(count);
    CHECK(threads.count() == count);
    for (int round = 0; round < 100; ++round)
      for (const int tasks : {0, 1, 2, 7, 40}) {
        std::vector<int> runs(static_cast<std::size_t>(tasks));  // each written by one task: no lock
        threads.run(tasks, [&](int i) { ++runs[static_cast<std::size_t>(i)]; });
        CHECK(runs == std::vector<int>(runs.size(), 1));
      }
  }
}

TEST_CASE("more tasks than shares, more threads than those, and threads that have fallen asleep") {
  Threads threads(40);
  for (int round = 0; round < 20; ++round) {
    std::vector<int> runs(100);
    threads.run(100, [&](int i) { ++runs[static_cast<std::size_t>(i)]; });
    CHECK(runs == std::vector<int>(100, 1));
    if (round % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // no thread looks for work that long
  }
  for (const int milliseconds : {0, 2}) {  // ended while they look, and while they sleep
    Threads idle(3);
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
  }
}

TEST_CASE("inside a task of several a run works alone, inside a single task it has all threads") {
  Threads threads(2);
  std::atomic<int> runs = 0;
  threads.run(4, [&](int) {
    const auto outer = std::this_thread::get_id();
    threads.run(3, [&](int) { runs += std::this_thread::get_id() == outer ? 1 : 100; });
  });
  CHECK(runs == 12);
  std::atomic<int> here = 0;  // two tasks that wait for each other, so there are two threads
  threads.run(1, [&](int) {
    threads.run(2, [&](int) {
      ++here;
      while (here < 2) std::this_thread::yield();
    });
  });
  CHECK(here == 2);
  CHECK_THROWS_WITH_AS(threads.run(2, [&](int) { threads.run(2, [](int i) { require(i == 0, "task ", i); }); }), "task 1", Error);
  threads.run(2, [&](int) { ++here; });
  CHECK(here == 4);
}

TEST_CASE("what the tasks wrote is seen when run returns") {
  Threads threads(4);
  std::vector<long> sums(16);
  for (int round = 0; round < 200; ++round) {
    threads.run(16, [&](int i) { sums[static_cast<std::size_t>(i)] += i; });
    CHECK(std::accumulate(sums.begin(), sums.end(), 0L) == 120L * (round + 1));
  }
}

TEST_CASE("an exception comes out of run, after all the tasks; the pool lives on") {
  for (const int count : {1, 3}) {
    Threads threads(count);
    CHECK_THROWS_WITH_AS(threads.run(5, [](int i) { require(i != 3, "task ", i); }), "task 3", Error);
    std::atomic<int> runs = 0;
    threads.run(5, [&](int) { ++runs; });
    CHECK(runs == 5);
  }
  Threads threads(3);
  std::atomic<int> runs = 0;
  CHECK_THROWS_AS(threads.run(50, [&](int) { ++runs, fail("all of them"); }), Error);
  CHECK(runs == 50);
}

TEST_CASE("more than one thread works") {
  Threads threads(2);
  // Two tasks that wait for each other: one thread alone would never end.
  std::atomic<int> here = 0;
  threads.run(2, [&](int) {
    ++here;
    while (here < 2) std::this_thread::yield();
  });
  CHECK(here == 2);
}

TEST_CASE("a number of threads that makes no sense is refused") {
  CHECK_THROWS_WITH_AS(Threads(0), "the number of threads must be 1 .. 1024, not 0", Error);
  CHECK_THROWS_AS(Threads(-1), Error);
  CHECK_THROWS_AS(Threads(100000), Error);
}
