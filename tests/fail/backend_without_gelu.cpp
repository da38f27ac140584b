// expect: relay: a Backend lacks a type or function that backend/backend.hpp lists
// A backend of one's own that forgot an operation.
#include <relay/relay.hpp>

struct Mine : relay::Cpu<float> {
  static void gelu(const Tensor&, Tensor&) = delete;
};

int main() { relay::CausalTransformer<Mine> model({.width = 8, .heads = 2}, 10, relay::Seed{1}); }
