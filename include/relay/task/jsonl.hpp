// Examples as JSON lines, one a line, tokens as they are spelled:
//
//   {"task":"arithmetic","length":1,"problem":["1","+","2","="],"rounds":[["3"]],"answer":"3"}
//
// An example has as many iterations as rounds. Fields that are not known are ignored, blank lines skipped; every error
// names file, line and field.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/core/file.hpp>
#include <relay/core/json.hpp>
#include <relay/core/json_parser.hpp>
#include <relay/core/require.hpp>
#include <relay/task/example.hpp>
#include <relay/task/vocabulary.hpp>

namespace relay {

namespace detail {

/// Calls visit(line, number) for every line that is not blank; numbers begin at 1.
inline void each_line(std::string_view text, auto&& visit) {
  for (int number = 1; !text.empty(); ++number) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text = end == text.npos ? "" : text.substr(end + 1);
    if (line.find_first_not_of(" \t\r") != line.npos) visit(line, number);
  }
}

}  // namespace detail

/// One line, without the line break.
inline std::string to_jsonl(std::string_view task, const Vocabulary& vocabulary, const Example& example) {
  const auto spelled = [&](const Tokens& tokens) {
    Json out = Json::array();
    for (const Token t : tokens) out.push(vocabulary.spelling(t));
    return out;
  };
  Json rounds = Json::array();
  for (const Tokens& round : example.rounds) rounds.push(spelled(round));
  Json line = Json::object();
  line.set("task", task).set("length", example.length).set("problem", spelled(example.problem));
  line.set("rounds", std::move(rounds)).set("answer", vocabulary.spelling(example.answer));
  return line.dump();
}

/// The example of one line of `task`; `where` begins every error: the name of the file and the line's number, say.
inline Example from_jsonl(std::string_view line, std::string_view task, const Vocabulary& vocabulary,
                          std::string_view where) {
  const auto field = [&](std::string_view name) { return message(where, ": \"", name, "\""); };
  const auto token = [&](const Json& json, std::string_view name) {
    if (!json.is_string() || !vocabulary.contains(json.as_string()))
      fail(field(name), " has ", json.dump(), ", which is no token of ", task);
    return vocabulary.token(json.as_string());
  };
  const auto tokens = [&](const Json& json, std::string_view name) {
    Tokens out;
    for (const Json& item : json.as_array(json.is_array() ? "" : field(name))) out.push_back(token(item, name));
    return out;
  };

  const Json json = parse_json(line, where);
  const std::string& name = json.at("task", where).as_string(field("task"));
  require(name == task, field("task"), " is \"", name, "\", but must be \"", task, "\": give a file of that task");
  Example example;
  const std::int64_t length = json.at("length", where).as_integer(field("length"));
  require(length >= 1 && length <= 1000000, field("length"), " is ", length, ", but must be between 1 and 1000000");
  example.length = static_cast<int>(length);
  example.problem = tokens(json.at("problem", where), "problem");
  require(!example.problem.empty(), field("problem"), " has no tokens");
  for (const Json& round : json.at("rounds", where).as_array(field("rounds")))
    example.rounds.push_back(tokens(round, "rounds"));
  example.answer = token(json.at("answer", where), "answer");
  example.iterations = static_cast<int>(example.rounds.size());
  return example;
}

inline std::vector<Example> read_jsonl(const std::string& path, std::string_view task, const Vocabulary& vocabulary) {
  std::vector<Example> examples;
  detail::each_line(read_file(path), [&](std::string_view line, int number) {
    examples.push_back(from_jsonl(line, task, vocabulary, message(path, ":", number)));
  });
  return examples;
}

/// Replaces or makes the file, atomically.
inline void write_jsonl(const std::string& path, std::string_view task, const Vocabulary& vocabulary,
                        std::span<const Example> examples) {
  std::string bytes;
  for (const Example& example : examples) bytes += to_jsonl(task, vocabulary, example) += '\n';
  write_file_atomically(path, bytes);
}

}  // namespace relay
