// Rotary positions of the CPU backend: queries and keys turned by their positions' angles (Su et al. 2021), pair (i, i + size/2) of a head
// by the i-th:
//
//   y_i = x_i cos - x_j sin     y_j = x_j cos + x_i sin     j = i + size/2
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

namespace detail {

/// Turns heads at one position, or back (`direction` -1): `angles` [size] has size/2 cosines, then size/2 sines.
template <class S>
class Rotation {
 public:
  Rotation(const S* angles, int size, S direction) : angles_(angles), size_(size), direction_(direction) {
    if (size != lanes<S>) return;
    const Vector<S> both = load(angles);
    cosines_ = both_halves<S, 0>(both), sines_ = negative_half<S>(both_halves<S, 1>(both)) * direction;
  }

  [[gnu::always_inline]] void operator()(S* head) const {
    if (size_ == lanes<S>) {  // a head in one vector
      const Vector<S> x = load(head);
      return store(head, x * cosines_ + swapped_halves<S>(x) * sines_);
    }
    const int half = size_ / 2;
    S* const second = head + half;
    by_vector<S>(half, [&](long i, auto n) {
      const Vector<S> c = load_first(angles_ + i, n), s = load_first(angles_ + half + i, n) * direction_;
      const Vector<S> x = load_first(head + i, n), y = load_first(second + i, n);
      store_first(head + i, x * c - y * s, n);
      store_first(second + i, y * c + x * s, n);
    });
  }

 private:
  const S* angles_;
  int size_;
  S direction_;
  Vector<S> cosines_{}, sines_{};
};

/// The same for the queries and keys of one head of a sequence, n rows `stride` apart, keys so far behind queries, while they are in the cache.
template <class S>
void rotate_head(S* queries, long keys, int n, long stride, int size, const Tensor<S>& table, S direction) {
  for (int r = 0; r < n; ++r, queries += stride) {
    const Rotation<S> turn(table.row(r), size, direction);
    turn(queries);
    turn(queries + keys);
  }
}

}  // namespace detail

/// Rotates the queries and keys of the first `rotated` heads in qkv [rows, 3 width] by their positions' angles, or back
/// (`direction` -1). table [positions, size]: the angles of a position. Sequence s starts at position starts[s], or 0 where starts is empty.
template <class S>
void rotate(Tensor<S>& qkv, const auto& rows, int heads, int rotated, const Tensor<S>& table, S direction,
            std::span<const std::int32_t> starts) {
  const int width = qkv.cols() / 3, size = width / heads;
  S* const elements = qkv.data();
  over_rows(qkv.device(), rows.count(), [&](int first, int last) {
    for (int sequence = 0, r = first; r < last; ++r) {
      while (r >= rows.end(sequence)) ++sequence;
      const int start = starts.empty() ? 0 : starts[static_cast<std::size_t>(sequence)];
      const detail::Rotation<S> turn(table.row(start + r - rows.begin(sequence)), size, direction);
      S* const row = elements + static_cast<long>(r) * qkv.cols();
      for (int part = 0; part < 2; ++part)
        for (int head = 0; head < rotated; ++head) turn(row + part * width + head * size);
    }
  });
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
