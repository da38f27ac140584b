// Attention to sequences of more than 128 rows (attention.hpp has the notation, and says which batches come here).
//
// Backward is two kernels, one with the queries' rows in its warps (D and dQ), one with the keys' (dK and dV). Here D is rowsum(dO O), which
// is the same number.
//
// A warp's rows are in registers, and blocks are small: a sequence of some hundred rows is so soon done that most of a block's time is
// waiting, for its first rows, for the table of positions, for other warps, and other blocks work meanwhile. Blocks begin with those of the
// longest sequences, so that a GPU's last ones are short.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include <relay/backend/cuda/attention_tiles.hpp>
#include <relay/backend/cuda/warpgroup.hpp>

namespace relay::cuda::detail {

/// load_rows() by a block whose number of threads is known, and which does it again and again: a thread has the same columns of every row.
template <int threads, int rows, int depth, class Element, class T>
__device__ void load_known_rows(const HeadRows<T>& from, int first, Element* to) {
  if constexpr (std::is_same_v<std::remove_const_t<T>, Element>) {
    if (from.wide) {
      constexpr int step = 16 / static_cast<int>(sizeof(T)), steps = depth / step, at_once = threads / steps;
      static_assert(threads % steps == 0 && rows % at_once == 0);
      const int r = static_cast<int>(threadIdx.x) / steps, c = static_cast<int>(threadIdx.x) % steps * step;
      const int left = c < from.size ? from.count - first - r : 0;
      const T* at = from.at + (first + r) * from.stride + c;
      to += r * pitch<Element, depth> + c;
      unrolled<rows / at_once>([&](auto i) {
        copy_behind(to + i * at_once * pitch<Element, depth>, at, i * at_once < left);
        at += at_once * from.stride;
      });
      return;
    }
  }
  load_elements<rows, depth>(from, first, to);
}

// --- The order of blocks. ---

inline constexpr int order_threads = 512;

/// What a block has to do, in 16 bytes, so that it knows all of it after one read: a part of a sequence and where that lies, or -1.
struct alignas(16) Unit {
  std::int32_t sequence, part, begin, rows;
};

/// In which order blocks have the parts of so many rows of the sequences. Those of the longest sequences come first, the last part, which
/// sees most if the mask is causal, before the others. Each block of this kernel has the sequences of so many parts, from the most down to
/// one.
template <class = void>
__global__ void __launch_bounds__(order_threads) order_kernel(const std::int32_t* offsets, int sequences, int rows, int units, Unit* order) {
  after_earlier_kernels();
  constexpr int warps = order_threads / warp;
  const int parts = static_cast<int>(gridDim.x - blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const Lane lane;
  int* const shared = shared_memory<int>();  // a number for each warp
  const auto parts_of = [&](int s) { return s < sequences ? (offsets[s + 1] - offsets[s] + rows - 1) / rows : 0; };
  const auto sum_warps = [&](int own, int but_from) {  // of the numbers that each warp's first lane has, in the warps before that
    __syncthreads();
    if (lane.thread == 0) shared[lane.own_warp] = own;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < but_from; ++i) sum += shared[i];
    return sum;
  };
  int before = 0;
  for (int s = thread; s < sequences; s += order_threads)
    if (const int n = parts_of(s); n > parts) before += n;
  for (int distance = warp / 2; distance > 0; distance /= 2) before += __shfl_xor_sync(whole_warp, before, distance);
  before = sum_warps(before, warps);
  for (int first = 0; first < sequences; first += order_threads) {
    const bool is = parts_of(first + thread) == parts;
    const unsigned all = __ballot_sync(whole_warp, is);
    const int count = __popc(all), in_warps_before = sum_warps(count, lane.own_warp);
    const int rank = in_warps_before + __popc(all & ((1u << lane.thread) - 1));
    if (is)
      for (int i = 0; i < parts; ++i) {
        const int begin = offsets[first + thread];
        order[before + rank * parts + i] = {first + thread, parts - 1 - i, begin, offsets[first + thread + 1] - begin};
      }
    before += parts * sum_warps(count, warps);
  }
  if (parts == 1)
    for (int i = before + thread; i < units; i += order_threads) order[i] = {-1, 0, 0, 0};
}

// --- What a block has. ---

/// How a block is made: so many warps of 16 rows, so many blocks at a time on a multiprocessor. Heads of up to 64 columns by tensor cores: as
/// many warps as registers allow, as they wait for what they read of shared memory and for products. Blocks are small, so that few warps
/// have no rows or wait where others see more.
struct LongShape {
  int warps, blocks;
};
template <class Products, int depth>
inline constexpr bool slim = std::is_same_v<Products, TensorCores> && depth <= 64;
template <class Products, int depth>
inline constexpr LongShape other_shape{std::is_same_v<Products, TensorCores> ? 8 : Products::template warps<depth>, depth > 64 ? 1 : 2};
template <class Products, int depth>
inline constexpr LongShape query_shape = slim<Products, depth> ? LongShape{4, 4} : other_shape<Products, depth>;
template <class Products, int depth>
inline constexpr LongShape key_shape = slim<Products, depth> ? LongShape{4, 3} : other_shape<Products, depth>;

/// Rows in the block's warps, and what is taken tile by tile, of two matrices each.
template <class Products, int depth, LongShape shape>
struct LongRoom {
  using Element = typename Products::Element;
  static constexpr bool tensor_cores = std::is_same_v<Products, TensorCores>;
  static constexpr int warps = shape.warps, blocks = shape.blocks;
  static constexpr int rows = 16 * warps, threads = warps * warp, tile = tile_rows<Products, depth>;
  static constexpr int row = pitch<Element, depth>, stage = 2 * tile * row;
  static constexpr int brings = 2 * tile < threads ? 1 : 2 * tile / threads;  // numbers beside a tile, a thread
  static_assert(rows <= 2 * tile && 2 * tile <= brings * threads);

