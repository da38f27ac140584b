// A ragged batch: the rows (tokens) of all sequences one after another, and where each sequence begins. No padding exists.
//
//   sequence      0 0 0 0 | 1 1 1 | 2 2
//   offsets       0         4       7    9
//
// Sequences are sorted by iteration count, longest first, so those still looping at iteration t are a prefix of the batch and
// their rows a prefix of the rows: `Rows::first`.
#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <relay/core/random.hpp>
#include <relay/core/require.hpp>

namespace relay {

namespace detail {

/// What a backend wants to know of a batch beside its offsets, made once a batch: Backend::Packing, where there is such a thing.
template <class Backend>
struct PackingOf {
  struct type {};
};
template <class Backend>
  requires requires { typename Backend::Packing; }
struct PackingOf<Backend> {
  using type = typename Backend::Packing;
};

}  // namespace detail

/// Where each sequence of a batch begins, on the host and on the device.
template <class Backend>
class Ragged {
 public:
  using Device = typename Backend::Device;

  /// `lengths`: the number of rows of each sequence.
  explicit Ragged(std::span<const int> lengths = {}, Device device = {}) : device_(device) { assign(lengths); }

  /// Another batch, in the same memory where that suffices.
  void assign(std::span<const int> lengths) {
    offsets_.assign(1, 0);
    longest_ = 0;
    for (const int n : lengths) {
      require(n > 0, "a sequence of a batch has ", n, " rows: every sequence needs at least one token");
      require(n <= std::numeric_limits<int>::max() - offsets_.back(), "a batch of ", lengths.size(), " sequences has more than ",
              std::numeric_limits<int>::max(), " rows: make it smaller");
      offsets_.push_back(offsets_.back() + n);
      longest_ = std::max(longest_, n);
    }
    Backend::indices_to(offsets_, device_, on_device_);
    if constexpr (requires { packing_.assign(offsets_, device_); }) packing_.assign(offsets_, device_);
  }

  int sequences() const { return static_cast<int>(offsets_.size()) - 1; }
  int rows() const { return offsets_.back(); }
  int longest() const { return longest_; }
  int begin(int sequence) const { return offsets_[static_cast<std::size_t>(sequence)]; }
  int end(int sequence) const { return offsets_[static_cast<std::size_t>(sequence) + 1]; }
  std::span<const int> offsets() const { return offsets_; }
  const typename Backend::Indices& on_device() const { return on_device_; }
  const auto& packing() const { return packing_; }
  Device device() const { return device_; }

 private:
  std::vector<int> offsets_;
  Device device_;
  typename Backend::Indices on_device_{};
  [[no_unique_address]] typename detail::PackingOf<Backend>::type packing_;
  int longest_ = 0;
};

/// The rows a layer is applied to: the first sequences of a batch, and the key of the random numbers to drop activations
/// with (none: nothing is dropped, as in evaluation), and whether a backward pass may follow. A view: the batch must outlive it.
template <class Backend>
class Rows {
 public:
  Rows(const Ragged<Backend>& batch, std::optional<Key> dropout = {})
      : batch_(&batch), sequences_(batch.sequences()), drops_(dropout.has_value()), key_(dropout.value_or(Key())) {}
  Rows(Ragged<Backend>&&, std::optional<Key> = {}) = delete;

  int sequences() const { return sequences_; }
  int count() const { return batch_->begin(sequences_); }
  int begin(int sequence) const { return batch_->begin(sequence); }
  int end(int sequence) const { return batch_->end(sequence); }
  int longest() const { return batch_->longest(); }
  const Ragged<Backend>& batch() const { return *batch_; }
  /// Which of them are needed of the layer's output, if not all: ascending.
  const typename Backend::Indices* needed() const { return needed_; }
  /// How many rows its output has.
  int outputs() const { return needed_ != nullptr ? outputs_ : count(); }
  std::optional<Key> dropout() const { return drops_ ? std::optional(key_) : std::nullopt; }
  bool is_forward_only() const { return forward_only_; }

  /// The rows of the first `sequences` sequences, all of them needed.
  Rows first(int sequences) const {
    Rows prefix = *this;
    prefix.sequences_ = sequences;
    prefix.needed_ = nullptr;
    return prefix;
  }

  /// The same rows, with an output of only these `count`, for layers that can (GivesNeededRows in core/concepts.hpp). They must outlive this.
  Rows needing(const typename Backend::Indices& needed, int count) const {
    Rows other = *this;
    other.needed_ = &needed;
    other.outputs_ = count;
    return other;
  }
  Rows needing(typename Backend::Indices&&, int) const = delete;
  Rows needing_all() const {
    Rows other = *this;
    other.needed_ = nullptr;
    return other;
  }

  /// The same rows in a pass that no backward pass will follow: a layer's trace need not keep more than its output.
  Rows forward_only() const {
    Rows other = *this;
    other.forward_only_ = true;
    return other;
  }

  /// The same rows with another stream of random numbers: each application of each layer folds in its own number.
  Rows fold(std::uint64_t data) const {
    Rows other = *this;
    if (drops_) other.key_ = key_.fold(data);
    return other;
  }

 private:
  const Ragged<Backend>* batch_;
  int sequences_;
  const typename Backend::Indices* needed_ = nullptr;
  int outputs_ = 0;
  bool drops_, forward_only_ = false;
  Key key_;
};

}  // namespace relay
