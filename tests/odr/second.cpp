#include <relay/relay.hpp>

int second_below(int n) {
  relay::Random random(relay::Key(relay::Seed{1}));
  return random.below(n);
}

const void* second_philox() { return reinterpret_cast<const void*>(&relay::philox); }

std::string second_spelling(relay::Token token) { return relay::Vocabulary({"+"}, {"0"}).spelling(token); }
