// Attention of the CUDA backend to a key-value cache, for generation.
//
// Keys and values of a cache lie as [slot, head, position, column], so a head of a sequence is read in one stretch. A sequence with one
// new row (a step of decoding) takes a block for each head, whose threads share its positions; one with more (a prompt) is appended and
// then goes through the tiles of attention.hpp. Which of them it is depends on the sequence alone, not on those beside it; only where a batch has more
// heads of sequences than the GPU has blocks at once are the blocks of steps smaller.
#pragma once

#include <relay/backend/cuda/attention.hpp>

namespace relay::cuda {

/// Whether a step of decoding can turn queries and keys of such heads itself: eight neighbours are of one half.
inline bool turns_in_a_step(int size) { return size % 16 == 0; }

namespace detail {

inline constexpr int eight = 8;  // neighbours, that a lane has of a row

/// How a head's rows lie: of as many columns as its kernel is for and in steps of 16 bytes; in such steps; anyhow.
enum class Lie { exact, wide, any };

/// Eight elements each of the keys and values of some positions, on their way to a thread: a place of its own in shared memory, which no
/// other thread reads or writes, so that nobody waits for another. Copies of some stages are under way at any time; they cost no registers.
template <Lie lie, class T, int threads>
struct Arrivals {
  static constexpr int stages = 3, at_once = 4 / static_cast<int>(sizeof(T));  // positions of a stage
  static constexpr int step = 16 / static_cast<int>(sizeof(T)), parts = eight / step;
  static constexpr std::size_t bytes = sizeof(Sixteen) * stages * at_once * 2 * parts * threads;

  Sixteen* own;

  /// Begins to copy elements c .. c + 7 of the i-th position's key (which: 0) or value (1): `from` is where they lie. Zeros come where they
  /// are beyond the row's end, or not wanted.
  __device__ void begin(int stage, int i, int which, const T* from, int c, int size, bool wanted) const {
    for (int part = 0; part < parts; ++part) {
      Sixteen* const to = at(stage, i, which, part);
      const int first = part * step;
      if constexpr (lie == Lie::any) {
        for (int j = 0; j < step; ++j) reinterpret_cast<T*>(to)[j] = wanted && c + first + j < size ? from[first + j] : element<T>(0);
      } else {
        copy_behind_once(to, from + first, wanted && c + first < size);  // so that weights stay in the L2 cache
      }
    }
  }
  /// What has arrived.
  struct Eight {
    Sixteen of[parts];
    __device__ float operator[](int i) const {
      if constexpr (std::is_same_v<T, float>) {
        return __int_as_float(static_cast<int>(of[i / 4].words[i % 4]));
      } else {  // the upper half of a float32's bits
        const std::uint32_t two = of[0].words[i / 2];
        return __int_as_float(static_cast<int>(i % 2 == 0 ? two << 16 : two & 0xffff0000u));
      }
    }
  };
  __device__ Eight get(int stage, int i, int which) const {
    Eight x;
    for (int part = 0; part < parts; ++part) x.of[part] = *at(stage, i, which, part);
    return x;
  }

