// A data set of one's own in the hands of what trains, solves and judges.
#include <relay/task/recorded.hpp>

#include <span>
#include <string>

#include <doctest/doctest.h>

#include <relay/backend/cpu.hpp>
#include <relay/core/json.hpp>
#include <relay/model/causal_transformer.hpp>
#include <relay/model/looped_transformer.hpp>
#include <relay/pipeline/accuracy.hpp>
#include <relay/train/data.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/trainer.hpp>
#include <relay/train/unroll.hpp>

#include "../io/scratch.hpp"

using namespace relay;

namespace {

const TransformerConfig config{.width = 32, .layers = 2, .heads = 4, .rotary_base = 100, .query_key_bias = 1.5};

/// Three or four letters; each round takes the first two together: the one that comes first in the alphabet stays.
RecordedTask task(const Folder& folder) {
  std::string train, test;
  for (int i = 0; i < 108; ++i) {
    const int letters = i < 27 ? 3 : 4;
    std::string left;
    for (int k = 0, n = i; k < letters; ++k, n /= 3) left += "abc"[n % 3];
    const auto spaced = [](const std::string& text) {
      std::string out;
      for (const char c : text) (out += out.empty() ? "" : " ") += c;
      return out;
    };
    Json line = Json::object(), rounds = Json::array();
    line.set("problem", spaced(left));
    while (left.size() > 1) {
      left.erase(left[0] < left[1] ? 1 : 0, 1);
      rounds.push(spaced(left));
    }
    (i % 5 == 2 ? test : train) += line.set("rounds", std::move(rounds)).set("answer", left).dump() + "\n";
  }
  put_file(folder / "train.jsonl", train);
  put_file(folder / "test.jsonl", test);
  put_file(folder / "longer.jsonl", R"({"problem":"a b c a b","iterations":4})");
  return RecordedTask::load({.data = folder / "train.jsonl", .test = folder / "test.jsonl", .problems = folder / "longer.jsonl"});
}

const auto watch = [](const StepReport&) {};

}  // namespace

TEST_CASE("a looped model learns recorded rounds and is judged by them; its memory is what largest() says") {
  const Folder folder;
  const RecordedTask data = task(folder);
  LoopedTransformer<Cpu<float>> model(config, {.normalise = true}, data.vocabulary().size(), Seed{1});
  const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum}, data.placement());
  Threads threads(1);
  Trainer trainer(model, objective, {.rate = 6e-3}, {.steps = 150}, Seed{1}, threads, 1);
  trainer.reserve(data.largest(3), 16);
  const long reserved = trainer.allocations();
  trainer.fit(ExampleStream(data, {.shortest = 2, .longest = 3}, 16, Key(1), 1000), 150, watch);
  CHECK(trainer.allocations() == reserved);

  const auto test = data.test().all();
  const auto written = solve_looped(model, test, threads, data.placement());
  const Accuracy result = accuracy(written, test);
  CHECK(result.answer() > 0.8);
  long right = 0;
  for (const Solution& s : written) right += data.verify(s.example).right() ? 1 : 0;
  CHECK(right == result.chains);

  const auto problems = data.problems().all();
  const Example chain = solve(model, problems[0]);
  CHECK(chain.rounds.size() == 4);
  CHECK(!data.verify(chain).known);
  CHECK(!contains(chain_text(data, chain), "WRONG"));
  CHECK(contains(chain_text(data, chain), "not known"));
  CHECK(data.read(problems[0], data.text(data.train().all()[0])).rounds == data.train().all()[0].rounds);
  Example slip = data.train().all()[0];
  slip.rounds[0].push_back(slip.answer);
  CHECK(contains(chain_text(data, slip), "WRONG: expected "));
}

TEST_CASE("an auto-regressive model learns recorded chains") {
  const Folder folder;
  const RecordedTask data = task(folder);
  CausalTransformer<Cpu<float>> model(config, data.vocabulary().size(), Seed{1});
  const NextToken<CausalTransformer<Cpu<float>>, RecordedTask> objective(data);
  Threads threads(1);
  Trainer trainer(model, objective, {.rate = 6e-3}, {.steps = 200}, Seed{1}, threads, 1);
  trainer.reserve(data.largest(3), 16);
  const long reserved = trainer.allocations();
  trainer.fit(ExampleStream(data, {.shortest = 2, .longest = 3}, 16, Key(1), 1000), 200, watch);
  CHECK(trainer.allocations() == reserved);
  const auto test = data.test().all();
  const auto written = solve_causal(model, test, threads, data);
  CHECK(accuracy(written, test).answer() > 0.7);
  for (const Solution& s : written) CHECK(!s.cut);
}
