// Why a model fails where it fails: which rounds and which of their tokens are wrong, where chains go wrong first, and whether the
// model's confidence tells. Of one model, task and length.
//
//   round t            right where it is the true round, whatever stands before it: how far iteration t agrees with round t
//   column i of round t    wrong where the i-th token from the right of the true round is another, or missing (of LIS: one minus the
//                      hit matrix). From the right, since problems of one length have rounds of several widths, and lie so in a row.
//   first wrong        the first round that is not the true one, of chains that have one
//   calibration        confidence of the chain (the least probability of its tokens) against how often the chain is right
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include <relay/core/json.hpp>
#include <relay/pipeline/solve.hpp>

namespace relay {

struct Diagnosis {
  struct Hits {
    long right = 0, count = 0;
  };
  struct Bin {
    double confidence = 0;  // added up
    long right = 0, count = 0;
  };
  static constexpr int bins = 10;  // of confidence, each a tenth of 0 .. 1

  long samples = 0;
  std::vector<Hits> rounds;                // [round]
  std::vector<std::vector<Hits>> columns;  // [round][column from the right]
  std::vector<long> first_wrong;           // [round]
  std::array<Bin, bins> calibration;

  void add(const Solution& written, const Example& truth) {
    ++samples;
    const Example& chain = written.example;
    const std::size_t count = truth.rounds.size();
    if (rounds.size() < count) rounds.resize(count), columns.resize(count), first_wrong.resize(count);
    bool right = true;
    for (std::size_t t = 0; t < count; ++t) {
      const Tokens& wanted = truth.rounds[t];
      static const Tokens none;
      const Tokens& got = t < chain.rounds.size() ? chain.rounds[t] : none;
      ++rounds[t].count;
      rounds[t].right += got == wanted ? 1 : 0;
      if (got != wanted && right) ++first_wrong[t], right = false;
      if (columns[t].size() < wanted.size()) columns[t].resize(wanted.size());
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        ++columns[t][i].count;
        columns[t][i].right += i < got.size() && got[got.size() - 1 - i] == wanted[wanted.size() - 1 - i] ? 1 : 0;
      }
    }
    right = right && chain.rounds.size() == count && chain.answer == truth.answer;
    const int bin = std::clamp(static_cast<int>(written.confidence * bins), 0, bins - 1);
    Bin& b = calibration[static_cast<std::size_t>(bin)];
    b.confidence += written.confidence;
    b.right += right ? 1 : 0;
    ++b.count;
  }

  /// Columns from left to right, the last the rightmost of every round:
  /// {"samples", "rounds": [[right, count]], "errors": [[[wrong, count]]], "first_wrong": [n], "calibration": [[confidence, right, count]]}
  void write(Json& entry) const {
    const auto list = [](auto... numbers) {
      Json out = Json::array();
      (out.push(Json(numbers)), ...);
      return out;
    };
    Json right = Json::array(), errors = Json::array(), first = Json::array(), bin = Json::array();
    for (const Hits& h : rounds) right.push(list(h.right, h.count));
    for (const auto& round : columns) {
      Json row = Json::array();
      for (std::size_t i = round.size(); i-- > 0;) row.push(list(round[i].count - round[i].right, round[i].count));
      errors.push(std::move(row));
    }
    for (const long n : first_wrong) first.push(Json(n));
    for (const Bin& b : calibration) bin.push(list(b.confidence, b.right, b.count));
    entry.set("samples", samples).set("rounds", std::move(right)).set("errors", std::move(errors));
    entry.set("first_wrong", std::move(first)).set("calibration", std::move(bin));
  }
};

/// A chain for people to read: {"model", "task", "length", "problem", "rounds": [{"text", "right", "why"}], "answer", "answer_right", "truth"}.
inline Json gallery_chain(const Mixture& mixture, std::string_view model, const Example& written, const Example& truth) {
  const int task = truth.task;
  const Verdict verdict = mixture.verify(written);
  Json rounds = Json::array();
  for (std::size_t t = 0; t < written.rounds.size() && t < verdict.steps.size(); ++t)
    rounds.push(Json::object()
                    .set("text", mixture.print(task, written.rounds[t]))
                    .set("right", verdict.steps[t].right)
                    .set("why", verdict.steps[t].why));
  return Json::object()
      .set("model", model)
      .set("task", mixture.task(task).name)
      .set("length", truth.length)
      .set("problem", mixture.print(task, truth.problem))
      .set("rounds", std::move(rounds))
      .set("answer", mixture.print(task, {written.answer}))
      .set("answer_right", written.answer == truth.answer)
      .set("truth", mixture.print(task, {truth.answer}));
}

}  // namespace relay
