// Attention of bf16 to sequences of up to 128 rows, forward and backward, whatever lengths a batch has.
//
// A sequence is cut into parts of 16 rows, a warp each, and a block of threads is filled with the parts of as many whole sequences as it has
// room for (Packing, made on the host). So no warp waits for a longer sequence beside it, there is one launch, and no shared memory lies
// idle but what is left of a block. A warp loads and turns the rows of its own part; then the block waits once, and each warp finds the other
// parts of its sequence beside its own.
//
// What a warp computes depends on its sequence alone: neither on where it lies in a block nor on what lies beside it.
//
// Most sequences have few parts, so a warp runs through most of a kernel once, and waits for memory: for rows, and for the code itself. So
// there is little code, in loops that are not unrolled, and few registers, so that many warps are there at once.
//
// Backward (attention.hpp's notation): a warp has 16 rows, first as keys: 16 queries after the other, it makes P^T and dS^T, has dV in
// registers and writes dS^T to shared memory. From that it makes dK, and, the same rows as queries, dQ. D is rowsum(dO O).
#pragma once

#include <array>

#include <relay/backend/cuda/attention_tiles.hpp>
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
    warps_ = most <= 64 ? 4 : most <= 112 ? 7 : 8;
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

  /// Of a block, 4, 7 or 8; 0: nothing is packed.
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

/// What both kernels are given.
struct Packed {
  const bf16* qkv;
  const std::uint64_t* parts;
  int rows;  // of the sequences that are asked for: what comes after them is no part
  Heads heads;
  int width, size;  // of all heads; of one
  float scale, exponent;  // of scores; and of two to the power of them, instead of e: a multiplication less each
  float log_scale, inverse_scale;  // its logarithm of base two; one over it
  Rotation rotation;

  __device__ int head() const { return static_cast<int>(blockIdx.x); }
  __device__ Part part(int warps, int own_warp) const {
    const Part part(parts[static_cast<int>(blockIdx.y) * warps + own_warp]);
    return part.first < rows ? part : Part(std::uint64_t{0});
  }
  __device__ const float* table() const { return head() < rotation.heads ? rotation.table : nullptr; }
  /// Where the rows of a part begin in one of `side_by_side` matrices [rows, width] that lie beside each other.
  template <class U>
  __device__ U* at(U* matrix, const Part& own, int side_by_side, int which) const {
    return matrix + own.first * static_cast<long>(side_by_side * width) + which * width + head() * size;
  }
  __device__ long of_row(const Part& own, int row) const { return static_cast<long>(own.first + row) * heads.count + head(); }
};

/// Which of eight rows four lanes have, who copy it in steps of 16 bytes: lanes that write shared memory at once have rows r and r + 4 of
/// a tile of 64 columns, which lie in different banks.
__device__ inline int row_of_group(int group) { return group % 2 * 4 + group / 2; }

/// Begins to copy a warp's 16 rows to its rows of a tile, zeros where there is nothing.
template <int depth>
__device__ void copy_part(const bf16* from, int stride, int count, int size, bf16* to) {
  constexpr int steps = depth / 8, rows = warp / steps;  // at once
  const int first = Lane().thread / steps, c = Lane().thread % steps * 8;
  const int left = c < size ? count - first : 0;
  to += first * pitch<bf16, depth> + c;
  from += first * stride + c;
  for (int j = 0; j < 16 / rows; ++j, from += rows * stride) copy_behind(to + j * rows * pitch<bf16, depth>, from, j * rows < left);
}

/// A warp's 16 rows of queries and of keys, on their way to its rows of tiles. Instead of a row that is not there comes the last one that
/// is: it is a number that does no harm where it is multiplied by zero, and nothing must be cleared.
template <int depth>
struct QueriesAndKeys {
  static constexpr int half = depth / 2, steps = half / 8, rows = warp / steps, next = pitch<bf16, depth>, each = (16 + rows - 1) / rows;
  int first, c;
  Sixteen loaded[each][2][2];  // [][queries, keys][first half of the columns, second]

