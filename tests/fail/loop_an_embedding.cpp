// An embedding turns tokens into rows: its output cannot be its input again.
// expect: relay: only a Block can be looped: a Layer whose Output is the same type as its Input
#include <relay/backend/cpu.hpp>
#include <relay/layer/embedding.hpp>
#include <relay/layer/looped.hpp>

int main() {
  using B = relay::Cpu<float>;
  relay::Looped loop(relay::Embedding<B>(10, 4, relay::Key(1)), 4);
}
