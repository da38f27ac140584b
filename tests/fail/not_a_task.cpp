// A type that cannot generate examples is no Task: the message names the concept and what is missing.
// expect: Task
// expect: task.generate(1, random)
#include <relay/task/example.hpp>

struct Silent {
  static constexpr const char* name = "silent";
  relay::Vocabulary vocabulary() const { return {{}, {"0", "1"}}; }
  relay::Tokens text(const relay::Example&) const { return {}; }
  relay::Example read(const relay::Example& problem, const relay::Tokens&) const { return problem; }
};

void learn(const relay::Task auto&) {}

int main() { learn(Silent{}); }