  // Backward has two matrices of the block's rows in shared memory all the time. Forward has none: queries are in registers, and arrive
  // where the second tile comes later.
  template <int matrices>
  struct With {
    static constexpr int first = 0, second = rows * row, tiles = matrices * rows * row, own = tiles + 2 * stage, all = own + warps * Products::room;
    static constexpr std::size_t bytes = all * sizeof(Element);
    static constexpr std::size_t bytes_with_columns = bytes + 2 * 2 * tile * sizeof(float);  // and two numbers of each row of both stages
  };
  using Forward = With<0>;
  using Backward = With<2>;
};

/// Where the rows are queries, and where they are keys.
template <class Products, int depth>
using QueryLong = LongRoom<Products, depth, query_shape<Products, depth>>;
template <class Products, int depth>
using KeyLong = LongRoom<Products, depth, key_shape<Products, depth>>;

/// Which part of which sequence a block has; no rows: none.
template <class T>
__device__ typename Batch<T>::Place place_in(const Batch<T>& batch, const Unit* order) {
  const int i = static_cast<int>(blockIdx.x), unit = i / batch.heads.count;
  const Unit own = order[unit];
  return {own.sequence, i - unit * batch.heads.count, own.part, own.begin, own.rows};
}

/// A tile after the other, the next one on its way while one is used: begin(first row, stage); arrive(stage), after which what begin has
/// kept in registers is in shared memory; ready(), once, when the first tile and all that was begun before is there; use(first row, stage).
/// `warpgroups`: it is read by their products.
template <int rows, bool warpgroups = false, class Begin, class Arrive, class Ready, class Use>
__device__ void over_long_tiles(Range range, Begin begin, Arrive arrive, Ready ready, Use use) {
  int stage = 0, first = range.begin / rows * rows;
  begin(first, stage);
  end_copies();
  arrive(stage);
  wait_for_copies();
  if constexpr (warpgroups) written_for_products();
  __syncthreads();
  ready();
  for (; first < range.end; first += rows, stage = 1 - stage) {
    const bool more = first + rows < range.end;
    if (more) begin(first + rows, 1 - stage);
    end_copies();
    use(first, stage);
    if (more) arrive(1 - stage);
    wait_for_copies();
    if constexpr (warpgroups) written_for_products();
    __syncthreads();
  }
}

/// 16 rows of a tile as the left side of products with others. Tensor cores' are kept in registers.
template <class Products, int depth>
struct OwnRows {
  const float* tile = nullptr;
  __device__ void load(const float* from) { tile = from; }
  /// sums += rows b^T, b [columns, depth]
  template <int columns>
  __device__ void multiply(const float* b, float (&sums)[columns / 8][4]) const {
    Products::template multiply_transposed<depth, columns>(tile, b, sums);
  }
};
template <int depth>
struct OwnRows<TensorCores, depth> {
  std::uint32_t words[depth / 16][4];
  __device__ void load(const bf16* from) {
    const int lane = Lane().thread;
    from += lane % 16 * pitch<bf16, depth> + lane / 16 * 8;
    unrolled<depth / 16>([&](auto k) { load_tiles(words[k], from + 16 * k); });
  }
  template <int columns>
  __device__ void multiply(const bf16* b, float (&sums)[columns / 8][4]) const {
    constexpr int next = pitch<bf16, depth>;
    const int lane = Lane().thread;
    b += (lane / 16 * 8 + lane % 8) * next + lane / 8 % 2 * 8;
    unrolled<depth / 16>([&](auto k) {
      for (int n = 0; n < columns / 8; n += 2) {
        std::uint32_t right[4];
        load_tiles(right, b + 8 * n * next + 16 * k);
        multiply_tiles(sums[n], words[k], {right[0], right[1]});
        multiply_tiles(sums[n + 1], words[k], {right[2], right[3]});
      }
    });
  }
};

/// The sum of products of two rows of tiles, in each of four neighbouring lanes, which read 16 bytes at a time.
template <int depth, class Element>
__device__ float product_of_rows(const Element* a, const Element* b) {
  constexpr int step = 16 / static_cast<int>(sizeof(Element)), steps = depth / step;
  struct alignas(16) Some {
    Element x[step];
  };
  const int member = Lane().member;
  float sum = 0;
  unrolled<(steps + 3) / 4>([&](auto i) {
    const int c = 4 * i + member;
    if (c >= steps) return;
    const Some left = *reinterpret_cast<const Some*>(a + c * step), right = *reinterpret_cast<const Some*>(b + c * step);
    for (int j = 0; j < step; ++j) sum = fmaf(number(left.x[j]), number(right.x[j]), sum);
  });
  return sum_lanes<4>(sum);
}

/// Of scores whose first row and column these are, those that are not to be seen become least_score.
template <int fragments>
__device__ void hide(float (&p)[fragments][4], const Sight& sight, int row, int column) {
  const Lane lane;
  unrolled<2>([&](auto half) {
    const Range seen = sight.of(row + 8 * half + lane.group);
    unrolled<fragments>([&](auto c) {
      for (int j = 0; j < 2; ++j)
        if (!seen.has(column + 8 * c + 2 * lane.member + j)) p[c][2 * half + j] = least_score;
    });
  });
}

// --- The kernels. ---

template <class Products, int depth, class T>
__global__ void __launch_bounds__(QueryLong<Products, depth>::threads, QueryLong<Products, depth>::blocks)
    long_attention_kernel(Batch<T> batch, const Unit* order, T* out, float* lse) {
  after_earlier_kernels();
  using Element = typename Products::Element;
  using Long = QueryLong<Products, depth>;
  using Room = typename Long::Forward;
  constexpr int next = Long::row, tile = Long::tile;
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * Long::rows;
  const Sight sight{mask_of(batch.heads, at.head), at.rows, at.rows};
  const auto keys = batch.rows(batch.qkv, at, 3, 1), values = batch.rows(batch.qkv, at, 3, 2);
  Element* const shared = shared_memory<Element>();
  static_assert(Long::tensor_cores);
  load_known_rows<Long::threads, Long::rows, depth>(batch.rows(batch.qkv, at, 3, 0), first, shared + Room::tiles + Long::stage);

  const Lane lane;
  const int below = 16 * lane.own_warp, row = first + below;
  const Range own = sight.of(row, 16), all = sight.of_each(row, 16);
  const float factor = batch.scale * log2_e;
  OwnRows<Products, depth> queries;
  RunningSoftmax<T> softmax;
  float sums[depth / 8][4] = {};
  over_long_tiles<tile>(
      sight.of(first, Long::rows),
      [&](int from, int stage) {
        load_known_rows<Long::threads, tile, depth>(keys, from, shared + Room::tiles + stage * Long::stage);
        load_known_rows<Long::threads, tile, depth>(values, from, shared + Room::tiles + stage * Long::stage + tile * next);
      },
      [](int) {},
      [&] {
        queries.load(shared + Room::tiles + Long::stage + below * next);
        __syncthreads();
      },
      [&](int from, int stage) {
        const Element* const key = shared + Room::tiles + stage * Long::stage;
        for (int step = 0; step < tile; step += span) {
          if (!own.meets(from + step, span)) continue;
          float p[span / 8][4] = {}, correction[2];
          queries.template multiply<span>(key + step * next, p);
          if (!all.covers(from + step, span)) hide(p, sight, row, from + step);
          softmax.add(p, factor, correction);
          if (__ballot_sync(whole_warp, correction[0] != 1 || correction[1] != 1) != 0)  // soon it is rare that there is a larger score
            for (int c = 0; c < depth / 8; ++c)
              for (int i = 0; i < 4; ++i) sums[c][i] *= correction[i / 2];
          Products::template multiply_registers<span, depth>(p, key + (tile + step) * next, sums, shared + Room::own + lane.own_warp * Products::room);
        }
      });
  float inverse[2];
  softmax.end(batch.scale, inverse, [&](int lower, float value) {
    if (const int i = row + lane.group + lower; i < at.rows) lse[batch.of_row(at, i)] = value;
  });
  Element* const free = shared + Room::tiles + below * next;  // nobody reads tiles any longer
  store_rows<Products, depth>(sums, inverse[0], inverse[1], free, batch.rows(out, at, 1, 0), row);
}

/// D, which the next kernel reads, and dQ.
template <class Products, int depth, class T>
__global__ void __launch_bounds__(QueryLong<Products, depth>::threads, QueryLong<Products, depth>::blocks)
    query_gradient_kernel(Batch<T> batch, const Unit* order, const float* lse, const T* out, const T* dout, float* means, T* dqkv) {
  after_earlier_kernels();
  using Element = typename Products::Element;
  using Long = QueryLong<Products, depth>;
  using Room = typename Long::Backward;
  constexpr int next = Long::row, tile = Long::tile;
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * Long::rows;
  const Sight sight{mask_of(batch.heads, at.head), at.rows, at.rows};
  const auto keys = batch.rows(batch.qkv, at, 3, 1), values = batch.rows(batch.qkv, at, 3, 2);
  Element* const shared = shared_memory<Element>();
  load_known_rows<Long::threads, Long::rows, depth>(batch.rows(batch.qkv, at, 3, 0), first, shared + Room::first);
  load_known_rows<Long::threads, Long::rows, depth>(batch.rows(dout, at, 1, 0), first, shared + Room::second);
  // Where the second tile comes.
  load_known_rows<Long::threads, Long::rows, depth>(batch.rows(out, at, 1, 0), first, shared + Room::tiles + Long::stage);

  const Lane lane;
  const int below = 16 * lane.own_warp, row = first + below;
  const Range own = sight.of(row, 16), all = sight.of_each(row, 16);
  Element* const query = shared + Room::first + below * next;
  const float factor = batch.scale * log2_e;
  float log_sum[2], mean[2];  // both negative, the first of base two
  for (int half = 0; half < 2; ++half) {
    const int i = row + 8 * half + lane.group;
    log_sum[half] = i < at.rows ? lse[batch.of_row(at, i)] : 0.0f;
  }
  OwnRows<Products, depth> queries, gradients;
  float dq[depth / 8][4] = {};
  over_long_tiles<tile>(
      sight.of(first, Long::rows),
      [&](int from, int stage) {
        load_known_rows<Long::threads, tile, depth>(keys, from, shared + Room::tiles + stage * Long::stage);
        load_known_rows<Long::threads, tile, depth>(values, from, shared + Room::tiles + stage * Long::stage + tile * next);
      },
      [](int) {},
      [&] {
        queries.load(query);
        gradients.load(shared + Room::second + below * next);
        for (int half = 0; half < 2; ++half) {
          const int lower = below + 8 * half + lane.group, i = first + lower;
          const float sum = product_of_rows<depth>(shared + Room::tiles + Long::stage + lower * next, shared + Room::second + lower * next);
          mean[half] = -sum;
          log_sum[half] *= -log2_e;  // not where it is read, which would wait for it
          if (lane.member == 0 && i < at.rows) means[batch.of_row(at, i)] = sum;
        }
        __syncthreads();
      },
      [&](int from, int stage) {
        const Element* const key = shared + Room::tiles + stage * Long::stage;
        for (int step = 0; step < tile; step += span) {
          if (!own.meets(from + step, span)) continue;
          float p[span / 8][4] = {}, dp[span / 8][4];
          for (int c = 0; c < span / 8; ++c)
            for (int i = 0; i < 4; ++i) dp[c][i] = mean[i / 2];
          queries.template multiply<span>(key + step * next, p);
          gradients.template multiply<span>(key + (tile + step) * next, dp);
          if (!all.covers(from + step, span)) hide(p, sight, row, from + step);
          for (int c = 0; c < span / 8; ++c)
            for (int i = 0; i < 4; ++i) p[c][i] = power_of_two<T>(fmaf(p[c][i], factor, log_sum[i / 2])) * dp[c][i];
          Products::template multiply_registers<span, depth>(p, key + step * next, dq, shared + Room::own + lane.own_warp * Products::room);
        }
      });
  const float* const table = batch.table(at);
  if (table != nullptr) turn_back<depth>(dq, row, at.rows, table);
  store_rows<Products, depth>(dq, batch.scale, batch.scale, query, batch.rows(dqkv, at, 3, 0), row);
}

/// dK and dV: the rows of a warp are keys, the columns of its scores queries.
template <class Products, int depth, class T>
__global__ void __launch_bounds__(KeyLong<Products, depth>::threads, KeyLong<Products, depth>::blocks)
    key_gradient_kernel(Batch<T> batch, const Unit* order, const float* lse, const T* dout, const float* means, T* dqkv) {
  after_earlier_kernels();
  using Element = typename Products::Element;
  using Long = KeyLong<Products, depth>;
  using Room = typename Long::Backward;
  constexpr int next = Long::row, tile = Long::tile;
  constexpr int own_span = Long::tensor_cores ? 16 : span;  // so few columns that all else is in registers
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * Long::rows;
  const Sight sight = Sight{mask_of(batch.heads, at.head), at.rows, at.rows}.transposed();
  const auto queries = batch.rows(batch.qkv, at, 3, 0), gradients = batch.rows(dout, at, 1, 0);
  Element* const shared = shared_memory<Element>();
  load_known_rows<Long::threads, Long::rows, depth>(batch.rows(batch.qkv, at, 3, 1), first, shared + Room::first);
  load_known_rows<Long::threads, Long::rows, depth>(batch.rows(batch.qkv, at, 3, 2), first, shared + Room::second);

  const Lane lane;
  const int below = 16 * lane.own_warp, row = first + below;
  const Range own = sight.of(row, 16), all = sight.of_each(row, 16);
  Element* const key = shared + Room::first + below * next;
  Element* const value = shared + Room::second + below * next;
  const float factor = batch.scale * log2_e;
  // Of the queries of both stages, [lse, D][tile], both negative, the first of base two. A thread brings some numbers of a tile.
  float* const columns = reinterpret_cast<float*>(shared + Room::all);
  const int thread = static_cast<int>(threadIdx.x);
  float brought[Long::brings];
  OwnRows<Products, depth> keys, values;
  float dk[depth / 8][4] = {}, dv[depth / 8][4] = {};
  over_long_tiles<tile>(
      sight.of(first, Long::rows),
      [&](int from, int stage) {
        for (int b = 0; b < Long::brings; ++b) {
          const int number = thread + b * Long::threads, i = from + number % tile;
          if (number >= 2 * tile || i >= at.rows)
            brought[b] = 0;
          else
            brought[b] = (number < tile ? lse : means)[batch.of_row(at, i)];
        }
        load_known_rows<Long::threads, tile, depth>(queries, from, shared + Room::tiles + stage * Long::stage);
        load_known_rows<Long::threads, tile, depth>(gradients, from, shared + Room::tiles + stage * Long::stage + tile * next);
      },
      [&](int stage) {
        for (int b = 0; b < Long::brings; ++b)
          if (const int number = thread + b * Long::threads; number < 2 * tile)  // only here, so that nothing waits for a number where it is read
            columns[2 * stage * tile + number] = (number < tile ? -log2_e : -1.0f) * brought[b];
      },
      [&] {
        keys.load(key);
        values.load(value);
      },
      [&](int from, int stage) {
        const Element* const query = shared + Room::tiles + stage * Long::stage;
        const Element* const gradient = query + tile * next;
        for (int step = 0; step < tile; step += own_span) {
          if (!own.meets(from + step, own_span)) continue;
          const float* const column = columns + 2 * stage * tile + step + 2 * lane.member;
          float p[own_span / 8][4] = {}, ds[own_span / 8][4];
          for (int c = 0; c < own_span / 8; ++c)
            for (int i = 0; i < 4; ++i) ds[c][i] = column[tile + 8 * c + i % 2];
          keys.template multiply<own_span>(query + step * next, p);
          values.template multiply<own_span>(gradient + step * next, ds);
          if (!all.covers(from + step, own_span)) hide(p, sight, row, from + step);
          for (int c = 0; c < own_span / 8; ++c)
            for (int i = 0; i < 4; ++i) {
              p[c][i] = power_of_two<T>(fmaf(p[c][i], factor, column[8 * c + i % 2]));
              ds[c][i] *= p[c][i];
            }
          Element* const room = shared + Room::own + lane.own_warp * Products::room;
          Products::template multiply_registers<own_span, depth>(p, gradient + step * next, dv, room);
          Products::template multiply_registers<own_span, depth>(ds, query + step * next, dk, room);
        }
      });
  const float* const table = batch.table(at);
  if (table != nullptr) turn_back<depth>(dk, row, at.rows, table);
  store_rows<Products, depth>(dk, batch.scale, batch.scale, key, batch.rows(dqkv, at, 3, 1), row);
  store_rows<Products, depth>(dv, 1, 1, value, batch.rows(dqkv, at, 3, 2), row);
}

// --- On the host. ---

/// How many numbers of 4 bytes order_kernel writes for a batch, at most.
inline constexpr int fewest_long_rows = 32;  // of a block, whatever its products
inline long order_size(int rows, int sequences) { return 4 * (static_cast<long>(rows) / fewest_long_rows + sequences); }

/// Writes the order of blocks for parts of so many rows, and gives how many parts there are at most.
inline int make_order(const std::int32_t* offsets, int sequences, int all_rows, int longest, int rows, Unit* order) {
  const int parts = (longest + rows - 1) / rows;
  const int units = static_cast<int>(std::min(static_cast<long>(sequences) * parts, static_cast<long>(all_rows) / rows + sequences));
  launch(order_kernel<>, dim3(static_cast<unsigned>(sequences > 0 ? parts : 0)), order_threads, order_threads / warp * sizeof(int), offsets, sequences,
         rows, units, order);
  return units;
}
template <class T>
dim3 long_blocks(const Batch<T>& batch, int units) {
  const long blocks = static_cast<long>(units) * batch.heads.count;
  require(blocks <= 0x7fffffffL, "a batch is too large for one call of attention: make it smaller");
  return dim3(static_cast<unsigned>(blocks));
}

template <int depth, class T>
void launch_long_forward(const T* qkv, const std::int32_t* offsets, int sequences, int rows, int longest, int width, const Heads& heads, T* out,
                         float* lse, Unit* order) {
  using Long = QueryLong<TensorCores, depth>;
  static_assert(Long::Forward::bytes <= most_shared_everywhere && Long::rows >= fewest_long_rows);
  const auto batch = batch_of(qkv, offsets, longest, Long::rows, width, heads, {}, aligned(out));
  const int units = make_order(offsets, sequences, rows, longest, Long::rows, order);
  launch(long_attention_kernel<TensorCores, depth, T>, long_blocks(batch, units), Long::threads, Long::Forward::bytes, batch, order, out, lse);
}

template <class Products, int depth, class T>
void launch_long_backward(const T* qkv, const T* out, const float* lse, const T* dout, const std::int32_t* offsets, int sequences, int rows,
                          int longest, int width, const Heads& heads, const Rotation& rotation, float* scratch, T* dqkv) {
  using Queries = QueryLong<Products, depth>;
  using Keys = KeyLong<Products, depth>;
  constexpr std::size_t query_room = Queries::Backward::bytes, key_room = Keys::Backward::bytes_with_columns;
  static_assert(std::max(query_room, key_room) <= (depth > 128 ? most_shared : most_shared_everywhere));
  static_assert(Queries::rows >= fewest_long_rows && Keys::rows >= fewest_long_rows);
  const auto batch = batch_of(qkv, offsets, longest, Queries::rows, width, heads, rotation, aligned(out) && aligned(dout) && aligned(dqkv));
  auto* const order = reinterpret_cast<Unit*>(scratch);
  float* const means = scratch + order_size(rows, sequences);
  int units = make_order(offsets, sequences, rows, longest, Queries::rows, order);
  launch(query_gradient_kernel<Products, depth, T>, long_blocks(batch, units), Queries::threads, query_room, batch, order, lse, out, dout, means, dqkv);
  if (Keys::rows != Queries::rows) units = make_order(offsets, sequences, rows, longest, Keys::rows, order);
  launch(key_gradient_kernel<Products, depth, T>, long_blocks(batch, units), Keys::threads, key_room, batch, order, lse, dout, means, dqkv);
}

}  // namespace relay::cuda::detail
