// Greedy generation with a key-value cache, for many prompts at once.
//
// Prompts that start are computed in one pass, the whole of each (their prefill); then a step adds one token to every running sequence. A
// finished sequence leaves the batch, and its slot of the cache goes to the next waiting prompt: at once, or, where steps repeat themselves
// (Backend::repeats), with some others. A sequence is finished when it stops, has written enough, or is as long as the model can read; none
// of this depends on the others.
#pragma once

#include <algorithm>
#include <numeric>
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
  /// What lies between the layers.
  struct Workspace {
    typename Embedding<B>::Trace embedded;
    typename TransformerBlock<B>::Trace block;
    typename LayerNorm<B>::Trace normal;
    typename B::Tensor table;             // of the embedding
    typename Linear<B>::Trace looked_up;  // queries, keys and values of each token in the first block, if it looks them up
    bool looks_up = false;

    /// From now on what the first block does with a token before its attention is looked up: worth it for many more tokens than the vocabulary
    /// has. The model must stay as it is. `rows`: any of the device's.
    void look_up(const CausalTransformer<B>& model, const Rows<B>& rows) {
      model.embedding.copy_table(rows.batch().device(), table);
      model.body.layers.front().before_attention(table, rows, block.norm1, looked_up);
      looks_up = true;
    }
  };

  KvCache(const CausalTransformer<B>& model, int slots, int positions, typename B::Device device = {}) {
    for (const auto& layer : model.body.layers) layers_.push_back(layer.attention.cache(slots, positions, device));
  }

  /// The keys and values of a sequence of so many positions.
  static long elements(const CausalTransformer<B>& model, int positions) {
    return 2L * static_cast<long>(model.body.layers.size()) * positions * model.head.inputs();
  }

  /// Runs rows that continue slot slots[s] at position starts[s] and returns the normalised states [rows, width].
  const typename B::Tensor& extend(const CausalTransformer<B>& model, const typename B::Indices& tokens, const Rows<B>& rows,
                                   const typename B::Indices& slots, const typename B::Indices& starts, Workspace& w) {
    const auto& layers = model.body.layers;
    const auto* h = &model.embedding.forward(tokens, rows, w.embedded);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      const auto next = i + 1 < layers.size() ? layers[i + 1].place_first_norm(w.block) : NextNorm<B>{&model.norm, &w.normal};
      h = i == 0 && w.looks_up ? &layers[i].extend(*h, Lookup<B>{&w.looked_up.y, &tokens}, rows, slots, starts, layers_[i], w.block, next)
                               : &layers[i].extend(*h, rows, slots, starts, layers_[i], w.block, next, i > 0);
    }
    return w.normal.y;
  }

 private:
  std::vector<typename TransformerBlock<B>::Cache> layers_;
};

/// One pass of the model over new tokens of some sequences. It is used again and again, and keeps its memory.
template <class B>
class Extension {
 public:
  using Index = std::int32_t;

  explicit Extension(typename B::Device device) : device_(device), batch_({}, device) {}

  void clear() {
    for (auto* list : {&tokens_, &slots_, &starts_, &ends_}) list->clear();
    lengths_.clear();
  }
  bool empty() const { return lengths_.empty(); }
  int sequences() const { return static_cast<int>(lengths_.size()); }
  /// New tokens of the sequence in a slot, which has so many already.
  void add(std::span<const Index> tokens, Index slot, Index start) {
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
    lengths_.push_back(static_cast<int>(tokens.size()));
    slots_.push_back(slot);
    starts_.push_back(start);
    ends_.push_back(static_cast<Index>(tokens_.size()) - 1);
  }

  /// As KvCache::Workspace.
  void look_up(const CausalTransformer<B>& model) { workspace_.look_up(model, batch_); }

  /// The most probable token after each sequence, and its probability.
  void run(const CausalTransformer<B>& model, KvCache<B>& cache, std::vector<Index>& best, std::vector<double>& probability) {
    to_device();
    compute(model, cache);
    B::argmax(logits_, best, probability);
  }

