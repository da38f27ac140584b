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

/// Feeds back what the chain head reads in y: the expected embedding of its tokens, s = softmax(y W^T + b) E. All the state's continuity
/// is then the written round, and whatever else the model needs it must find in the injected problem (LoopConfig::inject).
template <class B>
class Reembedding {
 public:
  using Tensor = typename B::Tensor;

  Reembedding(bool active, const Linear<B>& head, const Embedding<B>& embedding, Linear<B>* dhead = nullptr,
              Embedding<B>* dembedding = nullptr)
      : active_(active), head_(&head), embedding_(&embedding), dhead_(dhead), dembedding_(dembedding) {}

  bool active() const { return active_; }

  void forward(const Tensor& y, int rows, Tensor& s) {
    read(y, rows);
    B::product_backward(probability_, embedding_->weight, s);  // s = p E
  }

  /// p is made again: cheaper than kept for every iteration.
  void backward(const Tensor& y, const Tensor& ds, Tensor& dy) {
    if (ds.rows() == 0) return;
    read(y, ds.rows());
    B::add_outer_product(probability_, ds, dembedding_->weight);  // dE += p^T ds
    B::product(ds, embedding_->weight, dlogits_);                 // dp = ds E^T
    B::softmax_backward(probability_, dlogits_);
    B::logits_backward(first_, head_->weight, dlogits_, dfirst_, dhead_->weight, dhead_->bias);
    B::add(dfirst_, dy);
  }

 private:
  void read(const Tensor& y, int rows) {
    B::copy_first(y, rows, first_);
    B::logits(first_, head_->weight, head_->bias, probability_);
    B::softmax(probability_);
  }

  bool active_;
  const Linear<B>* head_;
  const Embedding<B>* embedding_;
  Linear<B>* dhead_;
  Embedding<B>* dembedding_;
  Tensor first_, probability_, dlogits_, dfirst_;
};

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

  /// What is fed back from iteration to iteration, where the loop is to read again what it wrote.
  Reembedding<B> feedback() const { return {loop.config().reembed, chain_head, embedding}; }
  Reembedding<B> feedback(LoopedTransformer& grad) const {
    return {loop.config().reembed, chain_head, embedding, &grad.chain_head, &grad.embedding};
  }

  static void each(auto&& visit, auto&... model) {
    visit("embedding", model.embedding...);
    visit("loop", model.loop...);
    visit("chain_head", model.chain_head...);
    visit("answer_head", model.answer_head...);
  }
};

}  // namespace relay
