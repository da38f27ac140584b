// Attention of bf16 to sequences of up to 128 rows, forward and backward, whatever lengths a batch has.
//
// A sequence is cut into parts of 16 rows, a warp each, and a block of threads is filled with the parts of as many whole sequences as it has
// room for (Packing, made on the host). So no warp waits for a longer sequence beside it, there is one launch, and no shared memory lies
// idle but what is left of a block. A warp loads and turns the rows of its own part; then the block waits once, and each warp finds the other
// parts of its sequence beside its own.
//
// What a warp computes depends on its sequence alone: neither on where it lies in a block nor on what lies beside it.
//
// Backward (attention.hpp's notation): a warp has 16 queries, for D, dQ and what it writes of P and dS to shared memory; then the same 16
// rows as keys, for dV and dK. Scores of sequences that are longer than a warp has at a time are made twice, for D and then for dQ.
#pragma once

#include <array>

#include <relay/backend/cuda/attention.hpp>
#include <relay/backend/cuda/tensor.hpp>

namespace relay::cuda {

/// 16 rows of a sequence, or what is left of it: from row `first` of the batch; the sequence has so many `rows`, and `before` of them come
/// before these. Without rows it is no part at all.
struct Part {
  int first = 0, before = 0, rows = 0;

  Part() = default;
  Part(int f, int b, int n) : first(f), before(b), rows(n) {}
  __device__ explicit Part(std::uint64_t word)
      : first(static_cast<int>(word & 0xffffffffu)), before(static_cast<int>(word >> 32 & 0xffffu)), rows(static_cast<int>(word >> 48)) {}
  std::uint64_t word() const {
    return static_cast<std::uint64_t>(first) | static_cast<std::uint64_t>(before) << 32 | static_cast<std::uint64_t>(rows) << 48;
  }
};

/// The sequences of a ragged batch, cut into parts and put into blocks. Each goes to the first block that has room, in the order of the
/// batch: the first sequences lie in the first blocks, as if there were no others.
class Packing {
 public:
  static constexpr int longest = 128;  // sequence that it is made for

  /// `offsets`: of the sequences' rows. Batches of single rows, which are steps of generation, and of longer sequences have none.
  void assign(std::span<const int> offsets, Device device) {
    warps_ = 0;
    int most = 0;
    for (std::size_t s = 1; s < offsets.size(); ++s) most = std::max(most, offsets[s] - offsets[s - 1]);
    if (most < 2 || most > longest) return;
    warps_ = most <= 64 ? 4 : 8;
    blocks_.clear();
    taken_.clear();
    words_.clear();
    std::array<std::size_t, longest / 16 + 1> first{};  // by the number of parts: blocks before this one have no room for so many
    for (std::size_t s = 1; s < offsets.size(); ++s) {
      const int begin = offsets[s - 1], rows = offsets[s] - begin, parts = (rows + 15) / 16;
      std::size_t& block = first[static_cast<std::size_t>(parts)];
      while (block < taken_.size() && taken_[block] + parts > warps_) ++block;
      if (block == taken_.size()) {
        taken_.push_back(0);
        words_.resize(words_.size() + static_cast<std::size_t>(warps_));
      }
      for (int i = 0; i < parts; ++i)
        words_[block * static_cast<std::size_t>(warps_) + static_cast<std::size_t>(taken_[block]++)] = Part(begin + 16 * i, 16 * i, rows).word();
      blocks_.push_back(static_cast<int>(taken_.size()));
    }
    list_.assign(words_, device);
  }

  /// Of a block, 4 or 8; 0: nothing is packed.
  int warps() const { return warps_; }
  /// That the first sequences take.
  int blocks(int sequences) const { return sequences > 0 ? blocks_[static_cast<std::size_t>(sequences) - 1] : 0; }
  /// Part::word() of each warp of each block, on the device.
  const std::uint64_t* parts() const { return list_.data(); }

