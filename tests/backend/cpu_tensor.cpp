// backend/cpu/tensor.hpp: tensors and the memory they come from.
#include <relay/backend/cpu/tensor.hpp>

#include <cstdint>

#include <doctest/doctest.h>

using namespace relay;
using cpu::Memory;
using Tensor = cpu::Tensor<float>;

TEST_CASE("what is given back is taken again") {
  Memory memory;
  const float* first;
  {
    Tensor a(3, 50, {&memory});
    first = a.data();
  }
  const long allocations = memory.allocations();
  for (int i = 0; i < 100; ++i) {
    Tensor again(50, 3, {&memory});
    CHECK(again.data() == first);
  }
  CHECK(memory.allocations() == allocations);
}

TEST_CASE("a tensor: aligned, deep copies, moves that leave nothing, shapes that change") {
  Tensor a(5, 7);
  CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % 64 == 0);
  for (long i = 0; i < a.size(); ++i) a.data()[i] = static_cast<float>(i);
  Tensor b = a;
  b.data()[3] = -1;
  CHECK(a.data()[3] == 3);
  CHECK(a.row(2) == a.data() + 14);
  const float* where = a.data();
  Tensor c = std::move(a);
  CHECK(c.data() == where);
  CHECK(a.size() == 0);
  CHECK(a.data() == nullptr);
  c.resize(2, 7);  // fewer rows: the first ones stay
  CHECK(c.data() == where);
  CHECK(c.row(1)[6] == 13);
  c.resize(100, 100);
  CHECK(c.size() == 10000);
  c = b;
  CHECK((c.rows() == 5 && c.data()[3] == -1 && c.data() != b.data()));
  Tensor& same = c;
  c = same;
  CHECK(c.data()[4] == 4);
  CHECK_THROWS_WITH_AS(Tensor(-1, 3), "a tensor cannot have -1 rows and 3 columns", Error);
  const Tensor none;
  CHECK((none.size() == 0 && Tensor(none).size() == 0));
}

TEST_CASE("a tensor made like another lives in its memory; one moved away takes its memory along") {
  Memory memory;
  const Tensor source(2, 3, {&memory});
  Tensor like;
  like.resize_like(source, 4, 4);
  CHECK(like.device().memory == &memory);
  Tensor other(3, 3);
  other = std::move(like);
  CHECK(other.device().memory == &memory);
  CHECK(other.rows() == 4);
  other.resize(1, 1, {});
  CHECK(other.device().memory == nullptr);
}
