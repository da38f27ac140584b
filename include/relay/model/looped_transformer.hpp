// LoopedTransformer: tokens -> embedding -> one block, T times -> a chain head on every iteration's state, an answer head on
// the last. The chain head reads whole rounds, in parallel; the answer head the last column.
//
// The block is any Block; by default the paper's: a stack of bidirectional transformer blocks.
#pragma once

#include <relay/backend/backend.hpp>
#include <relay/layer/embedding.hpp>
#include <relay/layer/looped.hpp>
#include <relay/layer/transformer_block.hpp>

namespace relay {

template <class B, Block BlockT = Stack<TransformerBlock<B>>, int Iterations = dynamic_iterations>
struct LoopedTransformer {
  static_assert(ComputeBackend<B>, "relay: a Backend lacks a type or function that backend/backend.hpp lists");
  using Backend = B;
  using Loop = Looped<BlockT, Iterations>;

  Embedding<B> embedding;
  Loop loop;
  Linear<B> chain_head, answer_head;

  LoopedTransformer(const TransformerConfig& config, const LoopConfig& loop_config, int vocabulary, Seed seed,
                    typename B::Device device = {})
    requires std::same_as<BlockT, Stack<TransformerBlock<B>>>
      : LoopedTransformer(transformer_stack<B>(config, Mask::none, Key(seed).fold(1), device), config.width, loop_config,
                          vocabulary, seed, device) {}

  /// Of a block of one's own.
  LoopedTransformer(BlockT block, int width, const LoopConfig& loop_config, int vocabulary, Seed seed,
                    typename B::Device device = {})
      : embedding(vocabulary, width, Key(seed).fold(0), device),
        loop(std::move(block), width, loop_config, device),
        chain_head(width, vocabulary, Key(seed).fold(2), device),
        answer_head(width, vocabulary, Key(seed).fold(3), device) {}

  static void each(auto&& visit, auto&... model) {
    visit("embedding", model.embedding...);
    visit("loop", model.loop...);
    visit("chain_head", model.chain_head...);
    visit("answer_head", model.answer_head...);
  }
};

}  // namespace relay