  /// Of a head of fewer than `depth` columns, which is followed by others, and the last of all by values, some of those come too.
  __device__ void load(const bf16* from, int width, int stride, int count) {
    first = Lane().thread / steps;
    if constexpr (rows == 8) first = row_of_group(first);
    c = Lane().thread % steps * 8;
    const int last = count - 1;
    for (int j = 0; j < each; ++j) {
      const bf16* const query = from + min(first + j * rows, last) * stride + c;
      const bf16* const key = query + width;
      for (int side = 0; side < 2; ++side) {
        loaded[j][0][side] = *reinterpret_cast<const Sixteen*>(query + side * half);
        loaded[j][1][side] = *reinterpret_cast<const Sixteen*>(key + side * half);
      }
    }
  }
  /// Turns them on the way: `table` begins with the first of these rows; null: they stay.
  __device__ void store(int count, int size, const float* table, bf16* query, bf16* key) {
    if (first >= 16) return;
    if (table != nullptr)
      for (int j = 0; j < each; ++j) {
        const int r = first + j * rows;
        const float* const angle = table + min(r, count - 1) * depth + c;
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
    query += first * next + c;
    key += first * next + c;
    for (int j = 0; j < each; ++j)
      for (int side = 0; side < 2; ++side) {
        *reinterpret_cast<Sixteen*>(query + j * rows * next + side * half) = loaded[j][0][side];
        *reinterpret_cast<Sixteen*>(key + j * rows * next + side * half) = loaded[j][1][side];
      }
    if constexpr (depth == 64)  // 48 columns: what queries have behind them is multiplied by zero
      if (c + half >= size)
        for (int j = 0; j < each; ++j) *reinterpret_cast<Sixteen*>(key + j * rows * next + half) = {};
  }
};

/// 16 rows of a tile as the left side of products, in registers; or in the tile, from where they are read each time.
template <int depth>
struct LeftRows {
  std::uint32_t words[depth / 16][4];
  __device__ explicit LeftRows(const bf16* tile) {
    const int lane = Lane().thread;
    tile += lane % 16 * pitch<bf16, depth> + lane / 16 * 8;
    for (int k = 0; k < depth / 16; ++k) load_tiles(words[k], tile + 16 * k);
  }
  LeftRows() = default;
  __device__ void get(int k, std::uint32_t (&to)[4]) const {
    for (int i = 0; i < 4; ++i) to[i] = words[k][i];
  }
};
template <int depth>
struct LeftRowsOfTile {
  const bf16* at;
  __device__ explicit LeftRowsOfTile(const bf16* tile) : at(tile + Lane().thread % 16 * pitch<bf16, depth> + Lane().thread / 16 * 8) {}
  __device__ void get(int k, std::uint32_t (&to)[4]) const { load_tiles(to, at + 16 * k); }
};

/// Where a lane reads of 16 rows of a tile for add_scores() and add_product().
__device__ inline int score_place(int next) {
  const int lane = Lane().thread;
  return (lane / 16 * 8 + lane % 8) * next + lane / 8 % 2 * 8;
}
__device__ inline int product_place(int next) {
  const int lane = Lane().thread;
  return lane % 16 * next + lane / 16 * 8;
}

/// sums [16, 16] += a b^T for 16 rows of a tile.
template <int depth, class Left>
__device__ void add_scores(const Left& a, const bf16* b, float (&first)[4], float (&second)[4]) {
  for (int k = 0; k < depth / 16; ++k) {
    std::uint32_t left[4], right[4];
    a.get(k, left);
    load_tiles(right, b + 16 * k);
    multiply_tiles(first, left, {right[0], right[1]});
    multiply_tiles(second, left, {right[2], right[3]});
  }
}

/// sums [16, depth] += a b for 16 rows of a tile.
template <int depth>
__device__ void add_product(const std::uint32_t (&a)[4], const bf16* b, float (&sums)[depth / 8][4]) {
  for (int n = 0; n < depth / 8; n += 2) {
    std::uint32_t right[4];
    load_tiles_transposed(right, b + 8 * n);
    multiply_tiles(sums[n], a, {right[0], right[1]});
    multiply_tiles(sums[n + 1], a, {right[2], right[3]});
  }
}

/// Two fragments side by side, rounded, as the left side of a product.
__device__ inline void round(const float (&first)[4], const float (&second)[4], std::uint32_t (&to)[4]) {
  to[0] = pair(first[0], first[1]);
  to[1] = pair(first[2], first[3]);
  to[2] = pair(second[0], second[1]);
  to[3] = pair(second[2], second[3]);
}

/// turn_back(), two neighbours at a time. `table` begins with the first of the warp's rows, of which there are so many.
template <int depth>
__device__ void turn_part_back(float (&sums)[depth / 8][4], int count, const float* table) {
  constexpr int half = depth / 2;
  const Lane lane;
  for (int j = 0; j < 2; ++j) {
    const int row = lane.group + 8 * j;
    const float* const angle = table + min(row, count - 1) * depth + 2 * lane.member;
    for (int c = 0; c < half / 8; ++c) {
      const Plain::Two cosine = Plain::two(angle + 8 * c), sine = Plain::two(angle + half + 8 * c);
      for (int i = 0; i < 2; ++i) turn(sums[c][2 * j + i], sums[c + half / 8][2 * j + i], cosine.x[i], -sine.x[i]);
    }
  }
}

/// Stores a warp's 16 rows, by way of 16 rows of a tile that nobody else reads or writes, so that whole rows are written at once.
template <int depth>
__device__ void store_part(const float (&sums)[depth / 8][4], bf16* tile, bf16* to, int stride, int count, int size) {
  constexpr int next = pitch<bf16, depth>, steps = depth / 8, rows = warp / steps;
  const Lane lane;
  bf16* const own = tile + lane.group * next + 2 * lane.member;
  __syncwarp();
  for (int c = 0; c < depth / 8; ++c) {
    TensorCores::put(own + 8 * c, sums[c][0], sums[c][1]);
    TensorCores::put(own + 8 * c + 8 * next, sums[c][2], sums[c][3]);
  }
  __syncwarp();
  const int first = lane.thread / steps, c = lane.thread % steps * 8;
  tile += first * next + c;
  to += first * stride + c;
  for (int j = 0; j < 16 / rows; ++j)
    if (first + j * rows < count && c < size)
      *reinterpret_cast<Sixteen*>(to + j * rows * stride) = *reinterpret_cast<const Sixteen*>(tile + j * rows * next);
}

/// What a block has in shared memory: tiles of queries, keys and values, and backward gradients before the values. Then dS^T [rows, rows]
/// comes where the values were, and before it are two numbers of each row.
template <int depth, int warps>
struct PackedRoom {
  static constexpr int rows = 16 * warps, row = pitch<bf16, depth>, part = 16 * row, tile = rows * row, score_row = pitch<bf16, rows>;
  static constexpr int gradients = 2 * tile, numbers = 3 * tile, values = numbers + 4 * rows, last = std::max(tile, rows * score_row);
  static constexpr std::size_t forward = 3 * tile * sizeof(bf16), backward = (values + last) * sizeof(bf16);
};

template <int depth, int warps>
__global__ void __launch_bounds__(warps* warp, 24 / warps) packed_attention_kernel(Packed batch, bf16* out, float* lse) {
  after_earlier_kernels();
  using Room = PackedRoom<depth, warps>;
  const Lane lane;
  const Part part = batch.part(warps, lane.own_warp);
  const int count = part.rows - part.before;  // of rows from the warp's first
  bf16* const query = shared_memory<bf16>() + lane.own_warp * Room::part;
  if (part.rows > 0) {
    const float* const table = batch.table();
    const int stride = 3 * batch.width;
    const bf16* const from = batch.at(batch.qkv, part, 3, 0);
    copy_part<depth>(from + 2 * batch.width, stride, count, batch.size, query + 2 * Room::tile);
    end_copies();
    QueriesAndKeys<depth> both;
    both.load(from, batch.width, stride, count);
    both.store(count, batch.size, table == nullptr ? nullptr : table + part.before * depth, query, query + Room::tile);
    wait_for_copies();
  }
  __syncthreads();
  if (part.rows == 0) return;

  const LeftRowsOfTile<depth> queries(query);
  const bf16* const first_key = query + Room::tile - part.before * Room::row;  // of the sequence
  const Sight sight{mask_of(batch.heads, batch.head()), part.rows, part.rows};
  const Range own = sight.of(part.before, 16), all = sight.of_each(part.before, 16);
  float sums[depth / 8][4] = {}, largest[2] = {least_score, least_score}, total[2] = {};
  int from = own.begin / 16 * 16;
  const bf16* key = first_key + from * Room::row + score_place(Room::row);
  const bf16* value = first_key + Room::tile + from * Room::row + product_place(Room::row);
  RELAY_AS_A_LOOP
  for (; from < own.end; from += span, key += span * Room::row, value += span * Room::row) {
    const bool two = from + 16 < own.end;
    float p[4][4] = {};
    if (!all.covers(from, span)) {
      const Range seen[2] = {sight.of(part.before + lane.group), sight.of(part.before + lane.group + 8)};
      for (int c = 0; c < 4; ++c)
        for (int i = 0; i < 4; ++i) p[c][i] = seen[i / 2].has(from + 8 * c + 2 * lane.member + i % 2) ? 0.0f : least_score;
    }
    add_scores<depth>(queries, key, p[0], p[1]);
    if (two) add_scores<depth>(queries, key + 16 * Room::row, p[2], p[3]);
    float offset[2], correction[2];
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
      for (int c = 0; c < 4; ++c) most = fmaxf(most, fmaxf(p[c][2 * half], p[c][2 * half + 1]));
      most = largest_lane<4>(most);
      correction[half] = quick_power_of_two((largest[half] - most) * batch.exponent);
      largest[half] = most;
      offset[half] = -(most * batch.exponent);
      total[half] *= correction[half];
    }
    for (int c = 0; c < 4; ++c)
      for (int i = 0; i < 4; ++i) {
        p[c][i] = quick_power_of_two(fmaf(p[c][i], batch.exponent, offset[i / 2]));
        total[i / 2] += p[c][i];
      }
    for (int c = 0; c < depth / 8; ++c)
      for (int i = 0; i < 4; ++i) sums[c][i] *= correction[i / 2];
    std::uint32_t rounded[4];
    round(p[0], p[1], rounded);
    add_product<depth>(rounded, value, sums);
    if (two) {
      round(p[2], p[3], rounded);
      add_product<depth>(rounded, value + 16 * Room::row, sums);
    }
  }
  for (int half = 0; half < 2; ++half) {
    total[half] = sum_lanes<4>(total[half]);
    const int i = lane.group + 8 * half;
    if (lane.member == 0 && i < count) lse[batch.of_row(part, i)] = fmaf(largest[half], batch.scale, logf(total[half]));
    const float inverse = 1 / total[half];
    for (int c = 0; c < depth / 8; ++c)
      for (int j = 0; j < 2; ++j) sums[c][2 * half + j] *= inverse;
  }
  store_part<depth>(sums, query, batch.at(out, part, 1, 0), batch.width, count, batch.size);
}

