// Reading recorded reasoning: files of JSON lines whose vocabulary nobody has written down. The format stands in recorded.hpp.
//
// One reader reads all files of a data set and collects their tokens; then they are numbered. Every error is one line that
// names file, line and field, and what to do.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <relay/core/file.hpp>
#include <relay/core/json.hpp>
#include <relay/core/json_parser.hpp>
#include <relay/core/require.hpp>
#include <relay/core/spelling.hpp>
#include <relay/task/example.hpp>
#include <relay/task/jsonl.hpp>
#include <relay/task/vocabulary.hpp>

namespace relay {

/// How a text becomes tokens: at whitespace (of ASCII; it is no part of them), or every character, a blank too, is one (a code
/// point of Unicode).
enum class Splitting { whitespace, characters };

constexpr std::string_view name_of(Splitting splitting) {
  return splitting == Splitting::whitespace ? "whitespace" : "characters";
}

/// The tokens of a text, which must be UTF-8.
inline std::vector<std::string_view> split(std::string_view text, Splitting splitting) {
  constexpr std::string_view blanks = " \t\n\r\v\f";
  std::vector<std::string_view> out;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t size;
    if (splitting == Splitting::characters) {
      size = static_cast<std::size_t>(detail::utf8_length(text, at));
      require(size > 0, "byte ", at + 1, " of the text is not UTF-8: characters can be told apart in UTF-8 only");
    } else {
      at = std::min(text.find_first_not_of(blanks, at), text.size());
      size = std::min(text.find_first_of(blanks, at), text.size()) - at;
    }
    if (size > 0) out.push_back(text.substr(at, size));
    at += size;
  }
  return out;
}

/// One file, as it was read.
struct Records {
  std::string path;
  std::uint64_t hash = 0;              // of its bytes (FNV-1a)
  std::vector<Example> examples = {};  // in the file's order; width 0
  std::vector<int> lines = {};         // where each stands, from 1
};

class RecordReader {
 public:
  static constexpr int most_rounds = 1000, greatest_length = 1000000;
  static constexpr const char* separator = "<round>";  // between rounds: <sep> may be a token of the files, as it is of edit distance's

  explicit RecordReader(Splitting splitting) : splitting_(splitting) {}

