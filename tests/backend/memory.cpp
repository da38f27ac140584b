// backend/memory.hpp: size classes, what is taken again, what makes do with a larger block, and what is counted.
#include <relay/backend/memory.hpp>

#include <set>
#include <vector>

#include <relay/core/random.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

/// Addresses, one after another, of memory that nobody has; it is known which are out.
struct Numbered {
  static inline std::size_t next = 64;
  static inline std::set<void*> out;
  static void* take(std::size_t) { return *out.insert(reinterpret_cast<void*>(next += 64)).first; }
  static void give_back(void* block) noexcept { CHECK(out.erase(block) == 1); }
};
using Pool = BlockPool<Numbered>;

}  // namespace

TEST_CASE("size classes: four to an octave, so at most a quarter is unused") {
  CHECK(Pool::size_class(1) == 256);
  CHECK(Pool::size_class(256) == 256);
  CHECK(Pool::size_class(257) == 320);
  CHECK(Pool::size_class(320) == 320);
  CHECK(Pool::size_class(512) == 512);
  CHECK(Pool::size_class(513) == 640);
  for (std::size_t bytes = 257; bytes < 100000; bytes += 37) {
    const std::size_t size = Pool::size_class(bytes);
    CHECK(size >= bytes);
    CHECK(size <= bytes + bytes / 4);
    CHECK(Pool::size_class(size) == size);
  }
}

TEST_CASE("a block comes back for its own class, never for a larger one") {
  Pool pool;
  for (std::size_t bytes = 256; bytes < 4096; bytes = Pool::size_class(bytes + 1)) {
    const auto block = pool.take(bytes);
    CHECK(block.bytes == bytes);
    pool.give_back(block);
    const auto again = pool.take(bytes - 1);
    CHECK(again.data == block.data);
    const auto next = pool.take(bytes + 1);
    CHECK(next.data != block.data);
    pool.give_back(again);
    pool.give_back(next);
  }
}

TEST_CASE("below the peak a request makes do with the smallest larger block; what grows beyond it gets one that fits") {
  Pool pool;
  const auto a = pool.take(4096), b = pool.take(1024), c = pool.take(8192);
  CHECK(pool.allocations() == 3);
  CHECK(pool.used() == 4096 + 1024 + 8192);
  for (const auto& block : {a, b, c}) pool.give_back(block);
  CHECK(pool.used() == 0);

  const auto small = pool.take(300), middle = pool.take(1025), other = pool.take(600);
  CHECK(small.data == b.data);
  CHECK(middle.data == a.data);
  CHECK(other.data == c.data);
  CHECK(other.bytes == 8192);
  CHECK(pool.used() == 320 + 1280 + 640);  // what is wanted, not what is taken up
  const auto none = pool.take(256);        // nothing is left
  CHECK(pool.allocations() == 4);
  for (const auto& block : {small, middle, other, none}) pool.give_back(block);
  CHECK(pool.used() == 0);

  // More than at any time before: the rest of the largest block would be lost as long as this one is out.
  const auto x = pool.take(8192), y = pool.take(4096), z = pool.take(1024);
  CHECK(pool.allocations() == 4);
  pool.give_back(x);
  const auto fits = pool.take(640), more = pool.take(8192);
  CHECK(fits.data == x.data);
  CHECK(pool.allocations() == 5);
  const auto beyond = pool.take(2048);
  CHECK(beyond.bytes == 2048);
  CHECK(pool.allocations() == 6);
  CHECK(pool.bytes() == 4096 + 1024 + 8192 + 256 + 8192 + 2048);
  for (const auto& block : {y, z, fits, more, beyond}) pool.give_back(block);
}

TEST_CASE("what has run once has planned for all that needs less, in any order of giving back") {
  Pool pool;
  const auto run = [&](double scale) {  // ten sizes in turn, every third time the oldest goes back
    std::vector<Pool::Block> blocks;
    std::size_t back = 0;
    for (int i = 0; i < 40; ++i) {
      blocks.push_back(pool.take(static_cast<std::size_t>(scale * 1000 * (1 + i % 10)) + 1));
      if (i % 3 == 2) pool.give_back(blocks[back++]);
    }
    while (back < blocks.size()) pool.give_back(blocks[back++]);
  };
  run(1);
  const long allocations = pool.allocations();
  Random random(Key(1));
  for (int i = 0; i < 100; ++i) run(random.uniform());
  CHECK(pool.allocations() == allocations);
}

TEST_CASE("a buffer grows, keeps what suffices, moves, and gives everything back") {
  {
    Pool pool, other;
    Buffer<Numbered> a(&pool), alone;
    a.grow(1000);
    const void* where = a.data();
    a.grow(10);
    a.grow(1024);
    CHECK(a.data() == where);
    a.grow(1025);
    CHECK(a.data() != where);
    CHECK(pool.used() == 1280);
    Buffer<Numbered> b = std::move(a);
    CHECK(a.data() == nullptr);
    CHECK(b.pool() == &pool);
    CHECK(pool.used() == 1280);
    b.move_to(&other);
    CHECK(b.data() == nullptr);
    CHECK(pool.used() == 0);
    b.grow(1);
    CHECK(other.used() == 256);
    CHECK(other.bytes() == 256);
    alone.grow(100);
    alone.grow(1000);
    CHECK(alone.pool() == nullptr);
    a = std::move(b);
    a.swap(alone);
    CHECK(alone.pool() == &other);
  }
  CHECK(Numbered::out.empty());
}

TEST_CASE("a buffer with somebody else's memory gives back its own before, and that never") {
  std::size_t room = 0;
  void* const at = &room;
  {
    Pool pool;
    for (Pool* from : {&pool, static_cast<Pool*>(nullptr)}) {
      Buffer<Numbered> a(from);
      const std::size_t before = Numbered::out.size();
      a.grow(1000);
      CHECK_FALSE(a.is_borrowed());
      a.return_borrowed();  // it is its own
      CHECK(a.data() != nullptr);
      a.borrow(at, 300);
      CHECK((a.is_borrowed() && a.data() == at));
      CHECK(pool.used() == 0);
      a.grow(300);
      CHECK(a.data() == at);
      Buffer<Numbered> b = std::move(a);
      CHECK((b.is_borrowed() && b.data() == at && !a.is_borrowed() && a.data() == nullptr));
      b.return_borrowed();
      CHECK((!b.is_borrowed() && b.data() == nullptr && b.pool() == from));
      b.borrow(at, 300);
      b.grow(301);  // from where its own comes from
      CHECK((!b.is_borrowed() && b.data() != at));
      b.borrow(at, 300);
      b.move_to(from);
      CHECK((!b.is_borrowed() && b.data() == nullptr));
      b.borrow(at, 0);
      b.return_borrowed();
      CHECK_FALSE(b.is_borrowed());
      b.borrow(at, 300);
      CHECK(pool.used() == 0);
      CHECK(Numbered::out.size() <= before + 2);
    }
  }
  CHECK(Numbered::out.empty());
}
