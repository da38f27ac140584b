// Reasoning that somebody has written down, as a task: examples and problems from files of JSON lines.
//
//   {"problem":"the key is with ann . ann gives it to ben .","rounds":["the key is with ben"],"answer":"ben"}
//
// Every line of a file is one object:
//
//   "problem"     a text, or a list of tokens; must not be empty
//   "rounds"      the chain of thought: a list of texts or of lists of tokens, none of them empty
//   "answer"      one token
//   "length"      optional: the size of the problem, by which accuracies are given; without it, the number of rounds. On every line
//                 of all files, or on none.
//   "iterations"  of a problem that has no rounds: how many its solution takes
//   "task"        optional: a name, the same on every line that has one
//
// `relay data` writes this format. Texts are split at whitespace, or into characters (Splitting); so a listed token must be a word
// without blanks, or a character. <pad>, <round> and <eos> are reserved. Other fields are ignored, unless they look like one of these, misspelt;
// blank lines skipped.
//
// Three files: examples to train on; examples to test with; and, if wanted, problems that only a model solves, which may lack both
// rounds and answer (such as problems longer than any of the others, for which the looped model writes chains). What is recorded
// must make sense as a whole, or it is an error that names both lines:
//
//   * No problem of the test file stands in another file. (Within a file, problems may repeat.)
//   * The same problem takes the same number of rounds and has the same answer wherever it stands: the looped model runs as many
//     iterations as the problem alone asks for. The rounds may differ.
//
// The vocabulary is that of all files together: words in the order of their first appearance, then whole numbers (spelled in
// digits) by value, which are the values of metrics.
//
// A round lies flush right in the looped model's row, which must hold the longest round of a problem, and a <pad> before it. Nobody
// knows how long the rounds of a new problem are. So a row's width follows from the problem alone, by one rule for all: the
// problem, and the largest excess of a round and its <pad> over its problem in all examples; in proportion more where a problem is
// longer than any that has rounds. Where rounds are shorter than their problems, as they mostly are, the excess is 0.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/core/random.hpp>
#include <relay/core/require.hpp>
#include <relay/core/spelling.hpp>
#include <relay/task/example.hpp>
#include <relay/task/placement.hpp>
#include <relay/task/records.hpp>
#include <relay/task/split.hpp>

namespace relay {

/// Examples in the order of their lengths, those of one length in the order of their file.
class ByLength {
 public:
  ByLength() = default;
  explicit ByLength(Records records) : path_(std::move(records.path)), hash_(records.hash) {
    std::vector<std::size_t> order(records.examples.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return records.examples[a].length < records.examples[b].length; });
    for (const std::size_t i : order) {
      examples_.push_back(std::move(records.examples[i]));
      lines_.push_back(records.lines[i]);
      if (lengths_.empty() || lengths_.back() != examples_.back().length) lengths_.push_back(examples_.back().length);
    }
  }

  std::span<const Example> all() const { return examples_; }
  std::span<const Example> of_length(int length) const {
    const auto less = [](const auto& a, const auto& b) { return size(a) < size(b); };
    const auto [first, last] = std::equal_range(examples_.begin(), examples_.end(), length, less);
    return {first, last};
  }
  /// Those that there are, ascending.
  const std::vector<int>& lengths() const { return lengths_; }
  bool empty() const { return examples_.empty(); }

  /// Where it stands: "test.jsonl:3".
  std::string place(const Example& example) const {
    return message(path_, ":", lines_[static_cast<std::size_t>(&example - examples_.data())]);
  }
  const std::string& path() const { return path_; }
  std::uint64_t hash() const { return hash_; }

 private:
  static int size(int length) { return length; }
  static int size(const Example& example) { return example.length; }

  std::string path_;
  std::uint64_t hash_ = 0;
  std::vector<Example> examples_;
  std::vector<int> lines_, lengths_;
};

class RecordedTask {
 public:
  struct Files {
    std::string data;           // to train on
    std::string test = {};      // may be empty: none
    std::string problems = {};  // may be empty: none
    Splitting tokens = Splitting::whitespace;
  };

  static RecordedTask load(const Files& files) { return RecordedTask(std::make_shared<const Recorded>(files)); }

  std::string name;  // "task" of the files, or own_data

