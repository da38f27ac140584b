#include <relay/pipeline/diagnosis.hpp>

#include <doctest/doctest.h>

#include <relay/core/json_parser.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/task/edit_distance.hpp>

using namespace relay;

namespace {

const Arithmetic task{.modulus = 5};

Tokens tokens(const char* text) {
  Tokens out;
  for (const char c : std::string_view(text)) out.push_back(task.vocabulary().token(std::string(1, c)));
  return out;
}

/// (1+2)*3-4= with the rounds and the answer as written.
Solution written(std::vector<const char*> rounds, const char* answer, double confidence) {
  Solution s;
  s.example = task.solve(task.parse("(1+2)*3-4").problem);
  s.example.rounds.clear();
  for (const char* round : rounds) s.example.rounds.push_back(tokens(round));
  s.example.answer = tokens(answer).front();
  s.confidence = confidence;
  return s;
}

Json diagnosed(const std::vector<Solution>& solutions) {
  const Example truth = task.solve(task.parse("(1+2)*3-4").problem);
  CHECK(truth.rounds == std::vector<Tokens>{tokens("3*3-4="), tokens("4-4="), tokens("0")});
  Diagnosis d;
  for (const Solution& s : solutions) d.add(s, truth);
  Json entry = Json::object();
  d.write(entry);
  return entry;
}

}  // namespace

TEST_CASE("rounds and columns that are wrong, the first wrong round, and confidence against success") {
  const Json entry = diagnosed({
      written({"3*3-4=", "4-4=", "0"}, "0", 0.95),   // right
      written({"3*3-4=", "4-3=", "1"}, "1", 0.91),   // wrong from round 2 on
      written({"3*3-4=", "4-3=", "0"}, "0", 0.35),   // a slip, and right again
      written({"3*2-4=", "-4=", "0"}, "0", 0),       // round 2 is too short
      written({"3*3-4="}, "0", 1),                   // ends early
      written({"3*3-4=", "4-4=", "0", "0"}, "0", 0.3),  // goes on after the end
      written({"3*3-4=", "4-4=", "0"}, "1", 0.31),   // the answer alone is wrong
  });
  CHECK(entry.at("samples") == Json(7));
  CHECK(entry.at("rounds").dump() == "[[6,7],[3,7],[5,7]]");
  // Of round 2: "4" misses once where "-4=" stands, and all of it where the round does.
  CHECK(entry.at("errors").dump() == "[[[0,7],[0,7],[1,7],[0,7],[0,7],[0,7]],[[2,7],[1,7],[3,7],[1,7]],[[2,7]]]");
  CHECK(entry.at("first_wrong").dump() == "[1,3,0]");
  const auto& bins = entry.at("calibration").as_array();
  REQUIRE(bins.size() == 10);
  CHECK(bins[0].dump() == "[0,0,1]");
  CHECK(bins[1].dump() == "[0,0,0]");
  CHECK(bins[3].as_array()[0].as_number() == doctest::Approx(0.35 + 0.3 + 0.31));
  CHECK(bins[3].as_array()[1] == Json(0));
  CHECK(bins[3].as_array()[2] == Json(3));
  CHECK(bins[9].as_array()[0].as_number() == doctest::Approx(0.95 + 0.91 + 1));
  CHECK(bins[9].as_array()[1] == Json(1));
  CHECK(bins[9].as_array()[2] == Json(3));
}

TEST_CASE("rounds of several widths lie flush right on each other") {
  Diagnosis d;
  Example wide = written({"(1+2)*3="}, "0", 1).example, narrow = written({"1+2*3="}, "0", 1).example;
  Solution right{.example = wide};
  d.add(right, wide);
  Solution wrong{.example = narrow};
  wrong.example.rounds[0].back() = wrong.example.rounds[0].front();  // the rightmost token
  d.add(wrong, narrow);
  Json entry = Json::object();
  d.write(entry);
  CHECK(entry.at("errors").dump() == "[[[0,1],[0,1],[0,2],[0,2],[0,2],[0,2],[0,2],[1,2]]]");
}

TEST_CASE("nothing diagnosed, and chains of different lengths") {
  Json entry = Json::object().set("model", "ar");
  Diagnosis().write(entry);
  CHECK(entry.dump() ==
        R"({"model":"ar","samples":0,"rounds":[],"errors":[],"first_wrong":[],)"
        R"("calibration":[[0,0,0],[0,0,0],[0,0,0],[0,0,0],[0,0,0],[0,0,0],[0,0,0],[0,0,0],[0,0,0],[0,0,0]]})");
  Diagnosis d;
  for (const char* typed : {"1+2+3", "1+2", "4*4-1*(2+1)"}) {
    const Example truth = task.solve(task.parse(typed).problem);
    d.add({.example = truth}, truth);
  }
  Json all = Json::object();
  d.write(all);
  CHECK(all.at("rounds").dump() == "[[3,3],[2,2],[1,1],[1,1]]");
  CHECK(all.at("first_wrong").dump() == "[0,0,0,0]");
}

TEST_CASE("a chain for people, each round judged against the one before it as written") {
  const Mixture mixture({EditDistance{.letters = 3, .longest = 4}, task});
  const Example truth = mixture.solve(mixture.parse(1, "(1+2)*3-4"));
  Example chain = truth;
  chain.rounds[1] = mixture.joint(1, written({"4-3="}, "0", 1).example).rounds[0];
  const Json json = gallery_chain(mixture, "ar_relay", chain, truth);
  CHECK(json.dump() ==
        R"json({"model":"ar_relay","task":"arithmetic","length":3,"problem":"(1+2)*3-4=","rounds":[{"text":"3*3-4=","right":true,"why":""},)json"
        R"json({"text":"4-3=","right":false,"why":"expected 4-4="},{"text":"0","right":false,"why":"expected 1"}],)json"
        R"json("answer":"0","answer_right":true,"truth":"0"})json");
  chain.rounds[1][0] = mixture.vocabulary().token("a");  // of another task
  chain.answer = Vocabulary::pad;
  const Json foreign = gallery_chain(mixture, "ar_relay", chain, truth);
  CHECK(foreign.at("rounds").as_array()[1].at("text").as_string() == "a - 3 =");
  CHECK(foreign.at("answer").as_string() == "<pad>");
  CHECK(foreign.at("answer_right") == Json(false));
}
