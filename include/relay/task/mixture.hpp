// A mixture of tasks for one model: one vocabulary, and before every problem a token that says which task it is.
//
// Tasks know only their own tokens; the mixture translates. Tokens are the same where they are spelled the same, so the numbers of
// all tasks are one set of tokens. A single task is taken as it is: its own vocabulary, and no token before the problem.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <relay/task/any_task.hpp>

namespace relay {

class Mixture {
 public:
  explicit Mixture(std::vector<AnyTask> tasks) : tasks_(std::move(tasks)), vocabulary_(joint_vocabulary(tasks_)) {
    if (single()) return;
    for (const AnyTask& task : tasks_) {
      const Vocabulary own = task.vocabulary();
      Dictionary dictionary;
      dictionary.name = vocabulary_.token(task_token(task.name));
      dictionary.own.assign(static_cast<std::size_t>(vocabulary_.size()), foreign);
      for (Token t = 0; t < own.size(); ++t) {
        dictionary.joint.push_back(vocabulary_.token(own.spelling(t)));
        dictionary.own[static_cast<std::size_t>(dictionary.joint.back())] = t;
      }
      dictionaries_.push_back(std::move(dictionary));
    }
  }

  int size() const { return static_cast<int>(tasks_.size()); }
  bool single() const { return tasks_.size() == 1; }
  const AnyTask& task(int i) const { return tasks_[static_cast<std::size_t>(i)]; }
  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// The task of that name; throws where there is none.
  int index(std::string_view name) const {
    std::string names;
    for (int i = 0; i < size(); ++i) {
      if (task(i).name == name) return i;
      names += (i == 0 ? "" : i + 1 == size() ? " and " : ", ") + task(i).name;
    }
    fail("unknown task '", name, "': there ", single() ? "is " : "are ", names);
  }

  /// What stands before a problem of the task: the paper's [ARI], [ED], [LIS], else the name in brackets.
  static std::string task_token(std::string_view name) {
    if (name == "arithmetic") return "[ARI]";
    if (name == "edit_distance") return "[ED]";
    if (name == "longest_increasing_subsequence") return "[LIS]";
    return message("[", name, "]");
  }

  /// A task's own example as one of the mixture.
  Example joint(int i, Example example) const {
    example.task = i;
    if (single()) return example;
    const Dictionary& d = dictionary(i);
    const auto translate = [&](Tokens& tokens) {
      for (Token& t : tokens) t = d.joint[static_cast<std::size_t>(t)];
    };
    translate(example.problem);
    example.problem.insert(example.problem.begin(), d.name);
    for (Tokens& round : example.rounds) translate(round);
    example.answer = d.joint[static_cast<std::size_t>(example.answer)];
    if (example.width > 0) ++example.width;
    return example;
  }

  /// The reverse. Tokens that the task does not know, which a model may have written, become `foreign`.
  Example own(Example example) const {
    if (single()) return example;
    const Dictionary& d = dictionary(example.task);
    example.problem = own_problem(example);
    for (Tokens& round : example.rounds) d.translate_to_own(round);
    example.answer = d.own[static_cast<std::size_t>(example.answer)];
    if (example.width > 0) --example.width;
    example.task = 0;
    return example;
  }

  static constexpr Token foreign = -1;

  Example generate(int i, int length, Random& random) const { return joint(i, task(i).generate(length, random)); }
  Example draw(int i, int length, Random& random, Split split) const { return joint(i, task(i).draw(length, random, split)); }
  std::vector<Example> examples(int i, int length, int count, Key key, Split split) const {
    std::vector<Example> examples = task(i).examples(length, count, key, split);
    for (Example& e : examples) e = joint(i, std::move(e));
    return examples;
  }

  // A ChainText over the tasks of examples.
  Tokens text(const Example& example) const {
    Tokens out;
    text(example, out);
    return out;
  }
  void text(const Example& example, Tokens& out) const {
    if (single()) return task(0).text(example, out);
    const Dictionary& d = dictionary(example.task);
    Example written = problem_alone(example);
    written.rounds = example.rounds;
    for (Tokens& round : written.rounds)
      for (Token& t : round) t = d.numbered(t);
    written.answer = d.numbered(example.answer);
    task(example.task).text(written, out);
    for (Token& t : out) t = d.back(t);
  }
  std::size_t text_size(const Example& example) const {
    return single() ? task(0).text_size(example) : task(example.task).text_size(own(example));
  }
  Example read(const Example& problem, Tokens text) const {
    if (single()) return task(0).read(problem, text);
    const Dictionary& d = dictionary(problem.task);
    for (Token& t : text) t = d.numbered(t);
    Example example = task(problem.task).read(problem_alone(problem), text);
    Example out = problem;
    out.rounds = std::move(example.rounds);
    for (Tokens& round : out.rounds)
      for (Token& t : round) t = d.back(t);
    out.answer = d.back(example.answer);
    return out;
  }

  Verdict verify(const Example& written) const { return task(written.task).verify(own(written)); }
  /// The answer that the rounds give; <pad> where they give none.
  Token answer(const Example& written) const {
    const Token answer = task(written.task).answer(own(written));
    return answer < 0 ? Vocabulary::pad : to_joint(written.task, answer);
  }
  /// As people write it; a token of another task as it is spelled.
  std::string print(int i, const Tokens& tokens) const {
    if (single()) return task(0).print(tokens);
    Tokens own = tokens;
    if (own.size() > 1 && own.front() == dictionary(i).name) own.erase(own.begin());
    dictionary(i).translate_to_own(own);
    if (std::find(own.begin(), own.end(), foreign) != own.end()) return vocabulary_.spell(tokens);
    return task(i).print(own);
  }
  /// The problem that a person typed.
  Example parse(int i, std::string_view text) const { return joint(i, task(i).parse(text)); }
  /// The true rounds and answer of a problem.
  Example solve(const Example& problem) const {
    Example truth = joint(problem.task, task(problem.task).solve(own(problem).problem));
    truth.width = problem.width;
    return truth;
  }

