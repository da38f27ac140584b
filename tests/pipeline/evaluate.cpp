#include <relay/pipeline/evaluate.hpp>

#include <doctest/doctest.h>

#include <relay/core/json_parser.hpp>

using namespace relay;

namespace {

const std::vector<ResultRow> rows = {
    {"ar", "arithmetic", 1, {.samples = 4, .answers = 3, .chains = 2, .tokens = 1, .token_count = 8}},
    {"ar", "arithmetic", 2, {.samples = 4, .answers = 4, .chains = 4, .tokens = 8, .token_count = 8}},
    {"ar", "arithmetic", 3, {.samples = 4}},
    {"looped_vanilla", "arithmetic", 2, {.samples = 8, .answers = 1}},
    {"ar", "edit_distance", 2, {.samples = 4, .answers = 1}},
    {"ar", "edit_distance", 5, {.samples = 4, .answers = 2}},
};

}  // namespace

TEST_CASE("results.json") {
  CHECK(
      results_json(Json::object().set("seed", 1), {rows[0], rows[3]}).dump() ==
      R"({"config":{"seed":1},"rows":[{"model":"ar","task":"arithmetic","length":1,"samples":4,"answer_accuracy":0.75,)"
      R"("chain_accuracy":0.5,"token_accuracy":0.125},{"model":"looped_vanilla","task":"arithmetic","length":2,"samples":8,)"
      R"("answer_accuracy":0.125,"chain_accuracy":0,"token_accuracy":0}]})");
  CHECK(results_json(Json::object(), {}).dump() == R"({"config":{},"rows":[]})");
}

TEST_CASE("a row comes back from JSON") {
  for (const ResultRow& row : rows) {
    const ResultRow back = result_row(parse_json(to_json(row).dump(), "f"), "f");
    CHECK(back.model == row.model);
    CHECK(back.task == row.task);
    CHECK(back.length == row.length);
    CHECK(back.samples == row.samples);
    CHECK((back.answer == row.answer && back.chain == row.chain && back.token == row.token));
  }
  Json damaged = to_json(rows[0]);
  damaged.set("answer_accuracy", "much");
  CHECK_THROWS_WITH_AS(result_row(damaged, "f"), doctest::Contains("f"), Error);
  CHECK_THROWS_WITH_AS(result_row(Json::object().set("model", "ar"), "f"), doctest::Contains("\"task\""), Error);
}

TEST_CASE("the table: of one task") {
  CHECK(results_table(rows, "arithmetic", 2) ==
        "length               1     2 |     3\n"
        "ar               0.750 1.000 | 0.000\n"
        "looped_vanilla         0.125 |      \n");
  CHECK(results_table(rows, "edit_distance", 2) ==
        "length               2 |     5\n"
        "ar               0.250 | 0.500\n");
  CHECK(results_table({rows[0]}, "arithmetic", 4) ==
        "length               1\n"
        "ar               0.750\n");
  CHECK(results_table({}, "arithmetic", 4) == "length          \n");
  CHECK(results_table(rows, "sorting", 4) == "length          \n");
}
