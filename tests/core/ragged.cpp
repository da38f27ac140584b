#include <relay/core/ragged.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

struct Host {
  struct Device {
    int number = 0;
  };
  using Indices = std::vector<int>;
  static void indices_to(const std::vector<int>& from, Device, Indices& to) { to = from; }
};

}  // namespace

TEST_CASE("offsets of a ragged batch, on the host and on the device") {
  const std::vector<int> lengths{4, 3, 2};
  const Ragged<Host> batch(lengths, {7});
  CHECK(batch.sequences() == 3);
  CHECK(batch.rows() == 9);
  CHECK(batch.longest() == 4);
  CHECK((batch.begin(1) == 4 && batch.end(1) == 7 && batch.end(2) == 9));
  CHECK(batch.on_device() == std::vector<int>{0, 4, 7, 9});
  CHECK(batch.device().number == 7);
}

TEST_CASE("no sequences, and a sequence without a token") {
  const Ragged<Host> none;
  CHECK((none.sequences() == 0 && none.rows() == 0 && none.longest() == 0));
  CHECK(Rows<Host>(none).count() == 0);
  const std::vector<int> empty{2, 0}, negative{-1};
  CHECK_THROWS_WITH_AS(Ragged<Host>{empty}, "a sequence of a batch has 0 rows: every sequence needs at least one token",
                       Error);
  CHECK_THROWS_AS(Ragged<Host>{negative}, Error);
}

TEST_CASE("another batch in the same place") {
  const std::vector<int> many{4, 3, 2, 9}, few{1, 2}, huge{2147483647, 1};
  Ragged<Host> batch(many, {7});
  const int* where = batch.offsets().data();
  batch.assign(few);
  CHECK((batch.sequences() == 2 && batch.rows() == 3 && batch.longest() == 2 && batch.device().number == 7));
  CHECK(batch.on_device() == std::vector<int>{0, 1, 3});
  CHECK(batch.offsets().data() == where);
  CHECK_THROWS_WITH_AS(batch.assign(huge), "a batch of 2 sequences has more than 2147483647 rows: make it smaller", Error);
}

TEST_CASE("rows: a prefix, and a stream of random numbers") {
  const std::vector<int> lengths{4, 3, 2};
  const Ragged<Host> batch(lengths);
  const Rows<Host> quiet(batch), rows(batch, Key(5));
  CHECK(rows.count() == 9);
  const auto two = rows.first(2);
  CHECK((two.sequences() == 2 && two.count() == 7 && two.begin(1) == 4 && two.end(1) == 7));
  CHECK(two.first(1).count() == 4);
  CHECK(rows.first(0).count() == 0);
  CHECK(&two.batch() == &batch);

  CHECK_FALSE(quiet.dropout());
  CHECK_FALSE(quiet.fold(3).dropout());
  CHECK(rows.dropout() == Key(5));
  CHECK(two.fold(3).dropout() == Key(5).fold(3));
  CHECK(rows.dropout() == Key(5));  // a fold is another value
}
