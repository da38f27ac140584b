// Attention of the CUDA backend to a key-value cache, for generation.
//
// Keys and values of a cache lie as [slot, head, position, column], so a head of a sequence is read in one stretch. A sequence with one
// new row (a step of decoding) takes a block for each head, whose threads share its positions; one with more (a prompt) is appended and
// then goes through the tiles of attention.hpp. Which of them it is depends on the sequence alone, not on those beside it.
#pragma once

#include <relay/backend/cuda/attention.hpp>

namespace relay::cuda {

/// Whether a step of decoding can turn queries and keys of such heads itself: eight neighbours are of one half.
inline bool turns_in_a_step(int size) { return size % 16 == 0; }

namespace detail {

inline constexpr int eight = 8;  // neighbours, that a lane has of a row

/// As many elements as are read or written at once.
template <bool wide, class T>
inline constexpr int step_of = wide ? 16 / static_cast<int>(sizeof(T)) : 1;
template <bool wide, class T>
struct alignas(step_of<wide, T> * sizeof(T)) Elements {
  T x[step_of<wide, T>];
};

/// Eight elements of a row from `c` on. Beyond its end they are some others of the row, so that no load waits for a branch.
template <bool wide, class T>
__device__ void load_eight(const T* row, int c, int size, float (&x)[eight]) {
  constexpr int step = step_of<wide, T>;
  for (int i = 0; i < eight; i += step) {
    const auto part = *reinterpret_cast<const Elements<wide, T>*>(row + (c + i < size ? c + i : 0));
    for (int j = 0; j < step; ++j) x[i + j] = number(part.x[j]);
  }
}
/// The other way round; what would be beyond the row's end is not written.
template <bool wide, class T>
__device__ void store_eight(const float (&x)[eight], T* row, int c, int size) {
  constexpr int step = step_of<wide, T>;
  for (int i = 0; i < eight; i += step) {
    Elements<wide, T> part;
    for (int j = 0; j < step; ++j) part.x[j] = element<T>(x[i + j]);
    if (c + i < size) *reinterpret_cast<Elements<wide, T>*>(row + c + i) = part;
  }
}

/// 2^x, as exact as elements of T are.
template <class T>
__device__ float power_of_two(float x) {
  if constexpr (std::is_same_v<T, float>)
    return exp2f(x);
  else
    return quick_power_of_two(x);
}

/// Eight elements each of the keys and values of some positions, on their way to a thread: a place of its own in shared memory, which no
/// other thread reads or writes, so that nobody waits for another. Copies of some stages are under way at any time; they cost no registers.
template <bool wide, class T>
struct Arrivals {
  static constexpr int threads = 128, stages = 3, at_once = 4 / static_cast<int>(sizeof(T));  // positions of a stage
  static constexpr int parts = eight * static_cast<int>(sizeof(T)) / 16, pieces = at_once * 2 * parts;
  static constexpr std::size_t bytes = sizeof(Sixteen) * stages * pieces * threads;

  Sixteen* own;

  /// Begins to copy elements c .. c + 7 of a position's key (0) or value (1): zeros where they are beyond the row's end, or not wanted.
  __device__ void begin(int stage, int i, int which, const T* row, int c, int size, bool wanted) const {
    constexpr int step = 16 / static_cast<int>(sizeof(T));
    for (int part = 0; part < parts; ++part) {
      Sixteen* const to = at(stage, i, which, part);
      const int first = c + part * step;
      if constexpr (wide) {
        const bool there = wanted && first < size;
        copy_behind(to, row + (there ? first : 0), there);
      } else {
        for (int j = 0; j < step; ++j) reinterpret_cast<T*>(to)[j] = wanted && first + j < size ? row[first + j] : element<T>(0);
      }
    }
  }
  /// What has arrived.
  struct Eight {
    Sixteen parts[Arrivals::parts];
    __device__ float operator[](int i) const {
      if constexpr (std::is_same_v<T, float>) {
        return __int_as_float(static_cast<int>(parts[i / 4].words[i % 4]));
      } else {  // the upper half of a float32's bits
        const std::uint32_t two = parts[0].words[i / 2];
        return __int_as_float(static_cast<int>(i % 2 == 0 ? two << 16 : two & 0xffff0000u));
      }
    }
  };
  __device__ Eight get(int stage, int i, int which) const {
    Eight x;
    for (int part = 0; part < parts; ++part) x.parts[part] = *at(stage, i, which, part);
    return x;
  }

