// The pipeline takes tasks that can judge a chain: the message names the concept and what is missing.
// expect: ReasoningTask
// expect: task.verify(example)
// expect: task.placement()
#include <relay/task/mixture.hpp>

struct Credulous {
  static constexpr const char* name = "credulous";
  relay::Vocabulary vocabulary() const { return {{}, {"0", "1"}}; }
  relay::Example generate(int, relay::Random&) const { return {}; }
  relay::Tokens text(const relay::Example&) const { return {}; }
  void text(const relay::Example&, relay::Tokens&) const {}
  std::size_t text_size(const relay::Example&) const { return 0; }
  relay::Example read(const relay::Example& problem, const relay::Tokens&) const { return problem; }
  relay::Example parse(std::string_view) const { return {}; }
  relay::Example solve(const relay::Tokens&) const { return {}; }
  relay::Token answer(const relay::Example&) const { return 0; }
  std::string print(const relay::Tokens&) const { return {}; }
  relay::Example largest(int) const { return {}; }
  std::string options() const { return {}; }
};

void pipeline(const relay::ReasoningTask auto&) {}

int main() { pipeline(Credulous{}); }