  /// What was recorded. Copies of a task share it.
  const ByLength& train() const { return recorded_->train; }
  const ByLength& test() const { return recorded_->test; }
  const ByLength& problems() const { return recorded_->problems; }
  Splitting splitting() const { return recorded_->splitting; }

  /// Tokens that no training example has: a model cannot know them.
  std::vector<std::string> untrained() const {
    std::vector<bool> seen(static_cast<std::size_t>(recorded_->vocabulary.size()));
    const auto see = [&](const Tokens& tokens) {
      for (const Token t : tokens) seen[static_cast<std::size_t>(t)] = true;
    };
    see({Vocabulary::pad, Vocabulary::sep, Vocabulary::eos});
    for (const Example& e : train().all()) {
      see(e.problem), see({e.answer});
      for (const Tokens& round : e.rounds) see(round);
    }
    std::vector<std::string> out;
    for (Token t = 0; t < recorded_->vocabulary.size(); ++t)
      if (!seen[static_cast<std::size_t>(t)]) out.push_back(recorded_->vocabulary.spelling(t));
    return out;
  }

  Vocabulary vocabulary() const { return recorded_->vocabulary; }

  /// One of the training examples of that length.
  Example generate(int length, Random& random) const {
    const auto examples = train().of_length(length);
    if (examples.empty()) {
      const std::vector<int>& lengths = train().lengths();
      fail(train().path(), " has no example of length ", length, ": its lengths are ", lengths.front(), "..", lengths.back(),
           static_cast<std::size_t>(lengths.back() - lengths.front()) < lengths.size() ? "" : message(", ", lengths.size(), " of them"));
    }
    return one_of(examples, random);
  }
  /// One of all training examples.
  Example generate(Random& random) const { return one_of(train().all(), random); }

  /// The lengths of the training examples: no others can be drawn.
  const std::vector<int>& lengths() const { return train().lengths(); }

  /// One of the training examples of that length. The other sides are lists, and not drawn from.
  Example draw(int length, Random& random, Split) const { return generate(length, random); }

  /// Up to `count` of what was recorded of one length, in the order of the files: of the test side the test examples, else problems that
  /// only a model solves.
  std::vector<Example> examples(int length, int count, Key, Split split) const {
    const auto all = (split == Split::train ? problems() : test()).of_length(length);
    return {all.begin(), all.begin() + std::min<std::ptrdiff_t>(count, std::ssize(all))};
  }

  /// What an auto-regressive model writes after the problem: every round and <round>, the answer, <eos>.
  Tokens text(const Example& example) const {
    Tokens out;
    text(example, out);
    return out;
  }
  void text(const Example& example, Tokens& out) const {
    out.clear();
    for (const Tokens& round : example.rounds) {
      out.insert(out.end(), round.begin(), round.end());
      out.push_back(Vocabulary::sep);
    }
    out.push_back(example.answer);
    out.push_back(Vocabulary::eos);
  }
  std::size_t text_size(const Example& example) const {
    std::size_t size = 2 + example.rounds.size();
    for (const Tokens& round : example.rounds) size += round.size();
    return size;
  }

  /// The inverse of text(), for whatever a model wrote, up to <eos> or the end: what stands after the last <round> is the answer
  /// where it is one token; where it is more it is a round, and there is no answer: <pad>.
  Example read(const Example& problem, const Tokens& written) const {
    Example example = problem;
    example.rounds.clear();
    example.answer = Vocabulary::pad;
    Tokens round;
    for (const Token t : written) {
      if (t == Vocabulary::eos) break;
      if (t == Vocabulary::sep)
        example.rounds.push_back(std::exchange(round, {}));
      else
        round.push_back(t);
    }
    if (round.size() == 1)
      example.answer = round.front();
    else if (!round.empty())
      example.rounds.push_back(std::move(round));
    return example;
  }

