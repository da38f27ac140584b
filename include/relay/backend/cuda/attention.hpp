// Attention of the CUDA backend, forward and backward: T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
// Partitioning", 2023, arXiv 2307.08691.
//
//   S = scale Q K^T, where the mask allows   P = softmax(S) = e^(S - lse)   O = P V
//   dV = P^T dO   dP = dO V^T   dS = P (dP - D)   D = rowsum(P dP)   dQ = scale dS K   dK = scale dS^T Q
//
// Scores exist in registers alone: a warp has 16 rows of them, a few columns at a time. Forward takes keys tile by tile and corrects what
// it has summed whenever a larger score comes; it keeps the log-sum-exp of each row, from which backward computes P again. Every sum has one
// place where it is made, in one order: the same bits in every run.
//
// Which kernels a batch gets depends on its longest sequence:
//
//   packed_attention.hpp   up to 128 rows, of bf16, heads of 16, 32, 48 or 64 columns: nearly all of a training
//   long_attention.hpp     more than 128 rows: forward of bf16, heads of 16, 32, .. 128; backward of everything. And backward of up to 128
//                          rows where there is none here
//   warpgroup_attention.hpp   in the place of these, heads of 64 columns of bf16 on Hopper: other bits than beside sequences of up to 128 rows
//                          alone, which packed_attention.hpp has
//   cached_attention.hpp   a row that continues a cache
//   here                   the rest: float32 and heads of other sizes, of any length forward; bf16 heads of 80 to 128 columns; prompts that
//                          continue a cache; and batches that are not packed, as they have single rows only or too many sequences
//
// Here a block of threads has so many queries of one head of one sequence as it has warps, times 16. Backward has a whole head in one block,
// and P and dS in shared memory: up to 64 rows, with tensor cores 128, and only where that fits.
//
// Rotary positions (layer/rotary.hpp): queries and keys of short sequences are turned when they are in shared memory, their gradients turned
// back while they are in registers, and no pass over qkv is needed. In longer ones every block would turn the same keys again, so a pass
// turns them before; their gradients are turned back in registers too.
#pragma once

#include <cstdint>
#include <type_traits>

#include <relay/backend/cuda/attention_tiles.hpp>
#include <relay/backend/cuda/long_attention.hpp>
#include <relay/backend/cuda/warpgroup_attention.hpp>

