#include <relay/pipeline/claims.hpp>
#include <relay/pipeline/settings.hpp>

#include <doctest/doctest.h>

#include <relay/core/json_parser.hpp>

using namespace relay;

namespace {

/// Accuracies in and past the range by model; of lengths 1 .. 4, trained on 1 .. 2.
struct Accuracies {
  const char* model;
  double in, past;
  double tokens = 0.95;  // of the longest
};

PipelineConfig config_of(const char* tasks) {
  PipelineConfig config;
  set(config, "tasks", tasks);
  for (const char* setting : {"arithmetic.longest=2", "arithmetic.test_longest=4", "edit_distance.longest=2", "edit_distance.test_longest=4",
                              "longest_increasing_subsequence.shortest=1", "longest_increasing_subsequence.longest=2",
                              "longest_increasing_subsequence.test_longest=4"})
    set(config, setting);
  return config;
}

std::vector<ResultRow> rows_of(std::string_view task, const std::vector<Accuracies>& models) {
  std::vector<ResultRow> rows;
  for (const Accuracies& m : models)
    for (int length = 1; length <= 4; ++length) {
      ResultRow row;
      row.model = m.model;
      row.task = task;
      row.length = length;
      row.samples = 10;
      const double off = length % 2 == 0 ? 0.01 : -0.01;  // the mean is what counts
      row.answer = (length <= 2 ? m.in : m.past) + off;
      row.token = length == 4 ? m.tokens : 0;
      rows.push_back(row);
    }
  return rows;
}

/// The entries of diagnostics.json for LIS of two rounds of two values: how many of 100 are wrong in each column.
Json entry(const char* model, int length, std::vector<std::vector<int>> wrong) {
  Json errors = Json::array();
  for (const auto& round : wrong) {
    Json list = Json::array();
    for (const int w : round) list.push(Json::array(std::vector<int>{w, 100}));
    errors.push(list);
  }
  return Json::object().set("model", model).set("task", "longest_increasing_subsequence").set("length", length).set("errors", errors);
}
Json entries(std::vector<Json> list) {
  Json out = Json::array();
  for (Json& e : list) out.push(std::move(e));
  return out;
}

/// Whether each claim of that number holds: '+', '-', or '?' where it cannot be judged, in the order of the claims.
std::string verdict(int number, const std::vector<ClaimVerdict>& claims) {
  std::string out;
  for (const ClaimVerdict& c : claims)
    if (c.number == number) out += !c.holds ? '?' : *c.holds ? '+' : '-';
  return out;
}
std::string arithmetic(int number, const std::vector<Accuracies>& models) {
  return verdict(number, judge_claims(config_of("arithmetic"), rows_of("arithmetic", models), Json::array()));
}

}  // namespace

TEST_CASE("1: in range, every model at least 0.95") {
  CHECK(arithmetic(1, {{"looped_aligned", 0.96, 0}, {"looped_vanilla", 1, 0}, {"ar", 0.951, 0}, {"ar_relay", 0.99, 0}}) == "+");
  for (const char* low : {"looped_aligned", "looped_vanilla", "ar", "ar_relay"}) {
    std::vector<Accuracies> models = {{"looped_aligned", 0.96, 0}, {"looped_vanilla", 1, 0}, {"ar", 0.951, 0}, {"ar_relay", 0.99, 0}};
    for (Accuracies& m : models)
      if (std::string_view(m.model) == low) m.in = 0.94;
    CHECK(arithmetic(1, models) == "-");
  }
  CHECK(arithmetic(1, {{"looped_aligned", 0.96, 0}, {"ar_self_loop", 0.1, 0}}) == "-");  // every model of the run
  CHECK(arithmetic(1, {}) == "");
}

TEST_CASE("2: past the range, aligned at least vanilla, and that far above AR") {
  const auto claim = [](double aligned, double vanilla, double ar) {
    return arithmetic(2, {{"looped_aligned", 1, aligned}, {"looped_vanilla", 1, vanilla}, {"ar", 1, ar}});
  };
  CHECK(claim(0.9, 0.8, 0.2) == "+");
  CHECK(claim(0.79, 0.8, 0.2) == "+");
  CHECK(claim(0.77, 0.8, 0.2) == "-");
  CHECK(claim(0.9, 0.8, 0.75) == "-");
  CHECK(arithmetic(2, {{"looped_aligned", 1, 1}, {"ar", 1, 0}}) == "");  // a model is missing
}

TEST_CASE("3: AR tuned on RELAY chains about as good as aligned looped, far above AR") {
  const auto claim = [](double relay, double aligned, double ar) {
    return arithmetic(3, {{"looped_aligned", 1, aligned}, {"ar", 1, ar}, {"ar_relay", 1, relay}});
  };
  CHECK(claim(0.85, 0.9, 0.3) == "+");
  CHECK(claim(0.95, 0.9, 0.3) == "+");
  CHECK(claim(0.79, 0.9, 0.3) == "-");
  CHECK(claim(0.85, 0.9, 0.7) == "-");
  CHECK(arithmetic(3, {{"looped_aligned", 1, 1}, {"ar", 1, 0}}) == "");
}

