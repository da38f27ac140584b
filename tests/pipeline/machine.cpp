#include <relay/pipeline/machine.hpp>

#include <doctest/doctest.h>

using namespace relay;

TEST_CASE("this machine, and the day") {
  const Json machine = this_machine();
  CHECK(!machine.at("cpu").as_string().empty());
  CHECK(machine.at("cores").as_integer() >= 1);
  CHECK(!machine.at("compiler").as_string().empty());
  const std::string& date = machine.at("date").as_string();
  REQUIRE(date.size() == 10);
  CHECK((date.starts_with("20") && date[4] == '-' && date[7] == '-'));
  CHECK(machine.at("seconds").as_object().empty());
}

TEST_CASE("seconds add up by stage, over all the times a run is gone on with") {
  const auto seconds = [](const std::string& file) { return parse_json(read_file(file), file).at("seconds"); };
  add_seconds("machine.json", "ar", 1.5, 1);
  add_seconds("machine.json", "chains", 2, 1);
  CHECK(parse_json(read_file("machine.json"), "").find("gpu") == nullptr);
  add_seconds("machine.json", "ar", 0.25, 2, "a GPU");
  CHECK(parse_json(read_file("machine.json"), "").at("gpu") == Json("a GPU"));
  CHECK(seconds("machine.json").dump() == R"({"ar":1.75,"chains":2})");
  CHECK(parse_json(read_file("machine.json"), "").at("cpu") == this_machine().at("cpu"));

  Json elsewhere = parse_json(read_file("machine.json"), "");
  elsewhere.set("cpu", "another");  // begun on another machine: it stays as it was begun
  write_file_atomically("machine.json", elsewhere.dump());
  add_seconds("machine.json", "ar", 1, 1);
  CHECK(parse_json(read_file("machine.json"), "").at("cpu").as_string() == "another");
  CHECK(seconds("machine.json").at("ar").as_number() == 2.75);
}

TEST_CASE("a damaged file begins anew") {
  for (const char* text : {"", "{", "[]", "{\"cpu\":\"x\"}", "{\"seconds\":3}", "{\"seconds\":{\"ar\":\"long\"}}"}) {
    CAPTURE(text);
    write_file_atomically("damaged.json", text);
    CHECK_NOTHROW(add_seconds("damaged.json", "ar", 1.5, 1));
    const Json json = parse_json(read_file("damaged.json"), "");
    CHECK(json.at("seconds").at("ar") == Json(1.5));
    if (std::string_view(text).size() < 20) CHECK(json.at("cpu") == this_machine().at("cpu"));
  }
}
