// x + f(x) needs a block.
// expect: relay: x + f(x) needs a Block: a Layer whose Output is the same type as its Input
#include <relay/backend/cpu.hpp>
#include <relay/layer/embedding.hpp>
#include <relay/layer/residual.hpp>

int main() { relay::Residual layer(relay::Embedding<relay::Cpu<float>>(10, 4, relay::Key(1))); }
