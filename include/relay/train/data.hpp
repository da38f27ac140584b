// Training data made as it is needed: the batch of a step is a pure function of (seed, step), so the position in the data is
// the step's number, and no example need ever repeat.
#pragma once

#include <cmath>
#include <vector>

#include <relay/task/split.hpp>

namespace relay {

/// How often each length is drawn: P(length) ~ length^power, shortest .. longest. The paper: power 1.
struct Lengths {
  int shortest = 1, longest = 6;
  double power = 1;

  int operator()(Random& random) const {
    double total = 0;
    for (int n = shortest; n <= longest; ++n) total += std::pow(n, power);
    double left = random.uniform() * total;
    for (int n = shortest; n < longest; ++n)
      if ((left -= std::pow(n, power)) < 0) return n;
    return longest;
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

/// A stream in which each example is, with probability `share`, replaced by one of `others`: the merged data of fine-tuning.
template <Task T>
class MergedStream {
 public:
  MergedStream(ExampleStream<T> stream, std::vector<Example> others, double share, Key key)
      : stream_(std::move(stream)), others_(std::move(others)), share_(share), key_(key) {
    require(!others_.empty() || share_ == 0, "there are no examples to merge in");
  }

  std::vector<Example> operator()(int step) const {
    std::vector<Example> examples = stream_(step);
    Random random(key_.fold(static_cast<std::uint64_t>(step)));
    for (Example& example : examples)
      if (random.uniform() < share_)
        example = others_[static_cast<std::size_t>(random.below(static_cast<int>(others_.size())))];
    return examples;
  }

 private:
  ExampleStream<T> stream_;
  std::vector<Example> others_;
  double share_;
  Key key_;
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

/// `count` examples of one length: a pure function of the key.
template <Task T>
std::vector<Example> examples_of_length(const T& task, int length, int count, Key key, Split split) {
  std::vector<Example> examples;
  for (int i = 0; i < count; ++i) {
    Random random(key.fold(static_cast<std::uint64_t>(length)).fold(static_cast<std::uint64_t>(i)));
    examples.push_back(draw(task, length, random, split));
  }
  return examples;
}

}  // namespace relay
