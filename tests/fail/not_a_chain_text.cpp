// What cannot write its chains is no ChainText, and so no Task: the message names both and what is missing.
// expect: ChainText
// expect: task.text(example)
// expect: task.read(example, tokens)
#include <relay/task/example.hpp>

struct Speechless {
  static constexpr const char* name = "speechless";
  relay::Vocabulary vocabulary() const { return {{}, {"0", "1"}}; }
  relay::Example generate(int, relay::Random&) const { return {}; }
};

void learn(const relay::Task auto&) {}

int main() { learn(Speechless{}); }
