#include <relay/core/spelling.hpp>

#include <doctest/doctest.h>

using relay::detail::edit_distance;

TEST_CASE("the distance of two words: letters changed, added and dropped") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("abc", "abc") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("abc", "") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("sitting", "kitten") == 3);
  CHECK(edit_distance("ab", "ba") == 2);
}