 private:
  int warps_ = 0;
  std::vector<int> blocks_, taken_;
  std::vector<std::uint64_t> words_;
  List<std::uint64_t> list_;
};

namespace detail {

inline constexpr float log2_of_e = 1.44269504f;

/// What both kernels are given.
struct Packed {
  const bf16* qkv;
  const std::uint64_t* parts;
  int rows;  // of the sequences that are asked for: what comes after them is no part
  Heads heads;
  int width, size;  // of all heads; of one
  float scale, exponent;  // of scores; and of two to the power of them, instead of e: a multiplication less each
  Rotation rotation;

  __device__ int head() const { return static_cast<int>(blockIdx.x); }
  __device__ Part part(int warps, int own_warp) const {
    const Part part(parts[static_cast<int>(blockIdx.y) * warps + own_warp]);
    return part.first < rows ? part : Part(std::uint64_t{0});
  }
  __device__ const float* table() const { return head() < rotation.heads ? rotation.table : nullptr; }
  /// Where the rows of a part begin in a matrix [rows, parts width], and how far it is from one to the next.
  template <class U>
  __device__ U* at(U* matrix, const Part& own, int parts, int part) const {
    return matrix + own.first * static_cast<long>(parts * width) + part * width + head() * size;
  }
  __device__ long of_row(const Part& own, int row) const { return static_cast<long>(own.first + row) * heads.count + head(); }
};

struct alignas(8) Eight {
  std::uint32_t words[2];
};

/// The two numbers of a register.
__device__ inline float lower_number(std::uint32_t word) { return __int_as_float(static_cast<int>(word << 16)); }
__device__ inline float upper_number(std::uint32_t word) { return __int_as_float(static_cast<int>(word & 0xffff0000u)); }

/// Begins to copy a warp's 16 rows to its rows of a tile, zeros where there is nothing.
template <int depth>
__device__ void copy_part(const bf16* from, int stride, int count, int size, bf16* to) {
  constexpr int steps = depth / 8, rows = warp / steps;  // at once
  const int first = Lane().thread / steps, c = Lane().thread % steps * 8;
  to += first * pitch<bf16, depth> + c;
  for (int j = 0; j < 16 / rows; ++j) {
    const int r = first + j * rows;
    const bool there = r < count && c < size;
    copy_behind(to + j * rows * pitch<bf16, depth>, from + (there ? r * stride + c : 0), there);
  }
}

/// Loads a warp's 16 rows of queries and of keys, and turns them on the way: `table` begins with the first of these rows; null: they stay.
template <int depth>
__device__ void load_turned(const bf16* queries, const bf16* keys, int stride, int count, int size, const float* table, bf16* query, bf16* key) {
  constexpr int half = depth / 2, steps = half / 8, rows = warp / steps, next = pitch<bf16, depth>, each = (16 + rows - 1) / rows;
  const int first = Lane().thread / steps, c = Lane().thread % steps * 8;
  if (first >= 16) return;
  Sixteen loaded[each][2][2];  // [][queries, keys][first half of the columns, second]
  for (int j = 0; j < each; ++j) {
    const int r = first + j * rows, at = r * stride + c;
    for (int side = 0; side < 2; ++side) {
      const bool there = r < count && c + side * half < size;
      loaded[j][0][side] = there ? *reinterpret_cast<const Sixteen*>(queries + at + side * half) : Sixteen{};
      loaded[j][1][side] = there ? *reinterpret_cast<const Sixteen*>(keys + at + side * half) : Sixteen{};
    }
  }
  query += first * next + c;
  key += first * next + c;
  for (int j = 0; j < each; ++j) {
    const int r = first + j * rows;
    if (table != nullptr && r < count) {
      const float* const angle = table + r * depth + c;
      for (int w = 0; w < 4; w += 2) {
        const Plain::Four cosine = Plain::four(angle + 2 * w), sine = Plain::four(angle + half + 2 * w);
        for (int i = 0; i < 2; ++i)
          for (int which = 0; which < 2; ++which) {
            std::uint32_t &x = loaded[j][which][0].words[w + i], &y = loaded[j][which][1].words[w + i];
            float x0 = lower_number(x), x1 = upper_number(x), y0 = lower_number(y), y1 = upper_number(y);
            turn(x0, y0, cosine.x[2 * i], sine.x[2 * i]);
            turn(x1, y1, cosine.x[2 * i + 1], sine.x[2 * i + 1]);
            x = pair(x0, x1);
            y = pair(y0, y1);
          }
      }
    }
    for (int side = 0; side < 2; ++side) {
      *reinterpret_cast<Sixteen*>(query + j * rows * next + side * half) = loaded[j][0][side];
      *reinterpret_cast<Sixteen*>(key + j * rows * next + side * half) = loaded[j][1][side];
    }
  }
}

/// sums [16, 32] = a b^T of tiles; of b only 16 rows unless there are `two` times so many.
template <int depth>
__device__ void scores(const bf16* a, const bf16* b, bool two, float (&sums)[4][4]) {
  constexpr int next = pitch<bf16, depth>;
  const int lane = Lane().thread;
  a += lane % 16 * next + lane / 16 * 8;
  b += (lane / 16 * 8 + lane % 8) * next + lane / 8 % 2 * 8;
  for (auto& fragment : sums)
    for (float& x : fragment) x = 0;
  for (int k = 0; k < depth; k += 16) {
    std::uint32_t left[4], right[4];
    load_tiles(left, a + k);
    load_tiles(right, b + k);
    multiply_tiles(sums[0], left, {right[0], right[1]});
    multiply_tiles(sums[1], left, {right[2], right[3]});
    if (two) {
      load_tiles(right, b + 16 * next + k);
      multiply_tiles(sums[2], left, {right[0], right[1]});
      multiply_tiles(sums[3], left, {right[2], right[3]});
    }
  }
}

/// A matrix [16, 32] of a warp, rounded, as tensor cores take it.
using Rounded = std::uint32_t[2][4];

__device__ inline void round(const float (&p)[4][4], Rounded& to) {
  for (int k = 0; k < 2; ++k)
    for (int i = 0; i < 4; ++i) to[k][i] = pair(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1]);
}

/// sums [16, depth] += p b, where b is a tile; of both only the first 16 unless there are `two` times so many.
template <int depth>
__device__ void add_product(const Rounded& p, bool two, const bf16* b, float (&sums)[depth / 8][4]) {
  constexpr int next = pitch<bf16, depth>;
  const int lane = Lane().thread;
  b += lane % 16 * next + lane / 16 * 8;
  for (int k = 0; k < 2; ++k) {
    if (k == 1 && !two) break;
    for (int n = 0; n < depth; n += 16) {
      std::uint32_t right[4];
      load_tiles_transposed(right, b + k * 16 * next + n);
      multiply_tiles(sums[n / 8], p[k], {right[0], right[1]});
      multiply_tiles(sums[n / 8 + 1], p[k], {right[2], right[3]});
    }
  }
}

/// Stores a warp's 16 rows. Neighbouring lanes exchange what they have of a row, so that the four of a row store 32 bytes at once.
template <int depth>
__device__ void store_part(const float (&sums)[depth / 8][4], float upper, float lower, bf16* to, int stride, int count, int size) {
  const Lane lane;
  const bool odd = lane.member % 2 == 1;
  to += lane.group * stride + (odd ? 8 + 2 * (lane.member - 1) : 2 * lane.member);
  for (int half = 0; half < 2; ++half) {
    const float factor = half == 0 ? upper : lower;
    for (int c = 0; c < depth / 8; c += 2) {  // even lanes store of fragment c, odd ones of the next
      const std::uint32_t first = pair(sums[c][2 * half] * factor, sums[c][2 * half + 1] * factor);
      const std::uint32_t second = pair(sums[c + 1][2 * half] * factor, sums[c + 1][2 * half + 1] * factor);
      const std::uint32_t other = __shfl_xor_sync(whole_warp, odd ? first : second, 1);
      if (lane.group + 8 * half < count && 8 * c < size)
        *reinterpret_cast<Eight*>(to + 8 * half * stride + 8 * c) = odd ? Eight{{other, second}} : Eight{{first, other}};
    }
  }
}

/// What a block has in shared memory: tiles of queries, keys, values and, backward, gradients; then P and dS, [rows, rows] each. dS comes
/// where keys and values were, if it fits there.
template <int depth, int warps>
struct PackedRoom {
  static constexpr int rows = 16 * warps, row = pitch<bf16, depth>, part = 16 * row, tile = rows * row, square = rows * pitch<bf16, rows>;
  static constexpr int p = 4 * tile, ds = square <= 2 * tile ? tile : p + square, all = p + (ds == tile ? 1 : 2) * square;
  static constexpr std::size_t forward = 3 * tile * sizeof(bf16), backward = all * sizeof(bf16);
};

template <int depth, int warps>
__global__ void __launch_bounds__(warps* warp, 24 / warps) packed_attention_kernel(Packed batch, bf16* out, float* lse) {
  after_earlier_kernels();
  using Room = PackedRoom<depth, warps>;
  const Lane lane;
  const Part part = batch.part(warps, lane.own_warp);
  const int count = part.rows - part.before;  // of rows from the warp's first
  bf16* const shared = shared_memory<bf16>();
  bf16* const query = shared + lane.own_warp * Room::part;
  if (part.rows > 0) {
    const float* const table = batch.table();
    const int stride = 3 * batch.width;
    copy_part<depth>(batch.at(batch.qkv, part, 3, 2), stride, count, batch.size, query + 2 * Room::tile);
    end_copies();
    load_turned<depth>(batch.at(batch.qkv, part, 3, 0), batch.at(batch.qkv, part, 3, 1), stride, count, batch.size,
                       table == nullptr ? nullptr : table + part.before * depth, query, query + Room::tile);
    wait_for_copies();
  }
  __syncthreads();
  if (part.rows == 0) return;

  const bf16* const key = query + Room::tile - part.before * Room::row;  // of the sequence's first row
  const bf16* const value = key + Room::tile;
  const Sight sight{mask_of(batch.heads, batch.head()), part.rows, part.rows};
  const Range own = sight.of(part.before, 16), seen[2] = {sight.of(part.before + lane.group), sight.of(part.before + lane.group + 8)};
  float sums[depth / 8][4] = {}, largest[2] = {least_score, least_score}, total[2] = {};
  for (int from = own.begin / 16 * 16; from < own.end; from += span) {
    const bool two = from + 16 < own.end;
    float p[4][4];
    scores<depth>(query, key + from * Room::row, two, p);
    float most[2] = {largest[0], largest[1]};
    for (int c = 0; c < 4; ++c)
      for (int i = 0; i < 4; ++i) {
        p[c][i] = seen[i / 2].has(from + 8 * c + 2 * lane.member + i % 2) ? p[c][i] * batch.exponent : least_score;
        most[i / 2] = fmaxf(most[i / 2], p[c][i]);
      }
    float correction[2];
    for (int half = 0; half < 2; ++half) {
      most[half] = largest_lane<4>(most[half]);
      correction[half] = quick_power_of_two(largest[half] - most[half]);
      largest[half] = most[half];
      total[half] *= correction[half];
    }
    for (int c = 0; c < 4; ++c)
      for (int i = 0; i < 4; ++i) {
        p[c][i] = quick_power_of_two(p[c][i] - largest[i / 2]);
        total[i / 2] += p[c][i];
      }
    for (int c = 0; c < depth / 8; ++c)
      for (int i = 0; i < 4; ++i) sums[c][i] *= correction[i / 2];
    Rounded rounded;
    round(p, rounded);
    add_product<depth>(rounded, two, value + from * Room::row, sums);
  }
  float inverse[2];
  for (int half = 0; half < 2; ++half) {
    total[half] = sum_lanes<4>(total[half]);
    inverse[half] = 1 / total[half];
    const int i = lane.group + 8 * half;
    if (lane.member == 0 && i < count) lse[batch.of_row(part, i)] = largest[half] * (1 / log2_of_e) + logf(total[half]);
  }
  store_part<depth>(sums, inverse[0], inverse[1], batch.at(out, part, 1, 0), batch.width, count, batch.size);
}

template <int depth, int warps>
__global__ void __launch_bounds__(warps* warp, 16 / warps)
    packed_backward_kernel(Packed batch, const float* lse, const bf16* dout, bf16* dqkv) {
  after_earlier_kernels();
  using Room = PackedRoom<depth, warps>;
  constexpr int next = Room::row, score_next = pitch<bf16, Room::rows>, spans = Room::rows / span;
  const Lane lane;
  const Part part = batch.part(warps, lane.own_warp);
  const int count = part.rows - part.before, stride = 3 * batch.width;
  const Sight sight{mask_of(batch.heads, batch.head()), part.rows, part.rows};
  const float* const table = batch.table();
  bf16* const shared = shared_memory<bf16>();
  bf16* const own_query = shared + lane.own_warp * Room::part;
  bf16* const to = batch.at(dqkv, part, 3, 0);
  if (part.rows > 0) {
    copy_part<depth>(batch.at(batch.qkv, part, 3, 2), stride, count, batch.size, own_query + 2 * Room::tile);
    copy_part<depth>(batch.at(dout, part, 1, 0), batch.width, count, batch.size, own_query + 3 * Room::tile);
    end_copies();
    load_turned<depth>(batch.at(batch.qkv, part, 3, 0), batch.at(batch.qkv, part, 3, 1), stride, count, batch.size,
                       table == nullptr ? nullptr : table + part.before * depth, own_query, own_query + Room::tile);
    wait_for_copies();
  }
  __syncthreads();

  Rounded rounded[spans];  // dS
  const Range own = sight.of(part.before, 16);
  const int scores_at = (16 * lane.own_warp + lane.group) * score_next + 2 * lane.member;
  if (part.rows > 0) {
    const bf16* const key = own_query - part.before * next + Room::tile;  // of the sequence's first row
    const Range seen[2] = {sight.of(part.before + lane.group), sight.of(part.before + lane.group + 8)};
    const bool once = own.begin / span == (own.end - 1) / span;  // what is made for D is there for dQ
    float p[4][4], ds[4][4], log_sum[2], mean[2] = {};
    for (int half = 0; half < 2; ++half) {
      const int i = lane.group + 8 * half;
      log_sum[half] = i < count ? log2_of_e * lse[batch.of_row(part, i)] : 0.0f;
    }
    const auto make = [&](int from) {
      const bool two = from + 16 < own.end;
      scores<depth>(own_query, key + from * next, two, p);
      scores<depth>(own_query + 3 * Room::tile, key + Room::tile + from * next, two, ds);
      for (int c = 0; c < 4; ++c)
        for (int i = 0; i < 4; ++i) {
          const bool sees = seen[i / 2].has(from + 8 * c + 2 * lane.member + i % 2);
          p[c][i] = sees ? quick_power_of_two(p[c][i] * batch.exponent - log_sum[i / 2]) : 0.0f;
        }
    };
    for (int from = own.begin / span * span; from < own.end; from += span) {
      make(from);
      for (int c = 0; c < 4; ++c)
        for (int i = 0; i < 4; ++i) mean[i / 2] += p[c][i] * ds[c][i];
    }
    for (float& m : mean) m = sum_lanes<4>(m);
    float dq[depth / 8][4] = {};
    unrolled<spans>([&](auto s) {
      constexpr int from = s * span;
      if (!own.meets(from, span)) return;
      if (!once) make(from);
      for (int c = 0; c < 4; ++c) {
        for (int half = 0; half < 2; ++half)
          TensorCores::put(shared + Room::p + scores_at + 8 * half * score_next + from + 8 * c, p[c][2 * half], p[c][2 * half + 1]);
        for (int i = 0; i < 4; ++i) ds[c][i] = p[c][i] * (ds[c][i] - mean[i / 2]);
      }
      round(ds, rounded[s]);
      add_product<depth>(rounded[s], from + 16 < own.end, key + from * next, dq);
    });
    if (table != nullptr) turn_back<depth>(dq, part.before, part.rows, table);
    store_part<depth>(dq, batch.scale, batch.scale, to, stride, count, batch.size);
  }
  __syncthreads();  // nobody reads keys and values any longer
  unrolled<spans>([&](auto s) {
    constexpr int from = s * span;
    if (!own.meets(from, span)) return;
    for (int k = 0; k < 2; ++k)
      for (int i = 0; i < 4; ++i)
        *reinterpret_cast<std::uint32_t*>(shared + Room::ds + scores_at + 8 * (i % 2) * score_next + from + 16 * k + 8 * (i / 2)) = rounded[s][k][i];
  });
  __syncthreads();
  if (part.rows == 0) return;

  // The rows as keys. By whom they are seen: spans of 16 queries that meet these, in which P and dS have been written above.
  const Range by = sight.transposed().of(part.before, 16);
  const int sequence = 16 * lane.own_warp - part.before;  // its first row in the block
  for (int which = 2; which > 0; --which) {               // dV = P^T dO, then dK = dS^T Q
    float sums[depth / 8][4] = {};
    const bf16* const scores = shared + (which == 2 ? Room::p : Room::ds) + sequence * score_next + part.before;
    const bf16* const other = shared + (which == 2 ? 3 * Room::tile : 0) + sequence * next;
    for (int k = by.begin / 16 * 16; k < by.end; k += 16) TensorCores::multiply_columns<Room::rows, depth>(scores, other, k, sums);
    if (which == 1 && table != nullptr) turn_back<depth>(sums, part.before, part.rows, table);
    const float factor = which == 1 ? batch.scale : 1.0f;
    store_part<depth>(sums, factor, factor, to + which * batch.width, stride, count, batch.size);
  }
}

/// f(depth, warps), where there are kernels for heads of this size and the batch is packed. Whether there were.
template <class F>
bool with_packed(int size, const Packing& packing, int sequences, bool wide, F&& f) {
  constexpr int most_blocks = 65535;  // that a grid has for the second of its directions
  if (packing.warps() == 0 || packing.blocks(sequences) > most_blocks || !wide || size % 16 != 0 || size > 64) return false;
  const auto of_depth = [&](auto depth) {
    if (packing.warps() == 4)
      f(depth, Constant<4>());
    else
      f(depth, Constant<8>());
  };
  if (size == 16)
    of_depth(Constant<16>());
  else if (size == 32)
    of_depth(Constant<32>());
  else
    of_depth(Constant<64>());
  return true;
}

inline Packed packed(const bf16* qkv, const Packing& packing, int rows, int width, const Heads& heads, const Rotation& rotation) {
  const int size = width / heads.count;
  return {.qkv = qkv, .parts = packing.parts(), .rows = rows, .heads = heads, .width = width, .size = size,
          .scale = 1 / std::sqrt(static_cast<float>(size)), .exponent = log2_of_e / std::sqrt(static_cast<float>(size)), .rotation = rotation};
}

inline dim3 packed_blocks(const Packing& packing, int sequences, const Heads& heads) {
  return dim3(static_cast<unsigned>(heads.count), static_cast<unsigned>(packing.blocks(sequences)));
}

}  // namespace detail

