// metrics.jsonl: one line per report of a training, with the loss of value and structure tokens apart.
//
// A training that resumes from a checkpoint first drops the lines written after it, so every step stands there once.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include <relay/core/file.hpp>
#include <relay/core/json.hpp>
#include <relay/core/json_parser.hpp>
#include <relay/train/trainer.hpp>

namespace relay {

/// Reports of several steps added up: means over what lies between two lines of a log.
struct Meter {
  int steps = 0;
  long samples = 0;
  Losses losses;
  double gradient_norm = 0;
  StepReport last;

  void add(const StepReport& report) {
    ++steps;
    samples += report.samples;
    losses += report.losses;
    gradient_norm += report.gradient_norm;
    last = report;
  }
  double objective() const { return steps > 0 ? losses.objective / steps : 0; }
  /// Of the answer where there is an answer head, else of the chain's tokens.
  double accuracy() const {
    if (losses.answer.count > 0) return losses.answer.accuracy();
    TokenLoss chain = losses.value;
    chain += losses.structure;
    return chain.accuracy();
  }
};

namespace detail {

void each_number(auto&& visit, auto& meter) {
  visit(meter.steps), visit(meter.samples), visit(meter.losses.objective), visit(meter.gradient_norm);
  for (auto* loss : {&meter.losses.value, &meter.losses.structure, &meter.losses.answer})
    visit(loss->sum), visit(loss->count), visit(loss->right);
}

}  // namespace detail

/// What a checkpoint keeps of the reports since the last line of a log, so that a resumed training writes the same next line.
inline std::string write_meter(const Meter& meter) {
  Json numbers = Json::array();
  detail::each_number([&](const auto& number) { numbers.push(number); }, meter);
  return numbers.dump();
}
/// `where` begins every error.
inline Meter read_meter(std::string_view text, const std::string& where) {
  const Json numbers = parse_json(text, where);
  Meter meter;
  std::size_t i = 0;
  detail::each_number(
      [&](auto& number) {
        require(i < numbers.as_array(where).size(), where, " has too few numbers: give a checkpoint of this run");
        const Json& stored = numbers.as_array()[i++];
        if constexpr (std::floating_point<std::remove_reference_t<decltype(number)>>)
          number = stored.as_number(where);
        else
          number = static_cast<std::remove_reference_t<decltype(number)>>(stored.as_integer(where));
      },
      meter);
  return meter;
}

class MetricsLog {
 public:
  explicit MetricsLog(std::string path) : path_(std::move(path)) {}

  /// Drops what `stage` logged after `step`, and a half-written last line.
  void rewind(std::string_view stage, int step) const {
    if (!exists(path_)) return;
    const std::string text = read_file(path_);
    std::string kept;
    int number = 0;
    for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
      end = text.find('\n', begin);
      if (end == std::string::npos) break;
      const std::string_view line = std::string_view(text).substr(begin, end - begin);
      const std::string where = message(path_, ":", ++number);
      const Json entry = parse_json(line, where);
      if (entry.at("stage", where).as_string(where) == stage && entry.at("step", where).as_integer(where) > step) continue;
      kept.append(line).append("\n");
    }
    if (kept != text) write_file_atomically(path_, kept);
  }

  void write(std::string_view stage, const Meter& meter, double seconds) const {
    Json line = Json::object();
    line.set("stage", stage).set("step", meter.last.step).set("samples", meter.samples).set("loss", meter.objective());
    if (meter.losses.value.count > 0) line.set("value_loss", meter.losses.value.mean());
    if (meter.losses.structure.count > 0) line.set("structure_loss", meter.losses.structure.mean());
    if (meter.losses.answer.count > 0) line.set("answer_loss", meter.losses.answer.mean());
    line.set("accuracy", meter.accuracy())
        .set("rate", meter.last.rate)
        .set("gradient_norm", meter.gradient_norm / meter.steps)
        .set("seconds", seconds);
    append_to_file(path_, line.dump() + "\n");
  }

 private:
  std::string path_;
};

}  // namespace relay