  /// Reads a file: examples with rounds and answers, or problems, which may lack both.
  Records read(const std::string& path, bool problems) {
    Records records{.path = path};
    const std::string bytes = read_file(path);
    records.hash = fingerprint(bytes);
    std::string_view text = bytes;
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);  // a byte order mark, as some editors write
    detail::each_line(text, [&](std::string_view line, int number) {
      where_ = message(path, ":", number);
      records.examples.push_back(example(line, problems));
      records.lines.push_back(number);
    });
    require(!records.examples.empty(), path, " has no examples: write one JSON object a line, such as ",
            problems ? R"({"problem":"...","iterations":3})" : R"({"problem":"...","rounds":["...","..."],"answer":"..."})");
    return records;
  }

  /// The vocabulary of what was read: words in the order of their first appearance, then whole numbers (of digits only) by value.
  /// Gives the examples of `files`, all that were read, its tokens.
  Vocabulary number(std::initializer_list<Records*> files) const {
    const auto is_value = [](const std::string* s) { return s->find_first_not_of("0123456789") == s->npos; };
    const auto less = [](const std::string* a, const std::string* b) {  // of any number of digits
      const auto digits = [](const std::string* s) { return std::string_view(*s).substr(std::min(s->find_first_not_of('0'), s->size())); };
      const std::string_view x = digits(a), y = digits(b);
      return x.size() != y.size() ? x.size() < y.size() : x != y ? x < y : a->size() < b->size();
    };
    std::vector<const std::string*> spellings(seen_.size());
    for (const auto& [spelling, nth] : seen_) spellings[static_cast<std::size_t>(nth)] = &spelling;
    const auto first_value = std::stable_partition(spellings.begin(), spellings.end(), [&](auto* s) { return !is_value(s); });
    std::sort(first_value, spellings.end(), less);
    std::vector<std::string> structure, values;
    for (auto s = spellings.begin(); s != spellings.end(); ++s) (s < first_value ? structure : values).push_back(**s);
    const Vocabulary vocabulary(structure, values, separator);

    std::vector<Token> numbers(seen_.size());
    for (const auto& [spelling, nth] : seen_) numbers[static_cast<std::size_t>(nth)] = vocabulary.token(spelling);
    for (Records* file : files)
      for (Example& e : file->examples) {
        for (Token& t : e.problem) t = numbers[static_cast<std::size_t>(t)];
        for (Tokens& round : e.rounds)
          for (Token& t : round) t = numbers[static_cast<std::size_t>(t)];
        e.answer = e.rounds.empty() ? Vocabulary::pad : numbers[static_cast<std::size_t>(e.answer)];
      }
    return vocabulary;
  }

  /// The "task" that lines name; empty where none does.
  const std::string& task() const { return task_; }

 private:
  template <class... Parts>
  [[noreturn]] void wrong(const Parts&... parts) const {
    fail(where_, parts...);
  }

  /// What a file says, in quotes and on one line, cut where it is long.
  static std::string shown(const Json& json) {
    constexpr std::size_t most = 60;
    std::string text = json.dump();
    if (text.size() <= most) return text;
    std::size_t end = most;
    while ((static_cast<unsigned char>(text[end]) & 0xC0u) == 0x80u) --end;
    return text.substr(0, end) + "...";
  }

  Token token(std::string_view spelling) {
    return seen_.emplace(std::string(spelling), static_cast<Token>(seen_.size())).first->second;
  }

  /// A token that stands alone, which must be one that a text could have, too: people type texts.
  Token listed(const Json& json, std::string_view field) {
    if (!json.is_string()) wrong(": ", field, " has ", shown(json), ", but tokens are strings: write it in quotes");
    const std::string& spelling = json.as_string();
    const auto parts = split(spelling, splitting_);
    if (parts.size() != 1 || parts[0].size() != spelling.size())
      wrong(": ", field, " has the token ", shown(json), ", but a token is ",
            splitting_ == Splitting::whitespace ? "a word without blanks: write several tokens, or join its words with '_'"
                                                : "one character: split the texts at whitespace, or write several tokens");
    return unreserved(spelling, field);
  }
  Token unreserved(std::string_view spelling, std::string_view field) {
    if (spelling == "<pad>" || spelling == separator || spelling == "<eos>")
      wrong(": ", field, " has the token ", spelling, ", which is reserved: spell it another way");
    if (std::any_of(spelling.begin(), spelling.end(), [](unsigned char c) { return (c < 32 && c != '\t' && c != '\n' && c != '\r') || c == 127; }))
      wrong(": ", field, " has the token ", shown(Json(std::string(spelling))), ", which has a control character: leave it out");
    return token(spelling);
  }

  /// A text or a list of tokens; `what` of the field is at fault where it is neither, or empty.
  Tokens tokens(const Json& json, std::string_view field, const std::string& what) {
    Tokens out;
    if (json.is_string())
      for (const std::string_view part : split(json.as_string(), splitting_)) out.push_back(unreserved(part, field));
    else if (json.is_array())
      for (const Json& item : json.as_array()) out.push_back(listed(item, field));
    else
      wrong(": ", field, what, " must be a string or a list of tokens, but is ", json.kind(), ": write it in quotes");
    if (out.empty()) wrong(": ", field, what, " is empty: write at least one token");
    return out;
  }

  Token answer(const Json& json) {
    if (!json.is_string()) wrong(": \"answer\" must be a string, but is ", json.kind(), ": write its one token in quotes");
    const auto parts = split(json.as_string(), splitting_);
    if (parts.size() != 1)
      wrong(": \"answer\" is ", shown(json), ", which is ", parts.size(), " tokens, but must be one: leave the others to the last round");
    return unreserved(parts[0], "\"answer\"");
  }

  std::optional<int> whole(const Json& line, std::string_view name, int most) const {
    const Json* json = line.find(name);
    if (!json) return std::nullopt;
    const double value = json->is_number() ? json->as_number() : 0;
    if (!(value >= 1 && value <= most) || value != static_cast<int>(value))
      wrong(": \"", name, "\" is ", shown(*json), ", but must be a whole number from 1 to ", most);
    return static_cast<int>(value);
  }

  /// A line may say more than is read, but not in names that look like a field's, misspelt.
  void check_names(const Json& line) const {
    static constexpr std::string_view names[] = {"problem", "rounds", "answer", "length", "iterations", "task"};
    for (const auto& [name, value] : line.as_object())
      if (std::find(std::begin(names), std::end(names), name) == std::end(names))
        for (const std::string_view known : names)
          if (detail::edit_distance(name, known) <= (known.size() < 6 ? 1 : 2))
            wrong(" has the field ", shown(Json(name)), ", which is not known: did you mean \"", known, "\"?");
  }

  void check_task(const Json& line) {
    const Json* json = line.find("task");
    if (!json) return;
    if (!json->is_string() || json->as_string().empty())
      wrong(": \"task\" is ", shown(*json), ", but must be the name of the task: a string that is not empty");
    if (task_.empty()) task_ = json->as_string(), first_task_ = where_;
    if (task_ != json->as_string())
      wrong(": \"task\" is ", shown(*json), ", but ", first_task_, " has ", shown(Json(task_)), ": give the examples of one task");
  }

  /// Lengths are all given or all left out: they would not measure the same.
  void check_length(bool given) {
    if (first_length_.empty()) lengths_ = given, first_length_ = where_;
    if (lengths_ == given) return;
    const char* const all = ": write it on every line of all files, or on none";
    if (given)
      wrong(" has a \"length\", but ", first_length_, " has none", all);
    else
      wrong(" has no \"length\", but ", first_length_, " has one", all);
  }

  Example example(std::string_view text, bool problems) {
    Json line;
    try {
      line = parse_json_line(text, where_);
    } catch (const Error& error) {
      fail(error.what(), ": a line must be one JSON object, in UTF-8");
    }
    if (!line.is_object()) wrong(" must be an object, but is ", line.kind(), R"(: write {"problem":...,"rounds":[...],"answer":...})");
    check_names(line);
    check_task(line);
    const auto field = [&](std::string_view name, std::string_view advice) -> const Json& {
      const Json* found = line.find(name);
      if (!found) wrong(" has no \"", name, "\"", advice);
      return *found;
    };

    Example e;
    e.problem = tokens(field("problem", ": add it, a string or a list of tokens"), "\"problem\"", "");
    const std::optional<int> length = whole(line, "length", greatest_length);
    const std::optional<int> iterations = whole(line, "iterations", most_rounds);
    check_length(length.has_value());
    if (problems && !line.find("rounds") && !line.find("answer")) {
      if (!iterations) wrong(R"( has neither "rounds" nor "iterations": add "iterations", the number of rounds that the problem takes)");
      e.iterations = *iterations;
    } else {
      const std::string_view needed = problems ? R"(: write both "rounds" and "answer", or neither)"
                                               : ", which training and test data need: add it";
      const Json& rounds = field("rounds", needed);
      if (!rounds.is_array()) wrong(": \"rounds\" must be a list of rounds, but is ", rounds.kind(), R"(: write ["..."], even of one)");
      if (rounds.as_array().empty()) wrong(": \"rounds\" is an empty list: write at least one round");
      for (const Json& round : rounds.as_array())
        e.rounds.push_back(tokens(round, "\"rounds\"", message(": round ", e.rounds.size() + 1)));
      e.answer = answer(field("answer", needed));
      e.iterations = static_cast<int>(e.rounds.size());
      if (e.iterations > most_rounds) wrong(": \"rounds\" has ", e.iterations, " rounds, but may have ", most_rounds, " at most");
      if (iterations && *iterations != e.iterations)
        wrong(": \"iterations\" is ", *iterations, ", but there are ", e.iterations, " rounds: leave it out, or correct it");
    }
    e.length = length.value_or(e.iterations);
    return e;
  }

  Splitting splitting_;
  std::string where_;                            // file and line at hand
  std::unordered_map<std::string, Token> seen_;  // numbered as they come
  std::string task_, first_task_, first_length_;
  bool lengths_ = false;
};

}  // namespace relay
