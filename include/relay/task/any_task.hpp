// AnyTask: a ReasoningTask of any type, by value, so that tasks of different types stand side by side in a mixture and the
// pipeline is compiled once for all of them. Tasks are values that nobody changes, so copies share what they hold.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <relay/task/example.hpp>
#include <relay/task/placement.hpp>
#include <relay/task/split.hpp>

namespace relay {

class AnyTask {
  struct Interface {
    virtual ~Interface() = default;
    virtual std::string_view name() const = 0;
    virtual Vocabulary vocabulary() const = 0;
    virtual Example generate(int length, Random& random) const = 0;
    virtual std::vector<int> lengths() const = 0;
    virtual Example draw(int length, Random& random, Split split) const = 0;
    virtual std::vector<Example> examples(int length, int count, Key key, Split split) const = 0;
    virtual void text(const Example& example, Tokens& out) const = 0;
    virtual std::size_t text_size(const Example& example) const = 0;
    virtual Example read(const Example& problem, const Tokens& text) const = 0;
    virtual Example parse(std::string_view text) const = 0;
    virtual Example solve(const Tokens& problem) const = 0;
    virtual Verdict verify(const Example& written) const = 0;
    virtual Token answer(const Example& written) const = 0;
    virtual std::string print(const Tokens& tokens) const = 0;
    virtual Example largest(int length) const = 0;
    virtual std::string options() const = 0;
    virtual void place(const Example& example, int round, std::vector<Placed>& placed) const = 0;
    virtual Tokens read_row(const Example& example, int round, std::span<const Token> row) const = 0;
    virtual std::vector<int> columns(const Example& example, int round) const = 0;
  };

  template <ReasoningTask T>
  struct Held final : Interface {
    T task;
    decltype(std::declval<const T&>().placement()) placement;

    explicit Held(T t) : task(std::move(t)), placement(task.placement()) {}
    std::string_view name() const override { return task.name; }
    Vocabulary vocabulary() const override { return task.vocabulary(); }
    Example generate(int length, Random& random) const override { return task.generate(length, random); }
    std::vector<int> lengths() const override {
      if constexpr (requires { task.lengths(); })
        return task.lengths();
      else
        return {};
    }
    Example draw(int length, Random& random, Split split) const override { return relay::draw(task, length, random, split); }
    std::vector<Example> examples(int length, int count, Key key, Split split) const override {
      return examples_of_length(task, length, count, key, split);
    }
    void text(const Example& example, Tokens& out) const override { task.text(example, out); }
    std::size_t text_size(const Example& example) const override { return task.text_size(example); }
    Example read(const Example& problem, const Tokens& text) const override { return task.read(problem, text); }
    Example parse(std::string_view text) const override { return task.parse(text); }
    Example solve(const Tokens& problem) const override { return task.solve(problem); }
    Verdict verify(const Example& written) const override { return task.verify(written); }
    Token answer(const Example& written) const override { return task.answer(written); }
    std::string print(const Tokens& tokens) const override { return task.print(tokens); }
    Example largest(int length) const override { return task.largest(length); }
    std::string options() const override { return task.options(); }
    void place(const Example& example, int round, std::vector<Placed>& placed) const override {
      if constexpr (requires { placement.place(example, round, placed); })
        placement.place(example, round, placed);
      else
        placed = placement.place(example, round);
    }
    Tokens read_row(const Example& example, int round, std::span<const Token> row) const override {
      return placement.read(example, round, row);
    }
    std::vector<int> columns(const Example& example, int round) const override { return placement.columns(example, round); }
  };

 public:
  /// Where a held task has the tokens of its rounds.
  class Placement {
   public:
    explicit Placement(std::shared_ptr<const Interface> held) : held_(std::move(held)) {}
    std::vector<Placed> place(const Example& example, int round) const {
      std::vector<Placed> placed;
      place(example, round, placed);
      return placed;
    }
    void place(const Example& example, int round, std::vector<Placed>& placed) const { held_->place(example, round, placed); }
    Tokens read(const Example& example, int round, std::span<const Token> row) const { return held_->read_row(example, round, row); }
    std::vector<int> columns(const Example& example, int round) const { return held_->columns(example, round); }

   private:
    std::shared_ptr<const Interface> held_;
  };

  template <ReasoningTask T>
    requires(!std::same_as<T, AnyTask>)
  AnyTask(T task) : name(task.name), held_(std::make_shared<const Held<T>>(std::move(task))) {}

  std::string name;

  Vocabulary vocabulary() const { return held_->vocabulary(); }
  Example generate(int length, Random& random) const { return held_->generate(length, random); }
  /// The lengths that can be drawn, ascending, of a task that has `lengths()` because it has not all; else none.
  std::vector<int> lengths() const { return held_->lengths(); }
  Example draw(int length, Random& random, Split split) const { return held_->draw(length, random, split); }
  std::vector<Example> examples(int length, int count, Key key, Split split) const { return held_->examples(length, count, key, split); }
  Tokens text(const Example& example) const {
    Tokens out;
    text(example, out);
    return out;
  }
  void text(const Example& example, Tokens& out) const { held_->text(example, out); }
  std::size_t text_size(const Example& example) const { return held_->text_size(example); }
  Example read(const Example& problem, const Tokens& text) const { return held_->read(problem, text); }
  Example parse(std::string_view text) const { return held_->parse(text); }
  Example solve(const Tokens& problem) const { return held_->solve(problem); }
  Verdict verify(const Example& written) const { return held_->verify(written); }
  Token answer(const Example& written) const { return held_->answer(written); }
  std::string print(const Tokens& tokens) const { return held_->print(tokens); }
  Example largest(int length) const { return held_->largest(length); }
  std::string options() const { return held_->options(); }
  Placement placement() const { return Placement(held_); }

 private:
  std::shared_ptr<const Interface> held_;
};

static_assert(ReasoningTask<AnyTask> && Placement<AnyTask::Placement>);

}  // namespace relay
