// Work that is recorded once and replayed, on the host (cuda_on_host.hpp).
#include <relay/backend/cuda.hpp>

#include <doctest/doctest.h>

using namespace relay;
using B = Cuda<float>;
using cuda::Graphs;

namespace {

B::Tensor tensor(const std::vector<float>& values, cuda::Memory& memory) {
  B::Tensor t(1, static_cast<int>(values.size()), {&memory});
  B::upload(values, t);
  return t;
}

}  // namespace

TEST_CASE("sizes are few, and hardly larger than what is asked for") {
  int different = 0, last = 0;
  for (int n = 1; n <= 512; ++n) {
    const int size = Graphs::size_of(n);
    CHECK(size >= n);
    CHECK(8 * size <= 9 * n + 8);
    CHECK(size >= last);
    CHECK(Graphs::size_of(size) == size);
    different += size != last ? 1 : 0;
    last = size;
  }
  CHECK(last == 512);
  CHECK(different <= 56);
}

TEST_CASE("after the second time f is not called, and what it would have done is done to what is there then") {
  cuda::Memory memory;
  Graphs graphs;
  B::Tensor x = tensor({1, 2}, memory), y = tensor({0, 0}, memory);
  int calls = 0;
  const auto f = [&] {
    ++calls;
    B::Tensor twice;  // memory that is given back
    B::copy(x, twice);
    B::add(x, twice);
    B::add(twice, y);
  };
  const long replays = cuda_on_host::replays;
  for (int i = 0; i < 6; ++i) {
    B::upload(std::vector<float>{1, static_cast<float>(i)}, x);
    graphs.run(2, 1, memory, f);
  }
  CHECK(B::download(y) == std::vector<float>{12, 30});
  CHECK(calls <= 3);  // one more, where the first asked for memory
  CHECK(cuda_on_host::replays - replays >= 3);
}

TEST_CASE("each size by itself; after a larger one all are recorded anew, for tensors have moved") {
  cuda::Memory memory;
  Graphs graphs;
  B::Tensor y;
  int calls = 0;
  const auto run = [&](int size) {
    graphs.run(size, 1, memory, [&] {
      ++calls;
      y.resize(1, size, {&memory});
      B::fill(y, size);
    });
  };
  const auto is_right = [&](int size) {
    run(size);
    float first = 0;
    cuda::copy_to_host(std::as_const(y).data(), &first, sizeof first);
    return first == static_cast<float>(size);
  };
  for (int i = 0; i < 5; ++i) CHECK((is_right(3) && is_right(2)));
  const int before = calls;
  CHECK((is_right(3) && is_right(2)));
  CHECK(calls == before);
  CHECK(is_right(100000));
  for (int i = 0; i < 5; ++i) CHECK((is_right(3) && is_right(2) && is_right(100000)));
  CHECK(calls > before + 1);
}

TEST_CASE("how many times it does the same is another recording") {
  cuda::Memory memory;
  Graphs graphs;
  B::Tensor y = tensor({0}, memory);
  const B::Tensor one = tensor({1}, memory);
  int calls = 0;
  const auto run = [&](int times) {
    graphs.run(1, times, memory, [&] {
      ++calls;
      for (int i = 0; i < times; ++i) B::add(one, y);
    });
  };
  for (int i = 0; i < 4; ++i) run(1), run(2);
  CHECK(B::download(y) == std::vector<float>{12});
  const int before = calls;
  const long replays = cuda_on_host::replays;
  for (const int times : {2, 1, 1, 2}) run(times);
  CHECK(B::download(y) == std::vector<float>{18});
  CHECK(calls == before);
  CHECK(cuda_on_host::replays == replays + 4);
}

TEST_CASE("what cannot be recorded is launched every time") {
  cuda::Memory memory;
  B::Tensor y = tensor({0}, memory);
  const B::Tensor one = tensor({1}, memory);
  SUBCASE("because the host waits in it") {
    Graphs graphs;
    for (int i = 0; i < 5; ++i)
      graphs.run(1, 1, memory, [&] {
        B::add(one, y);
        cuda::synchronise("wait");
      });
  }
  SUBCASE("because it takes more memory every time") {
    Graphs graphs;
    std::vector<B::Tensor> kept;
    for (int i = 0; i < 5; ++i)
      graphs.run(1, 1, memory, [&] {
        B::add(one, y);
        kept.emplace_back(100, 100, cuda::Device{&memory});
      });
    CHECK(kept.size() == 5);
  }
  SUBCASE("because it uses memory that is not its own") {
    Graphs graphs;
    for (int i = 0; i < 5; ++i)
      graphs.run(1, 1, memory, [&] {
        const cuda::Scratch<float> elsewhere(1, {});
        B::add(one, y);
      });
  }
  SUBCASE("because the driver refuses") {
    Graphs graphs;
    cuda_on_host::refuses_graphs = true;
    for (int i = 0; i < 5; ++i) graphs.run(1, 1, memory, [&] { B::add(one, y); });
    cuda_on_host::refuses_graphs = false;
  }
  CHECK(B::download(y) == std::vector<float>{5});
}

TEST_CASE("an error of what is recorded is an error") {
  cuda::Memory memory;
  Graphs graphs;
  for (int i = 0; i < 4; ++i) CHECK_THROWS_WITH_AS(graphs.run(1, 1, memory, [] { fail("no"); }), "no", Error);
}