/// attention() to the first sequences of a packed batch, which have so many rows. False: there is no kernel for it, and nothing was done.
inline bool packed_attention(const bf16* qkv, const Packing& packing, int sequences, int rows, int width, const Heads& heads, bf16* out,
                             float* lse, const Rotation& rotation = {}) {
  using namespace detail;
  return with_packed(width / heads.count, packing, sequences, aligned(qkv) && aligned(out), [&](auto depth, auto warps) {
    launch(packed_attention_kernel<depth, warps>, packed_blocks(packing, sequences, heads), warps * warp, PackedRoom<depth, warps>::forward,
           packed(qkv, packing, rows, width, heads, rotation), out, lse);
  });
}

/// attention_backward() of the same; it needs no scratch.
inline bool packed_attention_backward(const bf16* qkv, const float* lse, const bf16* dout, const Packing& packing, int sequences, int rows,
                                      int width, const Heads& heads, bf16* dqkv, const Rotation& rotation = {}) {
  using namespace detail;
  return with_packed(width / heads.count, packing, sequences, aligned(qkv) && aligned(dout) && aligned(dqkv), [&](auto depth, auto warps) {
    launch(packed_backward_kernel<depth, warps>, packed_blocks(packing, sequences, heads), warps * warp, PackedRoom<depth, warps>::backward,
           packed(qkv, packing, rows, width, heads, rotation), lse, dout, dqkv);
  });
}

}  // namespace relay::cuda
