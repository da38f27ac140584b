// Accuracy by model, task and length, as a table on a terminal and as results.json.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <relay/core/json.hpp>
#include <relay/pipeline/accuracy.hpp>

namespace relay {

struct ResultRow {
  std::string model, task;
  int length = 0;
  long samples = 0;
  double answer = 0, chain = 0, token = 0;  // accuracies

  ResultRow() = default;
  ResultRow(std::string model_name, std::string task_name, int of_length, const Accuracy& a)
      : model(std::move(model_name)), task(std::move(task_name)), length(of_length), samples(a.samples), answer(a.answer()),
        chain(a.chain()), token(a.token()) {}
};

/// {"model", "task", "length", "samples", "answer_accuracy", "chain_accuracy", "token_accuracy"}
inline Json to_json(const ResultRow& row) {
  return Json::object()
      .set("model", row.model)
      .set("task", row.task)
      .set("length", row.length)
      .set("samples", row.samples)
      .set("answer_accuracy", row.answer)
      .set("chain_accuracy", row.chain)
      .set("token_accuracy", row.token);
}

inline ResultRow result_row(const Json& json, std::string_view where) {
  ResultRow row;
  row.model = json.at("model", where).as_string(where);
  row.task = json.at("task", where).as_string(where);
  row.length = static_cast<int>(json.at("length", where).as_integer(where));
  row.samples = static_cast<long>(json.at("samples", where).as_integer(where));
  row.answer = json.at("answer_accuracy", where).as_number(where);
  row.chain = json.at("chain_accuracy", where).as_number(where);
  row.token = json.at("token_accuracy", where).as_number(where);
  return row;
}

/// {"config": ..., "rows": [...]}
inline Json results_json(const Json& config, const std::vector<ResultRow>& rows) {
  Json list = Json::array();
  for (const ResultRow& row : rows) list.push(to_json(row));
  return Json::object().set("config", config).set("rows", list);
}

/// Of one task: one line per model, one column per length; lengths beyond the trained ones stand behind a bar.
inline std::string results_table(const std::vector<ResultRow>& rows, std::string_view task, int longest_trained) {
  std::vector<std::string> models;
  std::vector<int> lengths;
  const auto remember = [](auto& list, const auto& item) {
    if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
  };
  for (const ResultRow& row : rows)
    if (row.task == task) remember(models, row.model), remember(lengths, row.length);
  std::sort(lengths.begin(), lengths.end());
  std::string out;
  char cell[64];
  const auto line = [&](const std::string& name, auto&& value) {
    std::snprintf(cell, sizeof cell, "%-16s", name.c_str());
    out += cell;
    bool trained = true;
    for (const int length : lengths) {
      if (trained && length > longest_trained) out += " |";
      trained = length <= longest_trained;
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
        if (row.model == model && row.task == task && row.length == length) {
          std::snprintf(cell, sizeof cell, "%6.3f", row.answer);
          return std::string(cell);
        }
      return std::string(6, ' ');
    });
  return out;
}

}  // namespace relay
