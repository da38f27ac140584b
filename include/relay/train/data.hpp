// Training data made as it is needed: the batch of a step is a pure function of (seed, step), so the position in the data is
// the step's number, and no example need ever repeat.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include <relay/task/mixture.hpp>
#include <relay/task/split.hpp>

namespace relay {

/// How often each length is drawn: P(length) ~ length^power, shortest .. longest. The paper: power 1.
struct Lengths {
  int shortest = 1, longest = 6;
  double power = 1;
  std::vector<int> known{};  // ascending: no others are drawn; none: all

  /// A range that has none of the known lengths gives the shortest of them.
  int operator()(Random& random) const {
    double total = 0;
    each([&](int n) { total += std::pow(n, power); return true; });
    double left = random.uniform() * total;
    int drawn = known.empty() ? longest : known.front();
    each([&](int n) { return drawn = n, (left -= std::pow(n, power)) >= 0; });
    return drawn;
  }

 private:
  /// In order, as long as f says so.
  void each(auto&& f) const {
    if (known.empty())
      for (int n = shortest; n <= longest && f(n); ++n) {}
    for (const int n : known)
      if (n >= shortest && (n > longest || !f(n))) return;
  }
};

/// Training examples of a task. Problems that belong to the test data are never drawn, but for lengths below `split_from`,
/// which have too few problems to hold any out.
template <Task T>
class ExampleStream {
 public:
  ExampleStream(T task, Lengths lengths, int batch, Key key, int split_from = 3)
      : task_(std::move(task)), lengths_(lengths), batch_(batch), key_(key), split_from_(split_from) {
    require(batch >= 1, "a batch needs at least one example, not ", batch);
    require(lengths.shortest >= 1 && lengths.shortest <= lengths.longest, "lengths ", lengths.shortest, "..", lengths.longest,
            " are not a range of positive lengths");
  }

  /// The batch of step 0, 1, ...
  std::vector<Example> operator()(int step) const {
    const Key key = key_.fold(static_cast<std::uint64_t>(step));
    std::vector<Example> examples;
    for (int i = 0; i < batch_; ++i) {
      Random random(key.fold(static_cast<std::uint64_t>(i)));
      const int length = lengths_(random);
      examples.push_back(draw(task_, length, random, split_of(length, split_from_, Split::train)));
    }
    return examples;
  }

  static Split split_of(int length, int split_from, Split wanted) { return length >= split_from ? wanted : Split::all; }

 private:
  T task_;
  Lengths lengths_;
  int batch_;
  Key key_;
  int split_from_;
};

/// How a task of a mixture is trained.
struct TaskShare {
  Lengths lengths;
  double share = 1;    // how often it is drawn, among those of all tasks
  double weight = 1;   // of its examples' losses
  int split_from = 3;  // shorter problems are too few to hold any out
  int curriculum = 0;  // steps over which the longest length drawn grows from the shortest to all; 0: all from the beginning

  /// What is drawn at a step.
  Lengths at(int step) const {
    Lengths drawn = lengths;
    if (step < curriculum)
      drawn.longest = lengths.shortest + static_cast<int>((lengths.longest - lengths.shortest + 1L) * step / curriculum);
    return drawn;
  }
};

/// Training examples of all tasks of a mixture. The mixture must outlive the stream.
class MixtureStream {
 public:
  MixtureStream(const Mixture& mixture, std::vector<TaskShare> shares, int batch, Key key)
      : mixture_(&mixture), shares_(std::move(shares)), batch_(batch), key_(key) {
    require(static_cast<int>(shares_.size()) == mixture.size(), "a mixture of ", mixture.size(), " tasks was given ", shares_.size(),
            " shares: give one each");
    require(batch >= 1, "a batch needs at least one example, not ", batch);
    for (const TaskShare& s : shares_) total_ += s.share;
  }

  /// The batch of step 0, 1, ...
  std::vector<Example> operator()(int step) const {
    const Key key = key_.fold(static_cast<std::uint64_t>(step));
    std::vector<Example> examples;
    for (int i = 0; i < batch_; ++i) {
      Random random(key.fold(static_cast<std::uint64_t>(i)));
      const int task = mixture_->single() ? 0 : draw_task(random);
      const TaskShare& share = shares_[static_cast<std::size_t>(task)];
      const int length = share.at(step)(random);
      examples.push_back(mixture_->draw(task, length, random, length >= share.split_from ? Split::train : Split::all));
      examples.back().weight = share.weight;
    }
    return examples;
  }