/// What backward has of each of a warp's 16 queries as a number: -D and the exponent that scores are added to, with which P is `scale`
/// times what it is. D is the diagonal of dO O^T, which tensor cores find sooner than anything else. Its products take the columns in the
/// order in which lanes have them, on both sides.
template <int depth>
struct QueryNumbers {
  static constexpr int pieces = (depth + 31) / 32, next = pitch<bf16, depth>;
  int row, c;
  Sixteen out[2][pieces];
  float log_sum[2];

  __device__ void load(const Packed& batch, const Part& part, int count, const bf16* outs, const float* lse) {
    row = row_of_group(Lane().group);
    c = 8 * Lane().member;
    const bf16* const from = batch.at(outs, part, 1, 0);
    for (int half = 0; half < 2; ++half) {
      const int r = min(row + 8 * half, count - 1);  // as QueriesAndKeys: dO is zero where there is nothing
      for (int i = 0; i < pieces; ++i)
        out[half][i] = *reinterpret_cast<const Sixteen*>(from + r * batch.width + (c + 32 * i < batch.size ? c + 32 * i : 0));
      log_sum[half] = lse[batch.of_row(part, r)];
    }
  }
  /// `gradients` are in the warp's rows of a tile; `exponents` and `means` are its 16 numbers of each.
  __device__ void store(float log_scale, const bf16* gradients, float* exponents, float* means) const {
    const Lane lane;
    gradients += row * next + c;
    float d[2][4] = {};
    for (int i = 0; i < pieces; ++i) {
      const bool there = c + 32 * i < depth;
      const Sixteen upper = there ? *reinterpret_cast<const Sixteen*>(gradients + 32 * i) : Sixteen{};
      const Sixteen lower = there ? *reinterpret_cast<const Sixteen*>(gradients + 8 * next + 32 * i) : Sixteen{};
      for (int w = 0; w < 4; w += 2) {
        const std::uint32_t left[4] = {upper.words[w], lower.words[w], upper.words[w + 1], lower.words[w + 1]};
        for (int half = 0; half < 2; ++half) multiply_tiles(d[half], left, {out[half][i].words[w], out[half][i].words[w + 1]});
      }
    }
    if (lane.member == lane.group / 2)
      for (int half = 0; half < 2; ++half) {
        exponents[row + 8 * half] = fmaf(-log2_e, log_sum[half], log_scale);
        means[row + 8 * half] = lane.group % 2 == 0 ? -d[half][2 * half] : -d[half][2 * half + 1];
      }
  }
};