  /// The same where the backend repeats, one new token each: begin() has the device do it, again() do it some more times with the tokens that
  /// it found, without the host, and read() waits for what was found, of all sequences, time after time. again() may come before the last is
  /// read, not earlier.
  void begin(const CausalTransformer<B>& model, KvCache<B>& cache) {
    to_device();
    again(model, cache, 1);
  }
  static constexpr int most_times = 2;  // there is a pause of the device between again() and again()
  void again(const CausalTransformer<B>& model, KvCache<B>& cache, int times) {
    B::repeat(repeated_, sequences(), times, device_, [&] {
      found_.resize(most_times * sequences(), 2, device_);
      for (int i = 0; i < times; ++i) {
        compute(model, cache);
        B::choose(logits_, i * sequences(), found_, tokens_on_device_, starts_on_device_);
      }
    });
    answers_.begin(found_, times * sequences());
  }
  void read(std::vector<Index>& best, std::vector<double>& probability) { answers_.read(best, probability); }

 private:
  /// What has not changed is there already.
  void to_device() {
    if (lengths_ != lengths_on_device_) {
      batch_.assign(lengths_);
      lengths_on_device_ = lengths_;
    }
    B::indices_to(tokens_, device_, tokens_on_device_);
    B::indices_to(slots_, device_, slots_on_device_);
    B::indices_to(starts_, device_, starts_on_device_);
    if (batch_.longest() > 1) B::indices_to(ends_, device_, ends_on_device_);
  }
  void compute(const CausalTransformer<B>& model, KvCache<B>& cache) {
    const auto* last =
        &cache.extend(model, tokens_on_device_, Rows<B>(batch_).forward_only(), slots_on_device_, starts_on_device_, workspace_);
    if (batch_.longest() > 1) {
      last_.resize_like(*last, sequences(), last->cols());
      B::gather_rows(*last, ends_on_device_, 0, last_);
      last = &last_;
    }
    B::logits(*last, model.head.weight, model.head.bias, logits_);
  }