namespace relay::cuda {

/// Whether attention and its backward pass can turn them themselves: what tensor cores have in one block. Tiles have as many columns as such
/// a head, so that a lane has both of a pair.
template <class T>
bool turns_inside(int size, int longest) {
  return std::is_same_v<T, bf16> && longest <= 128 && (size == 16 || size == 32 || size == 64);
}

/// Whether the backward pass can turn gradients back itself, given queries and keys that have been turned: where sequences are longer.
inline bool turns_back(int size, int longest) {
  return longest > 128 && (size == 16 || size == 32 || size == 64 || size == 128 || size == 256);
}

namespace detail {

/// e^x, as exact as elements of T are.
template <class T>
__device__ float exponential(float x) {
  if constexpr (std::is_same_v<T, float>)
    return expf(x);
  else
    return __expf(x);
}

/// Turns rows first .. first + rows - 1 of a head of `count` rows, which are in a tile of as many columns as it has, by `table`.
template <int rows, int depth, class Element>
__device__ void turn_rows(Element* tile, int first, int count, const float* table) {
  constexpr int half = depth / 2;
  for (int i = static_cast<int>(threadIdx.x); i < rows * half; i += static_cast<int>(blockDim.x)) {
    const int r = i / half, c = i % half;
    if (first + r >= count) break;
    Element* const at = tile + r * pitch<Element, depth> + c;
    const float* const angle = table + (first + r) * depth + c;
    float x = number(at[0]), y = number(at[half]);
    turn(x, y, angle[0], angle[half]);
    at[0] = element<Element>(x);
    at[half] = element<Element>(y);
  }
}

/// A tile after the other over a range, the next one on its way while one is used: begin(first row, stage), use(first row, stage).
template <int rows, class Begin, class Use>
__device__ void over_tiles(Range range, Begin begin, Use use) {
  int stage = 0, first = range.begin / rows * rows;
  begin(first, stage);
  end_copies();
  for (; first < range.end; first += rows, stage = 1 - stage) {
    if (first + rows < range.end) begin(first + rows, 1 - stage);
    end_copies();
    wait_for_copies<1>();
    __syncthreads();
    use(first, stage);
    __syncthreads();  // what is used is overwritten next
  }
}

/// Keys and values of earlier positions: element (slot, head, position, column) of a matrix of so many positions. Without: none.
template <class T>
struct Cache {
  T *keys = nullptr, *values = nullptr;
  const std::int32_t *slots = nullptr, *starts = nullptr;
  int positions = 0;
};

// --- Forward. ---

template <class Products, int depth, int warps>
struct ForwardRoom {
  static constexpr int row = pitch<typename Products::Element, depth>, query = 0, key = query + 16 * warps * row;
  static constexpr int stage = 2 * tile_rows<Products, depth> * row, own = key + 2 * stage, all = own + warps * Products::room;
};

template <class Products, int depth, int warps, class T>
__global__ void __launch_bounds__(warps* warp, depth <= 64 ? 2 : 1) attention_kernel(Batch<T> batch, Cache<T> cache, T* out, float* lse) {
  after_earlier_kernels();
  using Element = typename Products::Element;
  using Room = ForwardRoom<Products, depth, warps>;
  constexpr int next = Room::row, tile = tile_rows<Products, depth>;
  const auto at = batch.place();
  const int first = at.block * 16 * warps;
  if (first >= at.rows || (cache.keys && at.rows == 1)) return;  // a single row is decode_kernel's
  const int start = cache.keys ? cache.starts[at.sequence] : 0;
  const Sight sight{mask_of(batch.heads, at.head), at.rows, start + at.rows, start};
  auto keys = batch.rows(batch.qkv, at, 3, 1), values = batch.rows(batch.qkv, at, 3, 2);
  if (cache.keys) {
    const long slot = (static_cast<long>(cache.slots[at.sequence]) * batch.heads.count + at.head) * cache.positions * batch.size;
    keys = {cache.keys + slot, batch.size, sight.columns, batch.size, batch.wide};
    values = {cache.values + slot, batch.size, sight.columns, batch.size, batch.wide};
  }

  Element* const shared = shared_memory<Element>();
  const Lane lane;
  const float* const table = batch.table(at);
  bool turned = false;  // the queries
  Element* const query = shared + Room::query + 16 * lane.own_warp * next;
  Element* const room = shared + Room::own + lane.own_warp * Products::room;
  const int row = first + 16 * lane.own_warp;
  const Range own = sight.of(row, 16), seen[2] = {sight.of(row + lane.group), sight.of(row + lane.group + 8)};
  float sums[depth / 8][4] = {};
  RunningSoftmax<T> softmax;
  load_rows<16 * warps, depth>(batch.rows(batch.qkv, at, 3, 0), first, shared + Room::query);
  over_tiles<tile>(
      sight.of(first, 16 * warps),
      [&](int from, int stage) {
        load_rows<tile, depth>(keys, from, shared + Room::key + stage * Room::stage);
        load_rows<tile, depth>(values, from, shared + Room::key + stage * Room::stage + tile * next);
      },
      [&](int from, int stage) {
        Element* const key = shared + Room::key + stage * Room::stage;
        if (table != nullptr) {
          if (!turned) turn_rows<16 * warps, depth>(shared + Room::query, first, at.rows, table);
          turned = true;
          turn_rows<tile, depth>(key, from, at.rows, table);
          __syncthreads();
        }
        for (int step = 0; step < tile; step += span) {
          if (!own.meets(from + step, span)) continue;
          float p[span / 8][4] = {};
          Products::template multiply_transposed<depth, span>(query, key + step * next, p);
          for (int c = 0; c < span / 8; ++c)
            for (int i = 0; i < 4; ++i)
              if (!seen[i / 2].has(from + step + 8 * c + 2 * lane.member + i % 2)) p[c][i] = least_score;
          float correction[2];
          softmax.add(p, batch.scale * log2_e, correction);
          for (int c = 0; c < depth / 8; ++c)
            for (int i = 0; i < 4; ++i) sums[c][i] *= correction[i / 2];
          Products::template multiply_registers<span, depth>(p, key + (tile + step) * next, sums, room);
        }
      });

  float inverse[2];
  softmax.end(batch.scale, inverse, [&](int below, float value) {
    if (const int i = row + lane.group + below; lse && i < at.rows) lse[batch.of_row(at, i)] = value;
  });
  store_rows<Products, depth>(sums, inverse[0], inverse[1], query, batch.rows(out, at, 1, 0), row);
}

// --- Backward of short sequences: a head of a sequence is one block, which has all of it in shared memory. ---

template <class Products, int depth, int most>
struct ShortRoom {
  using Element = typename Products::Element;
  static constexpr int row = pitch<Element, depth>, query = 0, key = most * row, value = 2 * most * row, dout = 3 * most * row;
  static constexpr int p = 4 * most * row, ds = p + most * pitch<Element, most>, own = ds + most * pitch<Element, most>;
  static constexpr int all = own + most / 16 * Products::room;
};

template <class Products, int depth, int most, class T>
__global__ void __launch_bounds__(most* warp / 16) short_backward_kernel(Batch<T> batch, const float* lse, const T* dout, T* dqkv) {
  after_earlier_kernels();
  using Element = typename Products::Element;
  using Room = ShortRoom<Products, depth, most>;
  constexpr int next = Room::row, score_next = pitch<Element, most>, spans = most / span;
  const auto at = batch.place();
  const Sight sight{mask_of(batch.heads, at.head), at.rows, at.rows};
  Element* const shared = shared_memory<Element>();
  load_rows<most, depth>(batch.rows(batch.qkv, at, 3, 0), 0, shared + Room::query);
  load_rows<most, depth>(batch.rows(batch.qkv, at, 3, 1), 0, shared + Room::key);
  load_rows<most, depth>(batch.rows(dout, at, 1, 0), 0, shared + Room::dout);
  load_rows<most, depth>(batch.rows(batch.qkv, at, 3, 2), 0, shared + Room::value);
  end_copies();

  // A warp has 16 queries, and later 16 keys, of the same numbers.
  const Lane lane;
  const int row = 16 * lane.own_warp;
  const Range own = sight.of(row, 16), seen[2] = {sight.of(row + lane.group), sight.of(row + lane.group + 8)};
  float log_sum[2], mean[2] = {};
  for (int half = 0; half < 2; ++half) {
    const int i = row + lane.group + 8 * half;
    log_sum[half] = i < at.rows ? lse[batch.of_row(at, i)] : 0.0f;
  }
  wait_for_copies();
  __syncthreads();
  const float* const table = batch.table(at);
  if (table != nullptr) {
    turn_rows<most, depth>(shared + Room::query, 0, at.rows, table);
    turn_rows<most, depth>(shared + Room::key, 0, at.rows, table);
    __syncthreads();
  }
  float p[spans][span / 8][4] = {}, ds[spans][span / 8][4] = {};
  unrolled<spans>([&](auto s) {
    if (!own.meets(s * span, span)) return;
    Products::template multiply_transposed<depth, span>(shared + Room::query + row * next, shared + Room::key + s * span * next, p[s]);
    Products::template multiply_transposed<depth, span>(shared + Room::dout + row * next, shared + Room::value + s * span * next, ds[s]);
    for (int c = 0; c < span / 8; ++c)
      for (int i = 0; i < 4; ++i) {
        const bool sees = seen[i / 2].has(s * span + 8 * c + 2 * lane.member + i % 2);
        p[s][c][i] = sees ? exponential<T>(p[s][c][i] * batch.scale - log_sum[i / 2]) : 0.0f;
        mean[i / 2] += p[s][c][i] * ds[s][c][i];
      }
  });
  for (float& m : mean) m = sum_lanes<4>(m);
  unrolled<spans>([&](auto s) {
    if (!own.meets(s * span, span)) return;
    for (int c = 0; c < span / 8; ++c) {
      for (int i = 0; i < 4; ++i) ds[s][c][i] = p[s][c][i] * (ds[s][c][i] - mean[i / 2]);
      for (int half = 0; half < 2; ++half) {
        const int to = (row + lane.group + 8 * half) * score_next + s * span + 8 * c + 2 * lane.member;
        Products::put(shared + Room::p + to, p[s][c][2 * half], p[s][c][2 * half + 1]);
        Products::put(shared + Room::ds + to, ds[s][c][2 * half], ds[s][c][2 * half + 1]);
      }
    }
  });
  __syncthreads();
  if (row >= at.rows) return;

  Element* const free = shared + Room::value + row * next;  // nobody reads values any longer
  Element* const room = shared + Room::own + lane.own_warp * Products::room;
  float dq[depth / 8][4] = {};
  unrolled<spans>([&](auto s) {
    if (!own.meets(s * span, span)) return;
    Products::template multiply_registers<span, depth>(ds[s], shared + Room::key + s * span * next, dq, room);
  });
  if (table != nullptr) turn_back<depth>(dq, row, at.rows, table);
  store_rows<Products, depth>(dq, batch.scale, batch.scale, free, batch.rows(dqkv, at, 3, 0), row);
  // By whom the keys are seen: spans of 16 queries that meet these, in which P and dS have been written above.
  const Range by = sight.transposed().of(row, 16);
  for (int part = 1; part < 3; ++part) {
    float sums[depth / 8][4] = {};
    const Element* const scores = shared + (part == 1 ? Room::ds : Room::p) + row;
    const Element* const other = shared + (part == 1 ? Room::query : Room::dout);
    for (int k = by.begin / 16 * 16; k < by.end; k += 16) Products::template multiply_columns<most, depth>(scores, other, k, sums);
    if (part == 1 && table != nullptr) turn_back<depth>(sums, row, at.rows, table);
    const float factor = part == 1 ? batch.scale : 1.0f;
    store_rows<Products, depth>(sums, factor, factor, free, batch.rows(dqkv, at, 3, part), row);
  }
}

// --- On the host. ---

template <class T>
dim3 blocks_of(const Batch<T>& batch, int sequences) {
  const long blocks = static_cast<long>(sequences) * batch.heads.count * batch.blocks;
  require(blocks <= 0x7fffffffL, "a batch has ", sequences, " sequences, too many for one call of attention: make it smaller");
  return dim3(static_cast<unsigned>(blocks));
}

template <class Products, int depth, int warps, class T>
void launch_forward(const T* qkv, const std::int32_t* offsets, int sequences, int longest, int width, const Heads& heads, const Rotation& rotation,
                    const Cache<T>& cache, T* out, float* lse) {
  constexpr std::size_t shared = ForwardRoom<Products, depth, warps>::all * sizeof(typename Products::Element);
  static_assert(shared <= (depth > 128 ? most_shared : most_shared_everywhere));
  const bool others = aligned(out) && aligned(cache.keys) && aligned(cache.values);
  const auto batch = batch_of(qkv, offsets, longest, 16 * warps, width, heads, rotation, others);
  launch(attention_kernel<Products, depth, warps, T>, blocks_of(batch, sequences), warps * warp, shared, batch, cache, out, lse);
}

template <class T>
void forward(const T* qkv, const std::int32_t* offsets, int sequences, int longest, int width, const Heads& heads, const Rotation& rotation,
             const Cache<T>& cache, T* out, float* lse) {
  with_products<T>(width / heads.count, [&](auto products, auto depth) {
    using Products = decltype(products);
    if constexpr (std::is_same_v<Products, TensorCores>)  // so many rows that keys and values are read once
      if (longest > 64) return launch_forward<Products, depth, 8>(qkv, offsets, sequences, longest, width, heads, rotation, cache, out, lse);
    launch_forward<Products, depth, Products::template warps<depth>>(qkv, offsets, sequences, longest, width, heads, rotation, cache, out, lse);
  });
}

/// Whether there is a kernel for sequences up to `most`, and it was launched.
template <class Products, int depth, int most, class T>
bool launch_short_backward(const T* qkv, const float* lse, const T* dout, const std::int32_t* offsets, int sequences, int longest,
                           int width, const Heads& heads, const Rotation& rotation, T* dqkv) {
  constexpr std::size_t shared = ShortRoom<Products, depth, most>::all * sizeof(typename Products::Element);
  if constexpr (shared > most_shared_everywhere || (std::is_same_v<Products, Plain> && most > 64)) {
    return false;
  } else {
    if (longest > most) return false;
    const auto batch = batch_of(qkv, offsets, longest, most, width, heads, rotation, aligned(dout) && aligned(dqkv));
    launch(short_backward_kernel<Products, depth, most, T>, blocks_of(batch, sequences), 2 * most, shared, batch, lse, dout, dqkv);
    return true;
  }
}

}  // namespace detail

/// How many numbers attention and attention_backward need as scratch, each; it lies as 16 bytes want it.
inline long attention_scratch(int rows, int sequences, int longest) { return longest > 128 ? detail::order_size(rows, sequences) : 0; }
inline long attention_backward_scratch(int rows, int sequences, int heads) {
  return detail::order_size(rows, sequences) + static_cast<long>(rows) * heads;  // and D
}

/// Sequence s of qkv [rows, 3 width] is rows offsets[s] .. offsets[s + 1] - 1, on the device, and none is longer than `longest`.
/// out [rows, width], lse [rows, heads]. With a rotation, only where turns_inside<T>(), qkv is what is yet to be turned.
template <class T>
void attention(const T* qkv, const std::int32_t* offsets, int sequences, int rows, int longest, int width, const Heads& heads, std::int32_t* scratch,
               T* out, float* lse, const Rotation& rotation = {}) {
  using namespace detail;
  if constexpr (std::is_same_v<T, bf16>)
    if (longest > 128 && width / heads.count % 16 == 0 && width / heads.count <= 128)
      return with_products<T>(width / heads.count, [&](auto products, auto depth) {
        if (launch_warpgroup_forward(batch_of(qkv, offsets, longest, panel_rows, width, heads, {}, aligned(out)), sequences, rows, longest, out, lse,
                                     reinterpret_cast<Unit*>(scratch)))
          return;
        if constexpr (std::is_same_v<decltype(products), TensorCores>)
          launch_long_forward<depth>(qkv, offsets, sequences, rows, longest, width, heads, out, lse, reinterpret_cast<Unit*>(scratch));
      });
  forward<T>(qkv, offsets, sequences, longest, width, heads, rotation, {}, out, lse);
}

/// dout [rows, width] -> dqkv [rows, 3 width]; qkv, out, lse and rotation as they were in forward. Or, where turns_back(), with a rotation
/// that has turned qkv before.
template <class T>
void attention_backward(const T* qkv, const T* out, const float* lse, const T* dout, const std::int32_t* offsets, int sequences, int rows, int longest,
                        int width, const Heads& heads, float* scratch, T* dqkv, const Rotation& rotation = {}) {
  using namespace detail;
  with_products<T>(width / heads.count, [&](auto products, auto depth) {
    using Products = decltype(products);
    if (launch_short_backward<Products, depth, 64>(qkv, lse, dout, offsets, sequences, longest, width, heads, rotation, dqkv)) return;
    if (launch_short_backward<Products, depth, 96>(qkv, lse, dout, offsets, sequences, longest, width, heads, rotation, dqkv)) return;
    if (launch_short_backward<Products, depth, 128>(qkv, lse, dout, offsets, sequences, longest, width, heads, rotation, dqkv)) return;
    if constexpr (std::is_same_v<T, bf16>)
      if (launch_warpgroup_backward(batch_of(qkv, offsets, longest, panel_rows, width, heads, rotation, aligned(out) && aligned(dout) && aligned(dqkv)), out,
                                    lse, dout, sequences, rows, longest, reinterpret_cast<Unit*>(scratch), scratch + order_size(rows, sequences), dqkv))
        return;
    launch_long_backward<Products, depth>(qkv, out, lse, dout, offsets, sequences, rows, longest, width, heads, rotation, scratch, dqkv);
  });
}

}  // namespace relay::cuda
