#include <relay/relay.hpp>

#include <cstdio>

int main() {
  const relay::Vocabulary vocabulary({"+", "="}, {"0", "1", "2"});
  relay::Random random(relay::Key(relay::Seed{7}));
  const relay::Tokens tokens{vocabulary.first_value() + random.below(3), vocabulary.token("+"), vocabulary.token("2")};
  std::printf("relay writes %s\n", vocabulary.spell(tokens).c_str());
}