 private:
  __device__ Sixteen* at(int stage, int i, int which, int part) const {
    return own + ((stage * at_once + i) * 2 + which) * parts * threads + part * threads;
  }
};

/// Elements c .. c + 7 of a head's row x, turned; `other`: those that they are pairs with. All eight are of one half.
template <class T>
__device__ void turn_eight(float (&x)[eight], const float (&other)[eight], bool second, const float (&cosine)[eight], const float (&sine)[eight]) {
  for (int i = 0; i < eight; ++i) {
    float a = second ? other[i] : x[i], b = second ? x[i] : other[i];
    turn(a, b, cosine[i], sine[i]);
    x[i] = number(element<T>(second ? b : a));
  }
}

/// What a block of decode_kernel needs of shared memory: what arrives, and what each warp has found, [warps, depth + 2].
template <int depth, bool wide, class T>
inline constexpr std::size_t decode_bytes = Arrivals<wide, T>::bytes + Arrivals<wide, T>::threads / warp * (depth + 2) * sizeof(float);

/// One new row of a sequence. Lanes that have a position's columns between them (depth / 8) take a few positions at a time, and have copies
/// of the next ones under way. The new row's own key and value are in registers, and go to the cache for later steps. `only`: every
/// sequence has one new row, and nobody need ask where it is.
template <int depth, bool wide, class T>
__global__ void __launch_bounds__(Arrivals<wide, T>::threads, 8) decode_kernel(Batch<T> batch, Cache<T> cache, bool only, T* out) {
  using Arrivals = Arrivals<wide, T>;
  constexpr int threads = Arrivals::threads, warps = threads / warp, lanes = depth / eight, groups = threads / lanes;
  constexpr int at_once = Arrivals::at_once, stages = Arrivals::stages;
  const int sequence = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y), thread = static_cast<int>(threadIdx.x);
  const int begin = only ? sequence : batch.offsets[sequence];
  if (!only && batch.offsets[sequence + 1] - begin != 1) return;
  const int size = batch.size, start = cache.starts[sequence];
  const long slot = (static_cast<long>(cache.slots[sequence]) * batch.heads.count + head) * cache.positions;
  T* const keys = cache.keys + slot * size;
  T* const values = cache.values + slot * size;
  const T* const row = batch.qkv + static_cast<long>(begin) * 3 * batch.width + head * size;

  // Nothing of this waits for anything but `start` and `slot`.
  const int column = thread % lanes * eight, group = thread / lanes;
  Sixteen* const shared = shared_memory<Sixteen>();
  const Arrivals arrivals{shared + thread};
  const auto begin_stage = [&](int room, int first) {
    for (int i = 0; i < at_once; ++i) {
      const int position = first + i * groups;
      const bool wanted = position < start;
      const int at = wanted ? position * size : 0;
      arrivals.begin(room, i, 0, keys + at, column, size, wanted);
      arrivals.begin(room, i, 1, values + at, column, size, wanted);
    }
    end_copies();
  };
  for (int stage = 0; stage < stages; ++stage) begin_stage(stage, group + stage * at_once * groups);

  float query[eight], key[eight], value[eight];
  load_eight<wide>(row, column, size, query);
  load_eight<wide>(row + batch.width, column, size, key);
  load_eight<wide>(row + 2 * batch.width, column, size, value);
  if (head < batch.rotation.heads) {
    const int half = size / 2;
    const bool second = column >= half;
    const int pair = second ? column - half : column, others = second ? pair : half + pair;
    const float* const table = batch.rotation.table + static_cast<long>(start) * size;
    float other[eight], cosine[eight], sine[eight];
    load_eight<false>(table, pair, half, cosine);
    load_eight<false>(table + half, pair, half, sine);
    load_eight<wide>(row, others, size, other);
    turn_eight<T>(query, other, second, cosine, sine);
    load_eight<wide>(row + batch.width, others, size, other);
    turn_eight<T>(key, other, second, cosine, sine);
  }
  if (group == 0) {
    store_eight<wide>(key, keys + start * size, column, size);
    store_eight<wide>(value, values + start * size, column, size);
  }
  const float scale = batch.scale * 1.44269504f;  // log2(e): powers of two are quicker than those of e
  float own_score = 0;
  for (int i = 0; i < eight; ++i) {
    query[i] = column + i < size ? query[i] * scale : 0.0f;
    own_score += query[i] * key[i];
  }
  own_score = sum_lanes<lanes>(own_score);

