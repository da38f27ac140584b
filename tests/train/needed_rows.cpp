#include <relay/train/needed_rows.hpp>

#include <doctest/doctest.h>

using namespace relay;
using List = std::vector<NeededRows::Index>;

TEST_CASE("needed: all rows of sequences that go on, and what is asked of those that end; questions count among these") {
  Questions chain, answer;
  NeededRows needed;
  for (int again = 0; again < 2; ++again) {  // used again, it has forgotten
    chain.start(3);
    answer.start(3);
    chain.ask(1, 1, 0, 1);  // of a sequence that goes on
    chain.ask(1, 19, 0, 1);
    chain.ask(1, 17, 0, 1);
    answer.ask(1, 19, 0, 1);  // asked twice
    chain.ask(2, 3, 0, 1);
    answer.ask(3, 4, 0, 1);
    needed.start(3);
    needed.need(1, 12, 20, chain, answer);
    needed.need(2, 12, 12, chain, answer);  // nobody is done
    needed.need(3, 0, 12, chain, answer);
    CHECK(needed.rows() == List{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 17, 19, 4});
    CHECK(needed.firsts() == std::vector<int>{0, 14, 14, 15});
    CHECK(needed.count(1) == 14);
    CHECK(needed.count(2) == 0);
    CHECK(needed.count(3) == 1);
    CHECK(chain.rows(1) == List{1, 13, 12});
    CHECK(answer.rows(1) == List{13});
    CHECK(chain.rows(2) == List{3});
    CHECK(answer.rows(3) == List{0});
  }
}

TEST_CASE("few rows to leave out are not worth it, and where nothing is asked nothing is left out") {
  Questions asked;
  NeededRows needed;
  asked.start(2);
  for (const int row : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15}) asked.ask(1, row, 0, 1);
  needed.start(2);
  needed.need(1, 0, 16, asked);
  CHECK(needed.count(1) == 0);
  CHECK(asked.rows(1).back() == 15);
  needed.need(2, 0, 16, asked);
  CHECK(needed.count(2) == 0);
  for (const int going_on : {7, 6}) {  // of seven
    asked.start(1);
    asked.ask(1, 6, 0, 1);
    needed.start(1);
    needed.need(1, going_on, 7, asked);
    CHECK(needed.count(1) == 0);
    CHECK(needed.rows().empty());
  }
  needed.need_all(3);
  CHECK(needed.rows() == List{0, 1, 2});
  CHECK(needed.count(2) == 3);
}