 private:
  int draw_task(Random& random) const {
    double left = random.uniform() * total_;
    for (int i = 0; i + 1 < mixture_->size(); ++i)
      if ((left -= shares_[static_cast<std::size_t>(i)].share) < 0) return i;
    return mixture_->size() - 1;
  }

  const Mixture* mixture_;
  std::vector<TaskShare> shares_;
  int batch_;
  Key key_;
  double total_ = 0;
};

/// A stream in which each example is, with probability `share`, replaced by one of `others`: the merged data of fine-tuning.
/// Of a mixture's tasks each keeps its share: an example makes way for one of its own task alone, and stays where there is none.
template <class Stream>
class MergedStream {
 public:
  /// What becomes of the drawn ones of a batch, e.g. a solver's chains for them; for none, the example stays that stood there.
  using Finish = std::function<std::vector<std::optional<Example>>(std::span<const Example>)>;

  MergedStream(Stream stream, const std::vector<Example>& others, double share, Key key)
      : MergedStream(std::move(stream), others, std::vector<double>{share}, key) {}

  /// `shares`: of each task, or one for all.
  MergedStream(Stream stream, const std::vector<Example>& others, std::vector<double> shares, Key key, Finish finish = {})
      : stream_(std::move(stream)), shares_(std::move(shares)), key_(key), finish_(std::move(finish)) {
    for (const Example& e : others) {
      const auto task = static_cast<std::size_t>(e.task);
      if (others_.size() <= task) others_.resize(task + 1);
      others_[task].push_back(e);
    }
    require(!others.empty() || std::all_of(shares_.begin(), shares_.end(), [](double share) { return share == 0; }),
            "there are no examples to merge in");
    require(shares_.size() == 1 || shares_.size() >= others_.size(), "there are ", shares_.size(),
            " shares of others, but more tasks: give one each");
  }

  /// Finishing is work for all threads, and is not done beside a training step.
  bool uses_threads() const { return static_cast<bool>(finish_); }

  std::vector<Example> operator()(int step) const {
    std::vector<Example> examples = stream_(step), drawn;
    std::vector<std::size_t> places;
    Random random(key_.fold(static_cast<std::uint64_t>(step)));
    for (std::size_t i = 0; i < examples.size(); ++i) {
      const auto task = static_cast<std::size_t>(examples[i].task);
      const double place = random.uniform();
      if (task >= others_.size() || place >= share(task)) continue;
      const std::vector<Example>& own = others_[task];
      if (own.empty()) continue;
      places.push_back(i);
      drawn.push_back(own[static_cast<std::size_t>(random.below(static_cast<int>(own.size())))]);
    }
    if (!finish_) {
      for (std::size_t i = 0; i < places.size(); ++i) examples[places[i]] = std::move(drawn[i]);
    } else if (!drawn.empty()) {
      std::vector<std::optional<Example>> finished = finish_(drawn);
      for (std::size_t i = 0; i < places.size(); ++i)
        if (finished[i]) examples[places[i]] = std::move(*finished[i]);
    }
    return examples;
  }

 private:
  double share(std::size_t task) const { return shares_.size() == 1 ? shares_.front() : shares_[task]; }

  Stream stream_;
  std::vector<std::vector<Example>> others_;  // by task
  std::vector<double> shares_;
  Key key_;
  Finish finish_;
};

/// A stream whose rows are made up to `columns` columns wider than their problem, each by a number of its own: pads to the left,
/// which a looped model sees but is asked nothing about. After many rounds on a long problem most of the row are pads; a
/// model that has seen such rows before goes on further.
template <class Stream>
class WidenedStream {
 public:
  WidenedStream(Stream stream, int columns, Key key) : stream_(std::move(stream)), columns_(columns), key_(key) {
    require(columns >= 0, "rows cannot be made ", columns, " columns wider: give 0 or more");
  }

  std::vector<Example> operator()(int step) const {
    std::vector<Example> examples = stream_(step);
    Random random(key_.fold(static_cast<std::uint64_t>(step)));
    for (Example& example : examples) example.width = example.columns() + random.below(columns_ + 1);
    return examples;
  }

 private:
  Stream stream_;
  int columns_;
  Key key_;
};

}  // namespace relay
