#include <relay/pipeline/evaluate.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

const std::vector<ResultRow> rows = {
    {"ar", "arithmetic", 1, {.samples = 4, .answers = 3, .chains = 2, .tokens = 1, .token_count = 8}},
    {"ar", "arithmetic", 2, {.samples = 4, .answers = 4, .chains = 4, .tokens = 8, .token_count = 8}},
    {"ar", "arithmetic", 3, {.samples = 4}},
    {"looped_vanilla", "arithmetic", 2, {.samples = 8, .answers = 1}},
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

TEST_CASE("the table") {
  CHECK(results_table(rows, 2) ==
        "length               1     2 |     3\n"
        "ar               0.750 1.000 | 0.000\n"
        "looped_vanilla         0.125 |      \n");
  CHECK(results_table({rows[0]}, 4) ==
        "length               1\n"
        "ar               0.750\n");
  CHECK(results_table({}, 4) == "length          \n");
}