TEST_CASE("4: AR tuned on its own chains only a little above AR; each baseline a claim") {
  const auto claim = [](double loop, double truth) {
    return arithmetic(4, {{"ar", 1, 0.2}, {"ar_relay", 1, 0.8}, {"ar_self_loop", 1, loop}, {"ar_self_truth", 1, truth}});
  };
  CHECK(claim(0.3, 0.45) == "++");
  CHECK(claim(0.16, 0.52) == "+-");
  CHECK(claim(0.1, 0.2) == "-+");
  CHECK(arithmetic(4, {{"ar", 1, 0.2}, {"ar_relay", 1, 0.2}, {"ar_self_loop", 1, 0.21}}) == "?");  // no gain that could be little
  CHECK(arithmetic(4, {{"ar", 1, 0.2}, {"ar_relay", 1, 0.8}}) == "");  // a run without the baselines
}

TEST_CASE("5: at the longest length more than 90 % of the tokens") {
  CHECK(arithmetic(5, {{"looped_aligned", 1, 1, 0.91}, {"ar_relay", 1, 1, 0.95}}) == "+");
  CHECK(arithmetic(5, {{"looped_aligned", 1, 1, 0.91}, {"ar_relay", 1, 1, 0.9}}) == "-");
  CHECK(arithmetic(5, {{"looped_aligned", 1, 1, 0.89}, {"ar_relay", 1, 1, 0.95}}) == "-");
  CHECK(arithmetic(5, {{"looped_aligned", 1, 1, 0.89}}) == "");
}

TEST_CASE("6: the hit matrix of LIS, of the length after the range and of five more or the last") {
  const PipelineConfig config = config_of("longest_increasing_subsequence");
  const auto claim = [&](std::vector<Json> list) { return verdict(6, judge_claims(config, {}, entries(std::move(list)))); };
  const auto good = [](int length) { return entry("looped_aligned", length, {{0, 1}, {5, 0}}); };
  const auto falls = [](int length) { return entry("ar", length, {{0, 2}, {1, 10}}); };
  CHECK(claim({good(3), falls(3), good(4), falls(4)}) == "+");
  CHECK(claim({good(3), falls(3)}) == "+");
  CHECK(claim({good(3), falls(3), entry("looped_aligned", 4, {{0, 1}, {6, 0}}), falls(4)}) == "-");
  CHECK(claim({good(3), falls(3), good(4), entry("ar", 4, {{5, 2}, {1, 10}})}) == "-");  // no worse in the last round by 0.05
  CHECK(claim({good(3), good(4), falls(4)}) == "+");
  CHECK(claim({good(3), falls(3), entry("ar_self_loop", 3, {{0, 2}, {1, 10}})}) == "+");
  CHECK(claim({good(3), falls(3), entry("ar_self_truth", 3, {{0, 2}, {1, 2}})}) == "-");  // every model's own chains
  CHECK(claim({good(3), good(4)}) == "");
  CHECK(claim({good(2), falls(2), good(5), falls(5)}) == "");  // of other lengths
  Json never = entry("looped_aligned", 3, {{0, 0}});
  never.set("errors", parse_json("[[[0,0],[0,100]],[[0,100]]]", ""));  // a column that no problem has
  CHECK(claim({never, falls(3)}) == "+");
  PipelineConfig short_one = config;
  set(short_one, "lengths.test_longest=2");
  CHECK(verdict(6, judge_claims(short_one, {}, entries({good(3), falls(3)}))) == "");
}

TEST_CASE("each task has claims of its own, with its numbers, and as JSON") {
  auto rows = rows_of("arithmetic", {{"looped_aligned", 1, 0.9}, {"looped_vanilla", 1, 0.8}, {"ar", 1, 0.2}, {"ar_relay", 1, 0.9}});
  for (const ResultRow& row : rows_of("edit_distance", {{"looped_aligned", 0.5, 0.9}, {"looped_vanilla", 1, 0.8}, {"ar", 1, 0.79}})) rows.push_back(row);
  const auto claims = judge_claims(config_of("arithmetic,edit_distance"), rows, Json::array());
  std::string all;
  for (const ClaimVerdict& c : claims) all += message(c.task[0], c.number, !c.holds ? "? " : *c.holds ? "+ " : "- ");
  CHECK(all == "a1+ a2+ a3+ a5+ e1- e2- ");
  const Json json = to_json(claims);
  REQUIRE(json.as_array().size() == claims.size());
  const Json& second = json.as_array()[1];
  CHECK(second.at("claim") == Json(2));
  CHECK(second.at("task") == Json("arithmetic"));
  CHECK(second.at("holds") == Json(true));
  CHECK(second.at("detail") == Json("looped_aligned 0.900, looped_vanilla 0.800, ar 0.200"));
  CHECK(second.at("text").as_string().starts_with("Past the range: aligned looped"));
  CHECK(judge_claims(config_of("longest_increasing_subsequence"), rows, Json::array()).empty());
}
