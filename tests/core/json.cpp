#include <relay/core/json.hpp>

#include <cmath>
#include <limits>
#include <string>

#include <doctest/doctest.h>

using relay::Error;
using relay::Json;

namespace {

std::string error(auto&& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a value is built, kept in order and dumped compactly") {
  Json json = Json::object();
  json.set("name", "demo").set("steps", 4000).set("rate", 4e-3).set("resume", false).set("nothing", nullptr);
  json.set("lengths", Json::array(std::vector<int>{1, 2, 3})).set("empty", Json::object()).set("none", Json::array());
  json.set("steps", 5);  // a known key keeps its place
  CHECK(
      json.dump() ==
      R"({"name":"demo","steps":5,"rate":0.004,"resume":false,"nothing":null,"lengths":[1,2,3],"empty":{},"none":[]})");
  CHECK(Json().push(1).push("two").dump() == R"([1,"two"])");
  CHECK(Json().set("k", 1).dump() == R"({"k":1})");
  CHECK(json == Json(json));
  CHECK(json.as_object().size() == 8);
  CHECK(json.as_object()[1].key == "steps");
}

TEST_CASE("numbers are written as short as they can be and never as NaN") {
  CHECK(Json(3).dump() == "3");
  CHECK(Json(3.0).dump() == "3");
  CHECK(Json(-100000.0).dump() == "-100000");
  CHECK(Json(-0.0).dump() == "-0");
  CHECK(Json(0.1).dump() == "0.1");
  CHECK(Json(0.1f).dump() == "0.1");
  CHECK(Json(1e300).dump() == "1e+300");
  CHECK(Json(0x1p53).dump() == "9007199254740992");
  CHECK_THROWS_WITH_AS(Json(std::nan("")).dump(), "JSON cannot hold the number nan", Error);
  CHECK_THROWS_AS(Json(-std::numeric_limits<double>::infinity()).dump(), Error);
  CHECK_THROWS_AS(Json{std::numeric_limits<std::uint64_t>::max()}, Error);
  CHECK_THROWS_AS(Json{std::numeric_limits<std::int64_t>::min()}, Error);
}

TEST_CASE("strings are escaped and must be UTF-8") {
  CHECK(Json("a\"b\\c\n\t\r\x01\x7f/").dump() == "\"a\\\"b\\\\c\\n\\t\\r\\u0001\x7f/\"");
  CHECK(Json("\u00e9\u2264\U0001F600").dump() == "\"\u00e9\u2264\U0001F600\"");
  for (const char* bad : {"\x80", "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF"})
    CHECK_THROWS_AS(Json(bad).dump(), Error);
}

TEST_CASE("typed access says what was there instead") {
  const Json json =
      Json().set("rate", 0.5).set("steps", 10).set("name", "x").set("list", Json::array()).set("on", true);
  CHECK(json.at("rate").as_number() == 0.5);
  CHECK(json.at("steps").as_integer() == 10);
  CHECK(json.at("name").as_string() == "x");
  CHECK(json.at("list").as_array().empty());
  CHECK(json.at("on").as_bool());
  CHECK(json.find("steps") != nullptr);
  CHECK(json.find("step") == nullptr);
  CHECK(error([&] { json.at("step", "config.json"); }) == "config.json has no \"step\"");
  CHECK(error([&] { json.at("rate").as_integer("steps"); }) == "steps must be a whole number, but is 0.5");
  CHECK(error([&] { json.at("name").as_number(); }) == "the value must be a number, but is a string");
  CHECK(error([&] { json.at("name").at("x"); }) == "the object must be an object, but is a string");
  CHECK_THROWS_AS(Json(1e300).as_integer(), Error);
  CHECK_THROWS_AS(Json(1).as_bool(), Error);
  CHECK_THROWS_AS(Json(1).set("k", 1), Error);
  CHECK_THROWS_AS(Json::object().push(1), Error);
}