  // The softmax over the positions of a group: sums of 2^(score - largest), and of that times the values. The first has the new row.
  float largest = group == 0 ? own_score : least_score, total = group == 0 ? 1.0f : 0.0f, sums[eight];
  for (int i = 0; i < eight; ++i) sums[i] = group == 0 ? value[i] : 0.0f;
  int room = 0;
  for (int first = group; first - group < start; first += at_once * groups) {
    using Eight = typename Arrivals::Eight;
    wait_for_copies<stages - 1>();
    Eight keys_here[at_once], values_here[at_once];
    for (int i = 0; i < at_once; ++i) keys_here[i] = arrivals.get(room, i, 0), values_here[i] = arrivals.get(room, i, 1);
    begin_stage(room, first + stages * at_once * groups);
    room = room + 1 == stages ? 0 : room + 1;
    float score[at_once], most = largest;
    for (int i = 0; i < at_once; ++i) {
      score[i] = 0;
      for (int j = 0; j < eight; ++j) score[i] += query[j] * keys_here[i][j];
      score[i] = sum_lanes<lanes>(score[i]);
      if (first + i * groups >= start) score[i] = least_score;
      most = fmaxf(most, score[i]);
    }
    const float correction = power_of_two<T>(largest - most);
    largest = most;
    total *= correction;
    for (float& x : sums) x *= correction;
    for (int i = 0; i < at_once; ++i) {
      const float p = first + i * groups < start ? power_of_two<T>(score[i] - most) : 0.0f;
      total += p;
      for (int j = 0; j < eight; ++j) sums[j] += p * values_here[i][j];
    }
  }
  wait_for_copies();

  // The union of a warp's groups, and that of the warps.
  float most = largest;
  for (int distance = lanes; distance < warp; distance *= 2) most = fmaxf(most, __shfl_xor_sync(whole_warp, most, distance));
  const float correction = power_of_two<T>(largest - most);
  const auto add_groups = [&](float x) {
    x *= correction;
    for (int distance = lanes; distance < warp; distance *= 2) x += __shfl_xor_sync(whole_warp, x, distance);
    return x;
  };
  float* const found = reinterpret_cast<float*>(shared) + Arrivals::bytes / sizeof(float);
  float* const to = found + thread / warp * (depth + 2);
  total = add_groups(total);
  for (int i = 0; i < eight; ++i) {
    const float sum = add_groups(sums[i]);
    if (thread % warp < lanes) to[column + i] = sum;
  }
  if (thread % warp == 0) to[depth] = most, to[depth + 1] = total;
  __syncthreads();
  largest = least_score;
  for (int w = 0; w < warps; ++w) largest = fmaxf(largest, found[w * (depth + 2) + depth]);
  float factor[warps];
  total = 0;
  for (int w = 0; w < warps; ++w) {
    factor[w] = power_of_two<T>(found[w * (depth + 2) + depth] - largest);
    total += factor[w] * found[w * (depth + 2) + depth + 1];
  }
  for (int c = thread; c < size; c += threads) {
    float sum = 0;
    for (int w = 0; w < warps; ++w) sum += factor[w] * found[w * (depth + 2) + c];
    out[static_cast<long>(begin) * batch.width + head * size + c] = element<T>(sum / total);
  }
}

/// Writes the keys and values of sequences with more than one new row to the cache, a block for some rows of a sequence.
inline constexpr int append_rows = 4;
template <class T>
__global__ void append_kernel(Batch<T> batch, Cache<T> cache) {
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
    const auto run = [&](auto wide) {
      launch(decode_kernel<depth, wide, T>, dim3(static_cast<unsigned>(sequences), static_cast<unsigned>(heads)), Arrivals<wide, T>::threads,
             decode_bytes<depth, wide, T>, batch, cache, longest_new == 1, out);
    };
    batch.wide ? run(std::true_type()) : run(std::false_type());
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
