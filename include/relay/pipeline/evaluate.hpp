// Accuracy by model and length, as a table on a terminal and as results.json.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

#include <relay/core/json.hpp>
#include <relay/pipeline/accuracy.hpp>

namespace relay {

struct ResultRow {
  std::string model, task;
  int length = 0;
  Accuracy accuracy;
};

/// {"config": ..., "rows": [{"model", "task", "length", "samples", "answer_accuracy", "chain_accuracy", "token_accuracy"}]}
inline Json results_json(const Json& config, const std::vector<ResultRow>& rows) {
  Json list = Json::array();
  for (const ResultRow& row : rows)
    list.push(Json::object()
                  .set("model", row.model)
                  .set("task", row.task)
                  .set("length", row.length)
                  .set("samples", row.accuracy.samples)
                  .set("answer_accuracy", row.accuracy.answer())
                  .set("chain_accuracy", row.accuracy.chain())
                  .set("token_accuracy", row.accuracy.token()));
  return Json::object().set("config", config).set("rows", list);
}

/// One line per model, one column per length; lengths beyond the trained ones stand behind a bar.
inline std::string results_table(const std::vector<ResultRow>& rows, int longest_trained) {
  std::vector<std::string> models;
  std::vector<int> lengths;
  const auto remember = [](auto& list, const auto& item) {
    if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
  };
  for (const ResultRow& row : rows) remember(models, row.model), remember(lengths, row.length);
  std::sort(lengths.begin(), lengths.end());
  std::string out;
  char cell[64];
  const auto line = [&](const std::string& name, auto&& value) {
    std::snprintf(cell, sizeof cell, "%-16s", name.c_str());
    out += cell;
    for (const int length : lengths) {
      if (length == longest_trained + 1) out += " |";
      out += value(length);
    }
    out += "\n";
  };
  line("length", [&](int length) {
    std::snprintf(cell, sizeof cell, "%6d", length);
    return std::string(cell);
  });
  for (const std::string& model : models)
    line(model, [&](int length) {
      for (const ResultRow& row : rows)
        if (row.model == model && row.length == length) {
          std::snprintf(cell, sizeof cell, "%6.3f", row.accuracy.answer());
          return std::string(cell);
        }
      return std::string(6, ' ');
    });
  return out;
}

}  // namespace relay
