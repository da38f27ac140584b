// Two translation units, each with all of relay: a function or variable defined in a header without `inline` shows here
// as a duplicate symbol, and one with internal linkage as two answers.
#include <relay/relay.hpp>

#include <cstdio>

int second_below(int n);
const void* second_philox();
std::string second_spelling(relay::Token token);

int main() {
  relay::Random random(relay::Key(relay::Seed{1}));
  const bool same_numbers = random.below(1000) == second_below(1000);
  const bool same_function = reinterpret_cast<const void*>(&relay::philox) == second_philox();
  const bool same_spelling = relay::Vocabulary({"+"}, {"0"}).spelling(3) == second_spelling(3);
  std::printf("numbers %d, function %d, spelling %d\n", same_numbers, same_function, same_spelling);
  return same_numbers && same_function && same_spelling ? 0 : 1;
}