  /// Where the tasks have the tokens of their rounds. The mixture must outlive it.
  class Placement {
   public:
    explicit Placement(const Mixture& mixture) : mixture_(&mixture) {}
    std::vector<Placed> place(const Example& example, int round) const {
      std::vector<Placed> placed;
      place(example, round, placed);
      return placed;
    }
    void place(const Example& example, int round, std::vector<Placed>& placed) const {
      const Mixture& m = *mixture_;
      const auto placement = m.task(example.task).placement();
      if (m.single()) return placement.place(example, round, placed);
      placement.place(m.with_one_round(example, round), round, placed);
      for (Placed& p : placed) p = {p.column + 1, m.dictionary(example.task).back(p.token)};
    }
    std::vector<int> columns(const Example& example, int round) const {
      const Mixture& m = *mixture_;
      const auto placement = m.task(example.task).placement();
      if (m.single()) return placement.columns(example, round);
      std::vector<int> columns = placement.columns(m.with_one_round(example, round), round);
      for (int& c : columns) ++c;
      return columns;
    }
    Tokens read(const Example& example, int round, std::span<const Token> row) const {
      const Mixture& m = *mixture_;
      const auto placement = m.task(example.task).placement();
      if (m.single()) return placement.read(example, round, row);
      const Dictionary& d = m.dictionary(example.task);
      Tokens own(row.begin() + 1, row.end());
      for (Token& t : own) t = d.numbered(t);
      Tokens tokens = placement.read(m.problem_alone(example), round, own);
      for (Token& t : tokens) t = d.back(t);
      return tokens;
    }

   private:
    const Mixture* mixture_;
  };
  Placement placement() const { return Placement(*this); }

 private:
  struct Dictionary {      // of a task's own tokens
    Token name;            // before its problems
    Tokens joint;          // of each own token, the mixture's
    Tokens own;            // of each token of the mixture, the task's own, or `foreign`
    void translate_to_own(Tokens& tokens) const {
      for (Token& t : tokens) t = own[static_cast<std::size_t>(t)];
    }
    /// As translated, but foreign tokens are numbered beyond the task's own, so that what was written is not lost; and the reverse.
    Token numbered(Token t) const {
      const Token translated = own[static_cast<std::size_t>(t)];
      return translated == foreign ? beyond() + t : translated;
    }
    Token back(Token t) const { return t >= beyond() ? t - beyond() : joint[static_cast<std::size_t>(t)]; }

   private:
    Token beyond() const { return static_cast<Token>(joint.size()); }
  };
  const Dictionary& dictionary(int i) const { return dictionaries_[static_cast<std::size_t>(i)]; }
  Token to_joint(int i, Token own) const { return single() ? own : dictionary(i).joint[static_cast<std::size_t>(own)]; }

  Tokens own_problem(const Example& example) const {
    Tokens problem(example.problem.begin() + 1, example.problem.end());
    dictionary(example.task).translate_to_own(problem);
    return problem;
  }
  Example problem_alone(const Example& example) const {
    Example own;
    own.length = example.length;
    own.iterations = example.iterations;
    own.width = example.width > 0 ? example.width - 1 : 0;
    own.problem = own_problem(example);
    return own;
  }

  Example with_one_round(const Example& example, int round) const {
    Example own = problem_alone(example);
    own.rounds.resize(static_cast<std::size_t>(round));
    own.rounds.back() = example.rounds[static_cast<std::size_t>(round - 1)];
    for (Token& t : own.rounds.back()) t = dictionary(example.task).numbered(t);
    return own;
  }

  /// Structure tokens in order of appearance, then values; the numbers, last, in order.
  static Vocabulary joint_vocabulary(const std::vector<AnyTask>& tasks) {
    require(!tasks.empty(), "a mixture needs at least one task");
    for (std::size_t i = 0; i < tasks.size(); ++i)
      for (std::size_t j = 0; j < i; ++j)
        require(tasks[i].name != tasks[j].name, "the task ", tasks[i].name, " is in the mixture twice: name each once");
    if (tasks.size() == 1) return tasks.front().vocabulary();
    std::vector<std::string> structure, values, numbers;
    const auto remember = [](std::vector<std::string>& list, const std::string& spelling) {
      if (std::find(list.begin(), list.end(), spelling) == list.end()) list.push_back(spelling);
    };
    for (const AnyTask& task : tasks) remember(structure, task_token(task.name));
    for (const AnyTask& task : tasks) {
      const Vocabulary own = task.vocabulary();
      for (Token t = Vocabulary::eos + 1; t < own.size(); ++t) {
        const std::string& spelling = own.spelling(t);
        remember(Vocabulary::number(spelling) ? numbers : own.is_value(t) ? values : structure, spelling);
      }
    }
    std::erase_if(structure, [&](const std::string& s) { return std::find(values.begin(), values.end(), s) != values.end(); });
    std::stable_sort(numbers.begin(), numbers.end(), [](const std::string& a, const std::string& b) {
      return *Vocabulary::number(a) < *Vocabulary::number(b);
    });
    values.insert(values.end(), numbers.begin(), numbers.end());
    return Vocabulary(structure, values);
  }

  std::vector<AnyTask> tasks_;
  Vocabulary vocabulary_;
  std::vector<Dictionary> dictionaries_;  // of each task; none for a single one
};

static_assert(ChainText<Mixture> && Placement<Mixture::Placement>);

}  // namespace relay