template <int depth, int warps>
__global__ void __launch_bounds__(warps* warp, warps == 8 ? 2 : 24 / warps)
    packed_backward_kernel(Packed batch, const bf16* out, const float* lse, const bf16* dout, bf16* dqkv) {
  after_earlier_kernels();
  using Room = PackedRoom<depth, warps>;
  constexpr int next = Room::row, score_next = Room::score_row;
  const Lane lane;
  const Part part = batch.part(warps, lane.own_warp);
  const int count = part.rows - part.before, stride = 3 * batch.width;
  const Sight sight{mask_of(batch.heads, batch.head()), part.rows, part.rows};
  const float* const table = batch.table() == nullptr ? nullptr : batch.table() + part.before * depth;
  bf16* const shared = shared_memory<bf16>();
  bf16* const own_query = shared + lane.own_warp * Room::part;
  float* const numbers = reinterpret_cast<float*>(shared + Room::numbers) + 16 * lane.own_warp;
  LeftRows<depth> values;
  if (part.rows > 0) {
    const bf16* const from = batch.at(batch.qkv, part, 3, 0);
    bf16* const value = shared + Room::values + lane.own_warp * Room::part;
    copy_part<depth>(from + 2 * batch.width, stride, count, batch.size, value);
    copy_part<depth>(batch.at(dout, part, 1, 0), batch.width, count, batch.size, own_query + Room::gradients);
    end_copies();
    QueriesAndKeys<depth> both;
    QueryNumbers<depth> own_numbers;
    both.load(from, batch.width, stride, count);
    own_numbers.load(batch, part, count, out, lse);
    both.store(count, batch.size, table, own_query, own_query + Room::tile);
    wait_for_copies();
    __syncwarp();
    own_numbers.store(batch.log_scale, own_query + Room::gradients, numbers, numbers + Room::rows);
    values = LeftRows<depth>(value);
  }
  __syncthreads();  // and nobody needs the tile of values any longer

  bf16* const scores = shared + Room::values + 16 * lane.own_warp * score_next;  // of dS^T, the warp's rows
  float sums[depth / 8][4] = {};
  {
    const LeftRowsOfTile<depth> keys(own_query + Room::tile);
    const float start[2] = {lane.group < count ? 0.0f : least_score, lane.group + 8 < count ? 0.0f : least_score};
    const Range own = sight.transposed().of(part.before, 16);
    int from = own.begin / 16 * 16;
    const bf16* query = own_query + (from - part.before) * next + score_place(next);
    const bf16* gradient = own_query + Room::gradients + (from - part.before) * next + product_place(next);
    const float* column = numbers + from - part.before + 2 * lane.member;
    bf16* to = scores + lane.group * score_next + 2 * lane.member + from;
    RELAY_AS_A_LOOP
    for (; from < own.end; from += 16, query += 16 * next, gradient += 16 * next, column += 16, to += 16) {
      float p[2][4], ds[2][4];
      for (int c = 0; c < 2; ++c)
        for (int i = 0; i < 4; ++i) p[c][i] = start[i / 2];  // keys that are not there have no P, whatever a query's log-sum-exp is
      if (from == part.before && sight.mask != Mask::none)  // everything else is seen or not as a whole
        for (int c = 0; c < 2; ++c)
          for (int i = 0; i < 4; ++i) {
            const int key = lane.group + i / 2 * 8, other = 8 * c + 2 * lane.member + i % 2;
            if (sight.mask == Mask::causal ? other < key : other > key) p[c][i] = least_score;
          }
      add_scores<depth>(keys, query, p[0], p[1]);
      for (int c = 0; c < 2; ++c) {
        const Plain::Two exponent = Plain::two(column + 8 * c), mean = Plain::two(column + Room::rows + 8 * c);
        for (int i = 0; i < 4; ++i) {
          p[c][i] = quick_power_of_two(fmaf(p[c][i], batch.exponent, exponent.x[i % 2]));
          ds[c][i] = mean.x[i % 2];
        }
      }
      add_scores<depth>(values, query + Room::gradients, ds[0], ds[1]);
      for (int c = 0; c < 2; ++c)
        for (int i = 0; i < 4; ++i) ds[c][i] *= p[c][i];
      std::uint32_t rounded[4];
      round(ds[0], ds[1], rounded);
      for (int i = 0; i < 4; ++i) *reinterpret_cast<std::uint32_t*>(to + i % 2 * 8 * score_next + i / 2 * 8) = rounded[i];
      round(p[0], p[1], rounded);
      add_product<depth>(rounded, gradient, sums);
    }
  }
  __syncthreads();  // dS^T is there, and nobody needs dO any longer
  if (part.rows == 0) return;

  for (auto& fragment : sums)
    for (float& x : fragment) x *= batch.inverse_scale;
  bf16* to = batch.at(dqkv, part, 3, 2);
  RELAY_AS_A_LOOP
  for (int which = 2;; to -= batch.width) {
    store_part<depth>(sums, own_query + Room::gradients, to, stride, count, batch.size);
    if (--which < 0) break;
    // dK = dS^T Q, of the warp's rows of dS^T; then dQ = dS K, of its columns.
    for (auto& fragment : sums)
      for (float& x : fragment) x = 0;
    const bool key = which == 1;
    const Range own = key ? sight.transposed().of(part.before, 16) : sight.of(part.before, 16);
    const int from = own.begin / 16 * 16, step = key ? 16 : 16 * score_next;
    const bf16* left = scores + (key ? product_place(score_next) + from : score_place(score_next) + (from - part.before) * score_next + part.before);
    const bf16* other = own_query + (key ? 0 : Room::tile) + (from - part.before) * next + product_place(next);
    RELAY_AS_A_LOOP
    for (int k = from; k < own.end; k += 16, left += step, other += 16 * next) {
      std::uint32_t rows[4];
      if (key)
        load_tiles(rows, left);
      else
        load_tiles_transposed(rows, left);
      add_product<depth>(rows, other, sums);
    }
    if (table != nullptr) turn_part_back<depth>(sums, count, table);
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
    else if (packing.warps() == 7)
      f(depth, Constant<7>());
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
          .scale = 1 / std::sqrt(static_cast<float>(size)), .exponent = log2_e / std::sqrt(static_cast<float>(size)),
          .log_scale = -0.5f * std::log2(static_cast<float>(size)), .inverse_scale = std::sqrt(static_cast<float>(size)), .rotation = rotation};
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
inline bool packed_attention_backward(const bf16* qkv, const bf16* out, const float* lse, const bf16* dout, const Packing& packing, int sequences,
                                      int rows, int width, const Heads& heads, bf16* dqkv, const Rotation& rotation = {}) {
  using namespace detail;
  const bool wide = aligned(qkv) && aligned(out) && aligned(dout) && aligned(dqkv);
  return with_packed(width / heads.count, packing, sequences, wide, [&](auto depth, auto warps) {
    launch(packed_backward_kernel<depth, warps>, packed_blocks(packing, sequences, heads), warps * warp, PackedRoom<depth, warps>::backward,
           packed(qkv, packing, rows, width, heads, rotation), out, lse, dout, dqkv);
  });
}

}  // namespace relay::cuda
