// Attention to a key-value cache, for generation: how the CPU lays a cache out, and one query at a time against it. Operands are
// factors (factors.hpp), so a cache of bf16 has half the size. Prompts go through attention.hpp, in one pass, and so in bf16 through the matrix unit
// where there is one; a single query is a product by vectors, for all it does is read the cache.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

/// The keys and values of earlier positions: a row of `keys` and of `values` for each slot and head, holding factors F. Keys
/// lie in panels of so many positions as a tile has columns, transposed, so that the scores of one query are a product by
/// whole vectors that reads memory in order: element (position j, column c) is in factor (c / steps) of its panel. Values lie
/// position after position; where a factor is a pair, it is one of two positions.
template <class F>
class CacheLayout {
 public:
  static constexpr int panel = tile_vectors * lanes<F>;

  explicit CacheLayout(int size) : size_(size), padded_(round_up<F>(size)) {}

  static int capacity(int positions) { return (positions + panel - 1) / panel * panel; }
  int keys(int positions) const { return capacity(positions) * least_factors<F>(size_); }
  int values(int positions) const { return least_factors<F>(capacity(positions)) * padded_; }

  const F* key_panel(const F* keys, int position) const { return keys + static_cast<long>(position) * least_factors<F>(size_); }
  int padded() const { return padded_; }

  /// Writes position j; key and value [size].
  template <class S>
  void append(int j, const S* key, const S* value, F* keys, F* values) const {
    F* to = keys + static_cast<long>(j / panel * panel) * least_factors<F>(size_) + j % panel;
    F* row = values + static_cast<long>(j / steps<F>) * padded_;
    if constexpr (steps<F> == 1) {
      for (int c = 0; c < size_; ++c) to[static_cast<long>(c) * panel] = key[c];
      by_vector<S>(padded_, [&](long c, auto) { store(row + c, load_first(value + c, std::min(lanes<S>, size_ - static_cast<int>(c)))); });
    } else {
      for (int c = 0; c < size_; c += 2 * lanes<S>) {
        const Vector<F> pairs = load_factors<F>(key + c, size_ - c);
        for (int i = 0; i < lanes<S> && c + 2 * i < size_; ++i) to[static_cast<long>(c / 2 + i) * panel] = static_cast<F>(pairs[i]);
      }
      for (int c = 0; c < padded_; c += lanes<S>) {
        const Vector<S> v = load_first(value + c, std::min(lanes<S>, size_ - c));
        // The second of a pair leaves the first, which lies below it, as it is.
        const Vector<F> both = j % 2 == 0 ? interleave<F>(v, Vector<S>{}) : (load(row + c) & 0xffff) | interleave<F>(Vector<S>{}, v);
        store(row + c, both);
      }
    }
  }

 private:
  int size_, padded_;
};

/// An empty cache.
template <class P, class S>
void make_cache(int slots, int positions, int width, int heads, Device device, Tensor<S>& keys, Tensor<S>& values) {
  const CacheLayout<AttentionFactors<P>> layout(width / heads);
  keys.resize(slots * heads, layout.keys(positions), device);
  values.resize(slots * heads, layout.values(positions), device);
}

/// Fewer bytes of keys and values are read in less time than it takes to share them among threads.
inline constexpr long shared_cache = 1 << 17;