  typename B::Device device_;
  std::vector<Index> tokens_, slots_, starts_, ends_;
  std::vector<int> lengths_, lengths_on_device_;
  Ragged<B> batch_;
  typename B::Indices tokens_on_device_, slots_on_device_, starts_on_device_, ends_on_device_;
  typename KvCache<B>::Workspace workspace_;
  typename B::Tensor last_, logits_, found_;
  typename B::Repeated repeated_;
  typename B::Answers answers_;
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
    model.embedding.require_known(prompts[i], "prompt ", i, ": ");
    longest = std::max(longest, prompts[i].size());
  }
  if (prompts.empty()) return written;
  const int most = static_cast<int>(std::min<long>(static_cast<long>(longest) + config.new_tokens, positions));  // tokens of a sequence
  const int at_once = config.batch.value_or(B::sequences_at_once(KvCache<B>::elements(model, most), device));
  const int slots = static_cast<int>(std::min<std::size_t>(static_cast<std::size_t>(at_once), prompts.size()));
  // Where steps are repeated, they have one of few sizes: sequences that do not exist fill them up, in a slot of their own.
  constexpr bool fills = B::repeats;
  KvCache<B> cache(model, slots + (fills ? 1 : 0), most, device);
  const long tokens = std::accumulate(prompts.begin(), prompts.end(), static_cast<long>(prompts.size()) * config.new_tokens,
                                      [](long sum, const auto& prompt) { return sum + static_cast<long>(prompt.size()); });
  Extension<B> prefill(device);
  typename B::Memory memory;
  std::optional<Extension<B>> own;
  if constexpr (fills) own.emplace(typename B::Device{&memory, device.threads});
  Extension<B>& step = fills ? *own : prefill;
  const long vocabulary = model.embedding.weight.rows();
  if (8 * vocabulary <= tokens && vocabulary <= static_cast<long>(slots) * most) {  // soon made, and smaller than the cache
    prefill.look_up(model);
    if (fills) step.look_up(model);
  }

  struct Running {
    std::size_t prompt;
    Index slot, position;  // position: tokens in the cache
    std::size_t at;        // the place in the pass that runs
  };
  std::vector<Running> running, still;
  std::vector<Index> free;
  for (Index slot = slots; slot-- > 0;) free.push_back(slot);
  std::vector<Index> best;
  std::vector<double> probability;
  // Those of running from `first` on were extended, to so many tokens, and the model has said what comes next, from best[answers] on.
  const auto read = [&](std::size_t first, std::size_t answers, auto&& length) {
    still.assign(running.begin(), running.begin() + static_cast<std::ptrdiff_t>(first));
    for (std::size_t i = first; i < running.size(); ++i) {
      Running r = running[i];
      r.position = length(r);
      auto& out = written[r.prompt];
      const Index token = best[answers + r.at];
      const bool stops = token == config.stop, full = r.position == positions;
      if (!stops && !full) out.push_back(token);  // full: the last position read may still say `stop`
      if (stops && stopped) (*stopped)[r.prompt] = true;
      if (probabilities && (stops || !full)) (*probabilities)[r.prompt].push_back(probability[answers + r.at]);
      if (stops || full || static_cast<int>(out.size()) == config.new_tokens)
        free.push_back(r.slot);
      else
        still.push_back(r);
    }
    running.swap(still);
  };

  for (std::size_t next = 0; next < prompts.size() || !running.empty();) {
    const std::size_t before = running.size();
    prefill.clear();
    for (; next < prompts.size() && !free.empty(); ++next) {
      require(!prompts[next].empty(), "prompt ", next, " is empty: generation continues at least one token");
      running.push_back({next, free.back(), 0, static_cast<std::size_t>(prefill.sequences())});
      free.pop_back();
      prefill.add(prompts[next], running.back().slot, 0);
    }
    if (!prefill.empty()) {
      prefill.run(model, cache, best, probability);
      read(before, 0, [&](const Running& r) { return static_cast<Index>(prompts[r.prompt].size()); });
    }
    if (running.empty()) continue;
    step.clear();
    for (Running& r : running) {
      r.at = static_cast<std::size_t>(step.sequences());
      step.add(std::span(&written[r.prompt].back(), 1), r.slot, r.position);
    }
    const auto read_steps = [&] {
      if constexpr (fills) step.read(best, probability);
      for (std::size_t answers = 0; answers < best.size(); answers += static_cast<std::size_t>(step.sequences()))
        read(0, answers, [](const Running& r) { return r.position + 1; });
    };
    if constexpr (fills) {
      for (const Index any = 0; step.sequences() < B::repeated_size(static_cast<int>(running.size()));)
        step.add(std::span(&any, 1), slots, 0);
      // The device goes on by itself, a step or two ahead of what the host reads, and with texts that are finished, whose tokens nobody reads: until
      // fewer sequences would be quicker, or prompts that wait could take the places of enough of them, or one has no position left.
      const auto go_on = [&](int steps) {  // behind so many that are not read yet; as far as is known: they may also stop
        return static_cast<int>(std::count_if(running.begin(), running.end(), [&](const Running& r) {
          return r.position + steps < positions && static_cast<int>(written[r.prompt].size()) + steps < config.new_tokens;
        }));
      };
      Index furthest = 0;
      for (const Running& r : running) furthest = std::max(furthest, r.position);
      step.begin(model, cache);
      for (int unread = 1;;) {
        const int left = go_on(unread);
        const bool others = next < prompts.size() && slots - left >= std::max(1, slots / 16);
        if (left == 0 || others || B::repeated_size(left) < step.sequences() || furthest + 1 == most) break;
        int times = 1;
        while (times < Extension<B>::most_times && furthest + times + 1 < most && go_on(unread + times) == left) ++times;
        step.again(model, cache, times);
        read_steps();
        furthest += unread = times;
      }
    } else {
      step.run(model, cache, best, probability);
    }
    read_steps();
  }
  return written;
}

}  // namespace relay
