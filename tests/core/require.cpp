#include <relay/core/require.hpp>

#include <stdexcept>
#include <string>
#include <type_traits>

#include <doctest/doctest.h>

using namespace relay;

TEST_CASE("a message is its parts one after another") {
  CHECK(message("a", 'b', 3, -4L, 5u, 0.5, std::string("c"), std::string_view("d")) == "ab3-450.5cd");
  CHECK(message().empty());
}

TEST_CASE("require throws the sentence, and only when it has to") {
  CHECK_NOTHROW(require(true, "never read"));
  CHECK_THROWS_WITH_AS(require(false, "width is ", 0, ": give 1 or more"), "width is 0: give 1 or more", Error);
  CHECK_THROWS_WITH_AS(fail("no ", "way"), "no way", Error);
  CHECK(std::is_base_of_v<std::runtime_error, Error>);
}
