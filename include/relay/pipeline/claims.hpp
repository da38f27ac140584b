// The six statements that a reproduction of the paper must show (arXiv 2502.08482), judged by a run's own numbers.
//
// The paper says "near", "far above", "a little"; here these are numbers, the same for every run. Accuracies are of the answer, and
// mean over lengths: `in`, of the trained ones; `past`, of those beyond.
#pragma once

#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include <relay/core/json.hpp>
#include <relay/pipeline/config.hpp>
#include <relay/pipeline/evaluate.hpp>

namespace relay {

struct ClaimVerdict {
  int number;
  std::string task, text;
  std::optional<bool> holds;  // nothing: it cannot be judged by this run
  std::string detail;  // the numbers
};

namespace detail {

/// Mean over the rows of a model and task whose length is wanted.
inline std::optional<double> mean_accuracy(const std::vector<ResultRow>& rows, std::string_view model, std::string_view task, auto&& wanted,
                                           double ResultRow::*accuracy = &ResultRow::answer) {
  double sum = 0;
  int count = 0;
  for (const ResultRow& row : rows)
    if (row.model == model && row.task == task && wanted(row.length)) sum += row.*accuracy, ++count;
  return count > 0 ? std::optional(sum / count) : std::nullopt;
}

inline std::string digits(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", value);
  return text;
}

}  // namespace detail

/// `entries`: of diagnostics.json. A claim about models that the run does not have is left out.
inline std::vector<ClaimVerdict> judge_claims(const PipelineConfig& config, const std::vector<ResultRow>& rows, const Json& entries) {
  using detail::digits;
  std::vector<ClaimVerdict> claims;
  for (const std::string& task : config.tasks) {
    const TaskConfig& t = config.training(task);
    const int longest = t.lengths.longest;
    const auto trained = [&](int length) { return length <= longest; };
    const auto beyond = [&](int length) { return length > longest; };
    const auto in = [&](std::string_view model) { return detail::mean_accuracy(rows, model, task, trained); };
    const auto past = [&](std::string_view model) { return detail::mean_accuracy(rows, model, task, beyond); };
    const auto add = [&](int number, const char* text, std::optional<bool> holds, std::string detail) {
      claims.push_back({number, task, text, holds, std::move(detail)});
    };

    std::string numbers;
    bool all = true;
    for (const char* model : {"looped_aligned", "looped_vanilla", "ar", "ar_relay", "ar_self_loop", "ar_self_truth"})
      if (const auto a = in(model)) {
        numbers += std::string(numbers.empty() ? "" : ", ") + model + " " + digits(*a);
        all = all && *a >= 0.95;
      }
    if (!numbers.empty()) add(1, "In range, every model is near 100 % (each at least 0.95)", all, numbers);

    const auto aligned = past("looped_aligned"), vanilla = past("looped_vanilla"), ar = past("ar"), relay = past("ar_relay");
    if (aligned && vanilla && ar)
      add(2, "Past the range: aligned looped at least vanilla looped (within 0.02), and that far above AR (by 0.1 or more)",
          *aligned >= *vanilla - 0.02 && *vanilla >= *ar + 0.1,
          "looped_aligned " + digits(*aligned) + ", looped_vanilla " + digits(*vanilla) + ", ar " + digits(*ar));
    if (aligned && relay && ar)
      add(3, "Past the range: AR tuned on RELAY chains about as good as aligned looped (within 0.1 below), far above AR (by 0.2 or more)",
          *relay >= *aligned - 0.1 && *relay >= *ar + 0.2,
          "ar_relay " + digits(*relay) + ", looped_aligned " + digits(*aligned) + ", ar " + digits(*ar));
    for (const char* model : {"ar_self_loop", "ar_self_truth"})
      if (const auto self = past(model); self && ar && relay)
        add(4, "Past the range: AR tuned on its own chains only a little above AR (0.05 below to half the gain of RELAY, which must be 0.2 or more)",
            *relay >= *ar + 0.2 ? std::optional(*self >= *ar - 0.05 && *self - *ar < (*relay - *ar) / 2) : std::nullopt,
            std::string(model) + " " + digits(*self) + ", ar " + digits(*ar) + ", ar_relay " + digits(*relay));
    const auto last = [&](int length) { return length == t.last_test(); };
    const auto aligned_tokens = detail::mean_accuracy(rows, "looped_aligned", task, last, &ResultRow::token);
    const auto relay_tokens = detail::mean_accuracy(rows, "ar_relay", task, last, &ResultRow::token);
    if (aligned_tokens && relay_tokens && t.last_test() > longest)
      add(5, "At the longest length tested: more than 90 % of the tokens of aligned looped and of the RELAY-tuned AR model are right",
          *aligned_tokens > 0.9 && *relay_tokens > 0.9,
          "length " + std::to_string(t.last_test()) + ": looped_aligned " + digits(*aligned_tokens) + ", ar_relay " + digits(*relay_tokens));

    if (task != LongestIncreasingSubsequence::name || t.last_test() <= longest) continue;
    const auto hits = [&](std::string_view model, int length) {  // of each round, its least hit column
      std::vector<double> least;
      for (const Json& entry : entries.as_array()) {
        if (entry.at("model").as_string() != model || entry.at("task").as_string() != task || entry.at("length").as_integer() != length)
          continue;
        for (const Json& round : entry.at("errors").as_array()) {
          least.push_back(1);
          for (const Json& column : round.as_array()) {
            const double wrong = column.as_array()[0].as_number(), count = column.as_array()[1].as_number();
            if (count > 0) least.back() = std::min(least.back(), 1 - wrong / count);
          }
        }
      }
      return least;
    };
    bool holds = true;
    std::string detail_text;
    for (const int length : {longest + 1, std::min(longest + 5, t.last_test())}) {
      const auto relay_hits = hits("looped_aligned", length);
      if (relay_hits.empty() || hits("ar", length).empty()) continue;
      const double least = *std::min_element(relay_hits.begin(), relay_hits.end());
      holds = holds && least >= 0.95;
      detail_text += std::string(detail_text.empty() ? "" : "; ") + "length " + std::to_string(length) + ": least hit of RELAY chains " + digits(least);
      for (const char* self : {"ar", "ar_self_loop", "ar_self_truth"})
        if (const auto self_hits = hits(self, length); !self_hits.empty()) {
          holds = holds && self_hits.back() < self_hits.front() - 0.05;
          detail_text += std::string(", of ") + self + " in the first round " + digits(self_hits.front()) + ", in the last " + digits(self_hits.back());
        }
    }
    if (!detail_text.empty())
      add(6,
          "LIS hit matrix past the range: RELAY chains near 100 % everywhere (least cell 0.95), own chains, of AR and of AR tuned on its own, "
          "fall off (least cell of the last round 0.05 below that of the first)",
          holds, detail_text);
  }
  return claims;
}

inline Json to_json(const std::vector<ClaimVerdict>& claims) {
  Json list = Json::array();
  for (const ClaimVerdict& c : claims)
    list.push(Json::object()
                  .set("claim", c.number)
                  .set("task", c.task)
                  .set("text", c.text)
                  .set("holds", c.holds ? Json(*c.holds) : Json())
                  .set("detail", c.detail));
  return list;
}

}  // namespace relay