 private:
  __device__ Sixteen* at(int stage, int i, int which, int part) const {
    return own + (((stage * at_once + i) * 2 + which) * parts + part) * threads;
  }
};

/// Shared memory of a block of decode_kernel: what arrives; the new row's query, and its key and value as they are kept; what each warp has
/// found: a sum for each column, the largest score and the sum of all weights.
template <int depth, Lie lie, class T, int threads>
struct DecodeRoom {
  static constexpr int warps = threads / warp, of_warp = depth + 4;
  static constexpr int query = static_cast<int>(Arrivals<lie, T, threads>::bytes / sizeof(float)), key = query + depth;
  static constexpr int found = key + 2 * depth * static_cast<int>(sizeof(T)) / static_cast<int>(sizeof(float));
  static constexpr std::size_t bytes = (found + warps * of_warp) * sizeof(float);
};

/// One new row of a sequence. Lanes that have a position's columns between them (depth / 8) take a few positions at a time, and have copies
/// of the next ones under way. The new row's own key and value are not read back from where they are kept for later steps. `only`: every
/// sequence has one new row, so that nobody need ask where it is.
template <int depth, Lie lie, class T, int threads>
__global__ void __launch_bounds__(threads, (lie == Lie::any ? 512 : 1024) / threads)
decode_kernel(Batch<T> batch, Cache<T> cache, bool only, T* out) {
  after_earlier_kernels();
  using Coming = Arrivals<lie, T, threads>;
  using Room = DecodeRoom<depth, lie, T, threads>;
  constexpr int lanes = depth / eight, groups = threads / lanes;
  constexpr int at_once = Coming::at_once, of_stage = at_once * groups, stages = Coming::stages;
  const int sequence = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int begin = only ? sequence : batch.offsets[sequence];
  if (!only && batch.offsets[sequence + 1] - begin != 1) return;
  const int size = lie == Lie::exact ? depth : batch.size, start = cache.starts[sequence];
  const long slot = (static_cast<long>(cache.slots[sequence]) * batch.heads.count + head) * cache.positions * size;

  float* const shared = shared_memory<float>();
  const Coming coming{reinterpret_cast<Sixteen*>(shared) + thread};
  const int group = thread / lanes, column = thread % lanes * eight;
  const T* next_key = cache.keys + slot + group * size + column;
  const T* next_value = cache.values + slot + group * size + column;
  const auto begin_stage = [&](int stage, int first) {
    for (int i = 0; i < at_once; ++i) {
      const bool wanted = first + i * groups + group < start;
      coming.begin(stage, i, 0, next_key + i * groups * size, column, size, wanted);
      coming.begin(stage, i, 1, next_value + i * groups * size, column, size, wanted);
    }
    next_key += of_stage * size;
    next_value += of_stage * size;
    end_copies();
  };
  for (int stage = 0; stage < stages; ++stage) begin_stage(stage, stage * of_stage);

  // Meanwhile a column each of the new row. log2(e): powers of two are quicker than those of e.
  float* const queries = shared + Room::query;
  T* const own_key = reinterpret_cast<T*>(shared + Room::key);
  const float scale = batch.scale * 1.44269504f;
  for (int from = 0; from < depth; from += threads) {
    const int c = from + thread;
    if (c >= depth) break;
    float query = 0, key = 0;
    T kept = element<T>(0);
    if (c < size) {
      const T* const own = batch.qkv + static_cast<long>(begin) * 3 * batch.width + head * size + c;
      query = number(own[0]);
      key = number(own[batch.width]);
      kept = own[2 * batch.width];
      if (head < batch.rotation.heads) {
        const int half = size / 2, other = c < half ? half : -half;
        const float* const angle = batch.rotation.table + static_cast<long>(start) * size + (c < half ? c : c - half);
        const float cosine = angle[0], sine = angle[half], second_query = number(own[other]), second_key = number(own[batch.width + other]);
        const auto turned = [&](float x, float y) {
          if (c >= half) {
            turn(y, x, cosine, sine);
          } else {
            turn(x, y, cosine, sine);
          }
          return number(element<T>(x));
        };
        query = turned(query, second_query);
        key = turned(key, second_key);
      }
      cache.keys[slot + start * size + c] = element<T>(key);
      cache.values[slot + start * size + c] = kept;
    }
    queries[c] = query * scale;
    own_key[c] = element<T>(key);
    own_key[depth + c] = kept;
  }
  __syncthreads();
  float query[eight];
  for (int i = 0; i < eight; ++i) query[i] = queries[column + i];

  // The softmax over the positions of a group: sums of 2^(score - largest), and of that times the values. The first has the new row.
  float largest = least_score, total = 0, sums[eight] = {};
  if (thread < warp) {
    float score = 0;
    for (int i = 0; i < eight; ++i) score += query[i] * number(own_key[column + i]);
    score = sum_lanes<lanes>(score);
    if (group == 0) {
      largest = score;
      total = 1;
      for (int i = 0; i < eight; ++i) sums[i] = number(own_key[depth + column + i]);
    }
  }
  int stage = 0;
  for (int first = 0; first < start; first += of_stage) {
    wait_for_copies<stages - 1>();
    typename Coming::Eight key[at_once], value[at_once];
    for (int i = 0; i < at_once; ++i) {
      key[i] = coming.get(stage, i, 0);
      value[i] = coming.get(stage, i, 1);
    }
    begin_stage(stage, first + stages * of_stage);
    stage = stage + 1 == stages ? 0 : stage + 1;
    float score[at_once], most = largest;
    for (int i = 0; i < at_once; ++i) {
      score[i] = 0;
      for (int j = 0; j < eight; ++j) score[i] += query[j] * key[i][j];
      score[i] = sum_lanes<lanes>(score[i]);
      most = fmaxf(most, first + i * groups + group < start ? score[i] : least_score);
    }
    const float correction = power_of_two<T>(largest - most);
    largest = most;
    total *= correction;
    for (float& x : sums) x *= correction;
    for (int i = 0; i < at_once; ++i) {
      const float p = first + i * groups + group < start ? power_of_two<T>(score[i] - most) : 0.0f;
      total += p;
      for (int j = 0; j < eight; ++j) sums[j] += p * value[i][j];
    }
  }
  wait_for_copies();

  // The union of a warp's groups, and then that of the warps.
  float most = largest;
  for (int distance = lanes; distance < warp; distance *= 2) most = fmaxf(most, __shfl_xor_sync(whole_warp, most, distance));
  const float correction = power_of_two<T>(largest - most);
  const auto add_groups = [&](float x) {
    x *= correction;
    for (int distance = lanes; distance < warp; distance *= 2) x += __shfl_xor_sync(whole_warp, x, distance);
    return x;
  };
  float* const found = shared + Room::found;
  float* const of_warp = found + thread / warp * Room::of_warp;
  total = add_groups(total);
  for (float& x : sums) x = add_groups(x);
  if (thread % warp < lanes)
    for (int i = 0; i < eight; ++i) of_warp[column + i] = sums[i];
  if (thread % warp == 0) of_warp[depth] = most, of_warp[depth + 1] = total;
  __syncthreads();
  for (int from = 0; from < depth; from += threads) {
    const int c = from + thread;
    if (c >= size) break;
    float top = least_score, weight = 0, sum = 0;
    for (int w = 0; w < Room::warps; ++w) top = fmaxf(top, found[w * Room::of_warp + depth]);
    for (int w = 0; w < Room::warps; ++w) {
      const float* const part = found + w * Room::of_warp;
      const float factor = power_of_two<T>(part[depth] - top);
      weight += factor * part[depth + 1];
      sum += factor * part[c];
    }
    out[static_cast<long>(begin) * batch.width + head * size + c] = element<T>(__fdividef(sum, weight));
  }
}

/// Writes the keys and values of sequences with more than one new row to the cache, a block for some rows of a sequence.
inline constexpr int append_rows = 4;
template <class T>
__global__ void append_kernel(Batch<T> batch, Cache<T> cache) {
  after_earlier_kernels();
  const int sequence = static_cast<int>(blockIdx.x) / batch.blocks, first = static_cast<int>(blockIdx.x) % batch.blocks * append_rows;
  const int begin = batch.offsets[sequence], rows = batch.offsets[sequence + 1] - begin;
  if (rows == 1) return;
  const long slot = static_cast<long>(cache.slots[sequence]) * batch.heads.count;
  const int start = cache.starts[sequence], last = first + append_rows < rows ? first + append_rows : rows;
  const int step = batch.wide ? 16 / static_cast<int>(sizeof(T)) : 1;
  for (int r = first; r < last; ++r)
    for (int c = static_cast<int>(threadIdx.x) * step; c < 2 * batch.width; c += static_cast<int>(blockDim.x) * step) {
      const bool value = c >= batch.width;
      const int column = value ? c - batch.width : c, head = column / batch.size;
      T* const to = (value ? cache.values : cache.keys) + ((slot + head) * cache.positions + start + r) * batch.size + column % batch.size;
      const T* const from = batch.qkv + static_cast<long>(begin + r) * 3 * batch.width + batch.width + c;
      if (batch.wide)
        *reinterpret_cast<Sixteen*>(to) = *reinterpret_cast<const Sixteen*>(from);
      else
        *to = *from;
    }
}

}  // namespace detail

/// A multiprocessor has so many blocks of decode_kernel of 128 threads at once. Where there are more, they have 64, and up to twice as many are
/// there: all of them wait for their first keys together, and not one half behind the other.
inline constexpr long decode_blocks_at_once = 8;

/// Sequence s continues slot slots[s] of a cache of so many `positions` at position starts[s]: its keys and values are appended, and each
/// of its rows attends causally to all up to its own. keys, values [slots, heads, positions, size]; out [rows, width]. A rotation only
/// where the longest has one new row, and turns_in_a_step(): qkv is what is yet to be turned.
template <class T>
void attention_cached(const T* qkv, const std::int32_t* offsets, int sequences, int longest_new, const std::int32_t* slots,
                      const std::int32_t* starts, int width, int heads, T* keys, T* values, int positions, T* out, const Rotation& rotation = {}) {
  using namespace detail;
  const Cache<T> cache{keys, values, slots, starts, positions};
  const Heads causal{heads, Mask::causal};
  const bool others = aligned(keys) && aligned(values) && aligned(out);
  const auto decode = [&](auto depth) {
    const auto batch = batch_of(qkv, offsets, 1, 1, width, causal, rotation, others);
    const auto run = [&](auto lie, auto threads) {
      const dim3 blocks(static_cast<unsigned>(sequences), static_cast<unsigned>(heads));
      launch(decode_kernel<depth, lie, T, threads>, blocks, threads, DecodeRoom<depth, lie, T, threads>::bytes, batch, cache, longest_new == 1, out);
    };
    const Constant<128> usual;
    if (!batch.wide)
      run(std::integral_constant<Lie, Lie::any>(), usual);
    else if (batch.size < depth)
      run(std::integral_constant<Lie, Lie::wide>(), usual);
    else if (static_cast<long>(sequences) * heads <= decode_blocks_at_once * multiprocessors())
      run(std::integral_constant<Lie, Lie::exact>(), usual);
    else
      run(std::integral_constant<Lie, Lie::exact>(), Constant<64>());
  };
  const int size = width / heads;
  require(size <= 256, "a head has ", size, " columns, but attention on the GPU takes at most 256: take more heads");
  if (size <= 16)
    decode(Constant<16>());
  else if (size <= 32)
    decode(Constant<32>());
  else if (size <= 64)
    decode(Constant<64>());
  else if (size <= 128)
    decode(Constant<128>());
  else
    decode(Constant<256>());
  if (longest_new == 1) return;
  const auto batch = batch_of(qkv, offsets, longest_new, append_rows, width, causal, {}, others);
  launch(append_kernel<T>, dim3(static_cast<unsigned>(sequences * batch.blocks)), 256, 0, batch, cache);
  forward<T>(qkv, offsets, sequences, longest_new, width, causal, {}, cache, out, nullptr);
}

}  // namespace relay::cuda
