// Greedy generation with a key-value cache, for many prompts at once.
//
// A step computes one ragged batch: the newest token of every running sequence, and the whole prompt of every sequence that
// starts (its prefill). A finished sequence leaves the batch, and its slot of the cache goes to the next waiting prompt.
// A sequence is finished when it stops, has written enough, or is as long as the model can read; none of this depends on
// the others.
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include <relay/model/causal_transformer.hpp>

namespace relay {

struct GenerateConfig {
  std::optional<int> batch = {};  // sequences at once: slots of the cache; without one, as many as the backend is fastest with
  int new_tokens = 512;           // at most so many for one prompt
  std::int32_t stop = 2;          // the token that ends a sequence, not part of the result (<eos>)
};

/// The keys and values of every layer for a fixed number of slots.
template <class B>
class KvCache {
 public:
  KvCache(const CausalTransformer<B>& model, int slots, int positions, typename B::Device device = {}) {
    for (const auto& layer : model.body.layers) layers_.push_back(layer.attention.cache(slots, positions, device));
  }

  /// The keys and values of a sequence of so many positions.
  static long elements(const CausalTransformer<B>& model, int positions) {
    return 2L * static_cast<long>(model.body.layers.size()) * positions * model.head.inputs();
  }

  /// Runs rows that continue slot slots[s] at position starts[s] and returns the normalised states [rows, width].
  const typename B::Tensor& extend(const CausalTransformer<B>& model, const typename B::Indices& tokens, const Rows<B>& rows,
                                   const typename B::Indices& slots, const typename B::Indices& starts) {
    const auto* h = &model.embedding.forward(tokens, rows, embedded_);
    for (std::size_t i = 0; i < layers_.size(); ++i)
      h = &model.body.layers[i].extend(*h, rows, slots, starts, layers_[i], trace_);
    return model.norm.forward(*h, rows, normal_);
  }

 private:
  std::vector<typename TransformerBlock<B>::Cache> layers_;
  typename Embedding<B>::Trace embedded_;
  typename TransformerBlock<B>::Trace trace_;
  typename LayerNorm<B>::Trace normal_;
};

/// Continues each prompt with the most probable tokens until `stop`, `new_tokens`, or the model's limit of positions for
/// prompt and text together. `stopped`, if given, is filled with whether it was `stop` that ended each text,
/// `probabilities` with what the model gave to each of its tokens, and last to `stop`, where that ended it.
template <class B>
std::vector<std::vector<std::int32_t>> generate(const CausalTransformer<B>& model,
                                                std::span<const std::vector<std::int32_t>> prompts,
                                                const GenerateConfig& config = {}, typename B::Device device = {},
                                                std::vector<bool>* stopped = nullptr,
                                                std::vector<std::vector<double>>* probabilities = nullptr) {
  using Index = std::int32_t;
  require(config.batch.value_or(1) > 0 && config.new_tokens > 0, "generation needs a positive batch and number of new tokens, not ",
          config.batch.value_or(1), " and ", config.new_tokens);
  std::vector<std::vector<Index>> written(prompts.size());
  if (stopped) stopped->assign(prompts.size(), false);
  if (probabilities) probabilities->assign(prompts.size(), {});
  const int positions = model.positions();
  std::size_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    require(prompts[i].size() < static_cast<std::size_t>(positions), "prompt ", i, " of ", prompts[i].size(),
            " tokens leaves the model no room: its limit is ", positions, " tokens, prompt and text together: shorten the prompt, ",
            "or build the model with more positions");
    longest = std::max(longest, prompts[i].size());
  }
  if (prompts.empty()) return written;
  const int most = static_cast<int>(std::min<long>(static_cast<long>(longest) + config.new_tokens, positions));  // tokens of a sequence
  const int at_once = config.batch.value_or(B::sequences_at_once(KvCache<B>::elements(model, most), device));
  const int slots = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(at_once), prompts.size()));
  KvCache<B> cache(model, slots, most, device);

  struct Running {
    std::size_t prompt;
    Index slot, position;  // position: tokens in the cache
  };
  std::vector<Running> running;
  std::vector<Index> free;
  for (Index slot = slots; slot-- > 0;) free.push_back(slot);
  std::size_t next = 0;
  typename B::Tensor last, logits;
  std::vector<Index> best;
  std::vector<double> probability;

  while (next < prompts.size() || !running.empty()) {
    for (; next < prompts.size() && !free.empty(); ++next) {
      require(!prompts[next].empty(), "prompt ", next, " is empty: generation continues at least one token");
      running.push_back({next, free.back(), 0});
      free.pop_back();
    }
    std::vector<Index> tokens, slot, start, ends;
    std::vector<int> lengths;
    for (const Running& r : running) {
      const auto& prompt = prompts[r.prompt];
      if (r.position == 0)
        tokens.insert(tokens.end(), prompt.begin(), prompt.end());
      else
        tokens.push_back(written[r.prompt].back());
      lengths.push_back(r.position == 0 ? static_cast<int>(prompt.size()) : 1);
      slot.push_back(r.slot);
      start.push_back(r.position);
      ends.push_back(static_cast<Index>(tokens.size()) - 1);
    }
    const Ragged<B> batch(lengths, device);
    const auto& states = cache.extend(model, B::indices(tokens, device), Rows<B>(batch).forward_only(), B::indices(slot, device),
                                      B::indices(start, device));
    last.resize_like(states, static_cast<int>(ends.size()), states.cols());
    B::gather_rows(states, B::indices(ends, device), 0, last);
    B::logits(last, model.head.weight, model.head.bias, logits);
    B::argmax(logits, best, probability);

    std::vector<Running> still;
    for (std::size_t i = 0; i < running.size(); ++i) {
      Running r = running[i];
      r.position += lengths[i];
      auto& out = written[r.prompt];
      const bool stops = best[i] == config.stop, full = r.position == positions;
      if (!stops && !full) out.push_back(best[i]);  // full: the last position read may still say `stop`
      if (stops && stopped) (*stopped)[r.prompt] = true;
      if (probabilities && (stops || !full)) (*probabilities)[r.prompt].push_back(probability[i]);
      if (stops || full || static_cast<int>(out.size()) == config.new_tokens)
        free.push_back(r.slot);
      else
        still.push_back(r);
    }
    running.swap(still);
  }
  return written;
}

}  // namespace relay
