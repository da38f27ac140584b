// Training and test problems that never meet: which side a problem is on follows from its tokens alone.
//
// A problem is held out for testing when a Philox hash of its tokens falls into the lowest sixteenth of the range. No
// list is kept, so any run, on any machine and with any seed, holds out the same problems. Short lengths have few
// problems. Where a length has none on the side asked for, `draw` gives one of the other side: there training and test
// data overlap by necessity.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <relay/core/random.hpp>
#include <relay/task/example.hpp>

namespace relay {

enum class Split { train, test, all };

/// Does the problem belong to the test data? True for one in sixteen.
constexpr bool held_out(const Tokens& problem) {
  Key key = Key(0x73706c6974).fold(problem.size());
  for (std::size_t i = 0; i < problem.size(); i += 4) {  // four tokens a block, the key chains the blocks
    std::array<std::uint32_t, 4> block{};
    for (std::size_t j = 0; j < 4 && i + j < problem.size(); ++j) block[j] = static_cast<std::uint32_t>(problem[i + j]);
    const auto r = philox(block, key.value);
    key = Key((std::uint64_t{r[1]} << 32) | r[0]);
  }
  return key.value >> 60 == 0;
}

/// An example of one side of the split, redrawn until it is: a pure function of the random stream. After 256 draws of
/// the other side the last is taken as it is (by bad luck alone this happens to a test example once in 10^7 draws).
/// A task that keeps its sides apart by itself has a `draw(length, random, split)` of its own.
template <Task T>
Example draw(const T& task, int length, Random& random, Split split) {
  if constexpr (requires { task.draw(length, random, split); }) {
    return task.draw(length, random, split);
  } else {
    constexpr int patience = 256;
    for (int i = 1;; ++i) {
      Example example = task.generate(length, random);
      if (split == Split::all || held_out(example.problem) == (split == Split::test) || i == patience) return example;
    }
  }
}

/// `count` examples of one length: a pure function of the key. A task that has only so many has an
/// `examples(length, count, key, split)` of its own.
template <Task T>
std::vector<Example> examples_of_length(const T& task, int length, int count, Key key, Split split) {
  if constexpr (requires { task.examples(length, count, key, split); }) {
    return task.examples(length, count, key, split);
  } else {
    std::vector<Example> examples;
    for (int i = 0; i < count; ++i) {
      Random random(key.fold(static_cast<std::uint64_t>(length)).fold(static_cast<std::uint64_t>(i)));
      examples.push_back(draw(task, length, random, split));
    }
    return examples;
  }
}

}  // namespace relay