/// Sequence s of `rows` continues slot slots[s], which holds starts[s] positions: its keys and values are appended and it
/// attends, causally, to all that is there. A sequence that starts (a prompt) attends to itself, in one pass.
template <class P, class S, class Index>
void attention_cached(const Tensor<S>& qkv, const auto& rows, const Index& slots, const Index& starts, int heads,
                      Tensor<S>& keys, Tensor<S>& values, Tensor<S>& out) {
  using F = AttentionFactors<P>;
  static_assert(sizeof(F) == sizeof(S));
  const int width = qkv.cols() / 3, size = width / heads;
  const S scale = S(1) / std::sqrt(static_cast<S>(size));
  const CacheLayout<F> layout(size);
  out.resize_like(qkv, qkv.rows(), width);
  int longest_prompt = 0, longest = 0;
  long seen = 0;  // positions, by all rows
  for (int s = 0; s < rows.sequences(); ++s) {
    const int n = rows.end(s) - rows.begin(s), start = starts[static_cast<std::size_t>(s)];
    if (start == 0 && n > 1) longest_prompt = std::max(longest_prompt, n);
    longest = std::max(longest, start + n);
    seen += static_cast<long>(n) * (start + n);
  }
  require(layout.keys(longest) <= keys.cols() && layout.values(longest) <= values.cols(), "a cache has no room for ", longest,
          " positions: make it for as many as will be written");
  const long capacity = CacheLayout<F>::capacity(longest), prompt_room = detail::Forward<F>::room(longest_prompt, size);
  const long room = prompt_room + capacity + 2 * layout.padded();
  const bool shared = qkv.device().threads && 2 * seen * width * static_cast<long>(sizeof(P)) >= shared_cache;
  const int parts = shared ? std::min(qkv.device().threads->count(), rows.sequences() * heads) : row_parts(qkv.device(), rows.count());
  detail::Scratch<S> memory(room * parts, qkv.device());
  S* const scratch = memory.begin();
  S *const all_keys = keys.data(), *const all_values = values.data(), *const to = out.data();
  const long keys_stride = keys.cols(), values_stride = values.cols();
  detail::over_heads(qkv.device(), rows, heads, parts, [&](int part, int first, int last) {
    const MatrixUnit<F> unit;  // for prompts
    S* const p = scratch + part * room;
    F* const q_factors = reinterpret_cast<F*>(p + capacity);
    S* const o = p + capacity + layout.padded();
    detail::Forward<F> prompt(longest_prompt, size, reinterpret_cast<F*>(o + layout.padded()));
    for (int item = first; item < last; ++item) {
      const int sequence = item / heads, head = item % heads;
      const long row = static_cast<long>(slots[static_cast<std::size_t>(sequence)]) * heads + head;
      const int start = starts[static_cast<std::size_t>(sequence)], begin = rows.begin(sequence), n = rows.end(sequence) - begin;
      F* const own_keys = reinterpret_cast<F*>(all_keys + row * keys_stride);
      F* const own_values = reinterpret_cast<F*>(all_values + row * values_stride);
      for (int i = 0; i < n; ++i) {
        const S* from = qkv.row(begin + i) + head * size;
        layout.append(start + i, from + width, from + 2 * width, own_keys, own_values);
      }
      if (start == 0 && n > 1) {
        prompt(qkv, begin, n, {heads, Mask::causal}, head, to, nullptr);
        continue;
      }
      for (int i = 0; i < n; ++i) {
        const int visible = start + i + 1, padded = round_up<S>(visible);
        const F* query = detail::factor_rows<F>(ConstMatrix<S>{qkv.row(begin + i) + head * size, size}, size, 1, q_factors).data;
        for (int j = 0; j < visible; j += layout.panel)
          small_product<Operand::plain>(1, std::min(layout.panel, padded - j), least_factors<F>(size), query, 0, layout.key_panel(own_keys, j),
                                        layout.panel, p + j, 0, Store::assign);
        F* const p_factors = reinterpret_cast<F*>(p);
        const S inverse = S(1) / detail::exponentials<F>(p, {0, visible}, padded, scale, p_factors).sum;
        small_product<Operand::plain>(1, layout.padded(), least_factors<F>(visible), p_factors, 0, own_values, layout.padded(), o, 0, Store::assign);
        S* at = to + static_cast<long>(begin + i) * width + head * size;
        by_vector<S>(size, [&](long c, auto count) { store_first(at + c, load(o + c) * inverse, count); });
      }
    }
  });
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