  /// The problem that a person typed. A recorded problem has its recorded length and iterations; any other ends in how many rounds
  /// it takes, " @5", which is its length, too. A number of rounds may be given for a recorded problem as well, and is then taken.
  Example parse(std::string_view text) const {
    if (const std::optional<Tokens> tokens = known(text))
      if (const Example* example = recorded_->find(*tokens)) return problem(*example);
    int rounds = 0;
    std::string_view body = text;
    if (const std::size_t at = text.rfind(" @"); at != text.npos) {
      std::string_view number = text.substr(at + 2);
      number = number.substr(0, std::min(number.find_last_not_of(" \t\r\n") + 1, number.size()));
      if (!number.empty() && number.find_first_not_of("0123456789") == number.npos) {
        const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), rounds);
        require(error == std::errc() && rounds >= 1 && rounds <= RecordReader::most_rounds, quoted(text), ": the number of rounds is ",
                number, ", but must be 1 to ", RecordReader::most_rounds);
        body = text.substr(0, at);
      }
    }
    const Tokens tokens = encode(body, text);
    if (const Example* example = recorded_->find(tokens)) {
      Example out = problem(*example);
      if (rounds > 0) out.iterations = rounds;
      return out;
    }
    require(rounds > 0, quoted(text), " is none of the recorded problems: say how many rounds it takes, such as \" @5\" at its end for 5");
    Example out;
    out.problem = tokens;
    out.length = out.iterations = rounds;
    out.width = recorded_->width(tokens.size());
    return out;
  }

  /// The recorded rounds and answer; the first ones, where they were recorded in several ways.
  Example solve(const Tokens& problem) const {
    const Example* example = recorded_->find(problem);
    require(example != nullptr, "the problem \"", print(problem), "\" is not recorded in ", recorded_->paths(),
            ": only recorded problems have a known solution");
    require(!example->rounds.empty(), "the problem \"", print(problem), "\" is recorded without rounds and answer in ",
            problems().path(), ": add them there");
    return *example;
  }

  /// Judges each round against the recorded one (of several recorded chains, the one that agrees for longest), and the answer
  /// against the recorded answer. Where nothing is recorded, `known` is false, every step "not known", and nothing right.
  Verdict verify(const Example& written) const {
    Verdict verdict;
    verdict.complete = static_cast<int>(written.rounds.size()) == written.iterations;
    const Example* truth = recorded_->find(written.problem, &written.rounds);
    if (!truth || truth->rounds.empty()) {
      verdict.known = false;
      verdict.steps.assign(written.rounds.size(), {false, "not known"});
      return verdict;
    }
    verdict.answer_right = written.answer == truth->answer;
    verdict.complete = written.rounds.size() == truth->rounds.size();
    for (std::size_t t = 0; t < written.rounds.size(); ++t) {
      const bool too_many = t >= truth->rounds.size(), right = !too_many && written.rounds[t] == truth->rounds[t];
      verdict.steps.push_back({right, right      ? ""
                                      : too_many ? message("expected no round: there are ", truth->rounds.size())
                                                 : "expected " + print(truth->rounds[t])});
    }
    return verdict;
  }

  /// What the last round says, if that is how answers are given: if the answer of every training example is the last token of its
  /// last round. Otherwise <pad>.
  Token answer(const Example& written) const {
    return !recorded_->last_is_answer || written.rounds.empty() || written.rounds.back().empty() ? Vocabulary::pad
                                                                                                : written.rounds.back().back();
  }

  FlushRight placement() const { return {}; }

  /// As large as any recorded example or problem of that length or below. The rounds of a problem without any are taken to be as
  /// long as the longest in the files, in proportion longer where the problem is longer than any that has rounds.
  Example largest(int length) const {
    std::size_t problem = 1;
    std::vector<std::size_t> rounds;
    Example e;
    for (const ByLength* list : recorded_->lists())
      for (const Example& other : list->all()) {
        if (other.length > length) break;
        problem = std::max(problem, other.problem.size());
        e.width = std::max(e.width, other.width);
        rounds.resize(std::max(rounds.size(), static_cast<std::size_t>(other.iterations)), 1);
        for (std::size_t t = 0; t < static_cast<std::size_t>(other.iterations); ++t)
          rounds[t] = std::max(rounds[t], other.rounds.empty() ? recorded_->longest_round(other) : other.rounds[t].size());
      }
    const Token any = Vocabulary::eos + 1;
    e.length = length;
    e.iterations = static_cast<int>(rounds.size());
    e.problem.assign(problem, any);
    for (const std::size_t size : rounds) e.rounds.emplace_back(size, any);
    e.answer = any;
    return e;
  }

  /// The data by their content: "tokens=whitespace train=1000:5f3c...".
  std::string options() const {
    std::string out = message("tokens=", name_of(splitting()));
    const char* const names[] = {" train=", " test=", " problems="};
    for (std::size_t i = 0; const ByLength* list : recorded_->lists()) {
      const char* const part = names[i++];
      if (list->empty()) continue;
      out += message(part, list->all().size(), ":", in_digits(list->hash()));
    }
    return out;
  }

  /// As it would be typed; a number that is no token is written <?>.
  std::string print(const Tokens& tokens) const {
    std::string out;
    for (const Token t : tokens) {
      if (!out.empty() && splitting() == Splitting::whitespace) out += ' ';
      out += t >= 0 && t < recorded_->vocabulary.size() ? recorded_->vocabulary.spelling(t) : "<?>";
    }
    return out;
  }

 private:
  /// The three lists and what follows from them.
  struct Recorded {
    Splitting splitting;
    std::string task;
    ByLength train, test, problems;
    Vocabulary vocabulary{{}, {}};
    bool last_is_answer = true;

    explicit Recorded(const Files& files) : splitting(files.tokens) {
      RecordReader reader(splitting);
      Records data = reader.read(files.data, false), tests, others;
      if (!files.test.empty()) tests = reader.read(files.test, false);
      if (!files.problems.empty()) others = reader.read(files.problems, true);
      task = reader.task().empty() ? "own_data" : reader.task();
      vocabulary = reader.number({&data, &tests, &others});
      measure({&data, &tests, &others});
      train = ByLength(std::move(data)), test = ByLength(std::move(tests)), problems = ByLength(std::move(others));
      for (const Example& e : train.all()) last_is_answer = last_is_answer && e.rounds.back().back() == e.answer;
      index();
    }

    Recorded(const Recorded&) = delete;

    std::array<const ByLength*, 3> lists() const { return {&train, &test, &problems}; }
    std::string paths() const {
      std::string out;
      for (const ByLength* list : lists())
        if (!list->empty()) out += (out.empty() ? "" : ", ") + list->path();
      return out;
    }

    /// Columns of a problem of so many tokens.
    int width(std::size_t problem) const { return static_cast<int>(problem + in_proportion(excess_, problem)); }
    /// An estimate for a problem without rounds, which its row can hold.
    std::size_t longest_round(const Example& e) const {
      return std::min(in_proportion(longest_round_, e.problem.size()), static_cast<std::size_t>(e.columns()));
    }

    /// The first record of the problem; given rounds, the one whose rounds agree with them for longest. None: null.
    const Example* find(const Tokens& problem, const std::vector<Tokens>* rounds = nullptr) const {
      const Example* best = nullptr;
      std::size_t most = 0;
      const auto less = [](const Record& a, const Tokens& b) { return a.example->problem < b; };
      auto r = std::lower_bound(records_.begin(), records_.end(), problem, less);
      for (; r != records_.end() && r->example->problem == problem; ++r) {
        const Example& e = *r->example;
        std::size_t agree = 0;
        while (rounds && agree < std::min(rounds->size(), e.rounds.size()) && (*rounds)[agree] == e.rounds[agree]) ++agree;
        if (!best || (best->rounds.empty() && !e.rounds.empty()) || agree > most) best = &e, most = agree;
      }
      return best;
    }

   private:
    struct Record {
      const Example* example;
      const ByLength* list;
    };

    std::size_t in_proportion(std::size_t size, std::size_t problem) const {
      return problem <= longest_problem_ ? size : (size * problem + longest_problem_ - 1) / longest_problem_;
    }

    /// The rule of widths, and every example's width.
    void measure(std::initializer_list<Records*> files) {
      for (const Records* file : files)
        for (const Example& e : file->examples)
          for (const Tokens& round : e.rounds) {
            longest_problem_ = std::max(longest_problem_, e.problem.size());
            longest_round_ = std::max(longest_round_, round.size());
            if (round.size() + 1 > e.problem.size()) excess_ = std::max(excess_, round.size() + 1 - e.problem.size());
          }
      for (Records* file : files)
        for (Example& e : file->examples) e.width = width(e.problem.size());
    }

    /// The records by problem; an error where two of one problem contradict each other.
    void index() {
      for (const ByLength* list : lists())
        for (const Example& e : list->all()) records_.push_back({&e, list});
      std::stable_sort(records_.begin(), records_.end(),
                       [](const Record& a, const Record& b) { return a.example->problem < b.example->problem; });
      for (std::size_t first = 0, i = 1; i < records_.size(); ++i) {
        if (records_[first].example->problem == records_[i].example->problem) {
          compare(records_[first], records_[i]);
          if (!records_[first].example->rounds.empty()) continue;  // otherwise compare with what says more
        }
        first = i;
      }
    }
    void compare(const Record& a, const Record& b) const {
      const Example &x = *a.example, &y = *b.example;
      const std::string where = a.list->place(x) + " and " + b.list->place(y) + " have the same problem";
      if (a.list != b.list && (a.list == &test || b.list == &test))
        fail(where, ": a test problem may stand in no other file: remove one of them");
      require(x.iterations == y.iterations, where, ", but it takes ", x.iterations, " rounds there and ", y.iterations,
              " here: the number of rounds must follow from the problem alone: correct one of them");
      if (!x.rounds.empty() && !y.rounds.empty())
        require(x.answer == y.answer, where, ", but the answer is ", Json(vocabulary.spelling(x.answer)).dump(), " there and ",
                Json(vocabulary.spelling(y.answer)).dump(), " here: correct one of them");
    }

    std::size_t excess_ = 0, longest_problem_ = 1, longest_round_ = 1;
    std::vector<Record> records_;  // by problem; of one problem: in the order of the files
  };

  explicit RecordedTask(std::shared_ptr<const Recorded> recorded) : name(recorded->task), recorded_(std::move(recorded)) {}

  static const Example& one_of(std::span<const Example> examples, Random& random) {
    return examples[static_cast<std::size_t>(random.below(static_cast<int>(examples.size())))];
  }

  static Example problem(Example example) {
    example.rounds.clear();
    example.answer = Vocabulary::pad;
    return example;
  }

  /// The text for an error, whatever bytes it has.
  static std::string quoted(std::string_view text) {
    std::string out = "problem \"";
    for (std::size_t at = 0; at < text.size();) {
      const int size = detail::utf8_length(text, at);
      const bool plain = size > 0 && static_cast<unsigned char>(text[at]) >= 0x20;
      out += plain ? text.substr(at, static_cast<std::size_t>(size)) : "?";
      at += static_cast<std::size_t>(std::max(size, 1));
    }
    return out + "\"";
  }

  /// The tokens, if all are known.
  std::optional<Tokens> known(std::string_view text) const {
    Tokens tokens;
    try {
      for (const std::string_view part : split(text, splitting())) {
        if (!recorded_->vocabulary.contains(part)) return std::nullopt;
        tokens.push_back(recorded_->vocabulary.token(part));
      }
    } catch (const Error&) {  // not UTF-8
      return std::nullopt;
    }
    return tokens;
  }

  Tokens encode(std::string_view body, std::string_view text) const {
    for (std::size_t at = 0; at < body.size();) {
      const int size = detail::utf8_length(body, at);
      require(size > 0, quoted(text), ": byte ", at + 1, " is not UTF-8: type it in UTF-8");
      at += static_cast<std::size_t>(size);
    }
    Tokens tokens;
    for (const std::string_view part : split(body, splitting())) {
      if (!recorded_->vocabulary.contains(part) || recorded_->vocabulary.token(part) <= Vocabulary::eos)
        fail(quoted(text), ": the token '", part, "' stands in none of the files", suggestion(part));
      tokens.push_back(recorded_->vocabulary.token(part));
    }
    require(!tokens.empty(), quoted(text), " is empty: write at least one token");
    return tokens;
  }

  /// The nearest known token, or, where none is near, some of them.
  std::string suggestion(std::string_view word) const {
    const auto known = std::span(recorded_->vocabulary.spellings()).subspan(3);  // those that stand for themselves
    const std::string* nearest = nullptr;
    int least = static_cast<int>(word.size()) / 2 + 1;
    for (const std::string& s : known)
      if (const int distance = detail::edit_distance(s, word); distance < least) nearest = &s, least = distance;
    if (nearest) return ": did you mean '" + *nearest + "'?";
    constexpr std::size_t most = 20;
    std::string list = ": those that do are";
    for (const std::string& s : known.first(std::min(most, known.size()))) list += " " + s;
    return list + (known.size() > most ? " ..." : "");
  }

  std::shared_ptr<const Recorded> recorded_;
};

static_assert(ReasoningTask<RecordedTask>);

}  // namespace relay
