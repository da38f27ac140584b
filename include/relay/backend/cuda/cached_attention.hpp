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

/// Eight elements of a row from `c` on. Beyond its end they are some others of the row, so that no load waits for a branch.
template <bool wide, class T>
__device__ void load_eight(const T* row, int c, int size, float (&x)[eight]) {
  constexpr int step = wide ? 16 / static_cast<int>(sizeof(T)) : 1;
  struct alignas(step * sizeof(T)) Elements {
    T x[step];
  };
  for (int i = 0; i < eight; i += step) {
    const Elements part = *reinterpret_cast<const Elements*>(row + (c + i < size ? c + i : 0));
    for (int j = 0; j < step; ++j) x[i + j] = number(part.x[j]);
  }
}

/// What is known of a softmax over some positions: sums of e^(score - largest) and of that times the values.
struct Softmax {
  float largest = least_score, total = 0, sums[eight] = {};

  /// The union with that of the lane so far away.
  template <class T>
  __device__ void join(int distance) {
    const float other = __shfl_xor_sync(whole_warp, largest, distance), most = fmaxf(largest, other);
    const float own_factor = exponential<T>(largest - most), other_factor = exponential<T>(other - most);
    largest = most;
    total = total * own_factor + __shfl_xor_sync(whole_warp, total, distance) * other_factor;
    for (float& x : sums) x = x * own_factor + __shfl_xor_sync(whole_warp, x, distance) * other_factor;
  }
};

inline constexpr int decode_threads = 256, decode_warps = decode_threads / warp;

/// One new row of a sequence. Lanes that have a position's columns between them (depth / 8) take a few positions at a time.
template <int depth, bool wide, class T>
__global__ void __launch_bounds__(decode_threads, 2) decode_kernel(Batch<T> batch, Cache<T> cache, T* out) {
  constexpr int lanes = depth / eight, groups = decode_threads / lanes, at_once = 4;
  const auto at = batch.place();
  if (at.rows != 1) return;
  const int size = batch.size, start = cache.starts[at.sequence], thread = static_cast<int>(threadIdx.x);
  const long slot = (static_cast<long>(cache.slots[at.sequence]) * batch.heads.count + at.head) * cache.positions;
  T* const keys = cache.keys + slot * size;
  T* const values = cache.values + slot * size;
  const T* const row = batch.qkv + static_cast<long>(at.begin) * 3 * batch.width + at.head * size;
  const float* const table = batch.table(at);
  const float* const angle = table == nullptr ? nullptr : table + static_cast<long>(start) * size;
  const int half = size / 2;
  for (int c = thread; c < size; c += decode_threads) {
    T key = row[batch.width + c];
    if (angle != nullptr) {
      const int pair = c % half;
      float x = number(row[batch.width + pair]), y = number(row[batch.width + half + pair]);
      turn(x, y, angle[pair], angle[half + pair]);
      key = element<T>(c < half ? x : y);
    }
    keys[start * size + c] = key;
    values[start * size + c] = row[2 * batch.width + c];
  }
  __syncthreads();

  const int column = thread % lanes * eight;
  float query[eight];
  load_eight<wide>(row, column, size, query);
  if (angle != nullptr) {  // the lane's eight are of one half
    float other[eight];
    const bool second = column >= half;
    load_eight<wide>(row, second ? column - half : column + half, size, other);
    for (int i = 0; i < eight; ++i) {
      const int pair = column % half + i;
      float x = second ? other[i] : query[i], y = second ? query[i] : other[i];
      turn(x, y, angle[pair], angle[half + pair]);
      query[i] = number(element<T>(second ? y : x));
    }
  }
  for (int i = 0; i < eight; ++i) query[i] = column + i < size ? query[i] * batch.scale : 0.0f;
  Softmax own;
  for (int first = thread / lanes; first - thread / lanes <= start; first += at_once * groups) {
    float score[at_once], value[at_once][eight];
    for (int i = 0; i < at_once; ++i) {
      const int position = first + i * groups < start ? first + i * groups : start;  // what is beyond the last counts nothing, below
      float key[eight];
      load_eight<wide>(keys + position * size, column, size, key);
      load_eight<wide>(values + position * size, column, size, value[i]);
      score[i] = 0;
      for (int j = 0; j < eight; ++j) score[i] += query[j] * key[j];
    }
    float most = own.largest;
    for (int i = 0; i < at_once; ++i) {
      score[i] = sum_lanes<lanes>(score[i]);
      if (first + i * groups > start) score[i] = least_score;
      most = fmaxf(most, score[i]);
    }
    const float correction = exponential<T>(own.largest - most);
    own.largest = most;
    own.total *= correction;
    for (float& x : own.sums) x *= correction;
    for (int i = 0; i < at_once; ++i) {
      const float p = first + i * groups > start ? 0.0f : exponential<T>(score[i] - most);
      own.total += p;
      for (int j = 0; j < eight; ++j) own.sums[j] += p * value[i][j];
    }
  }
  for (int distance = lanes; distance < warp; distance *= 2) own.join<T>(distance);

  // Each warp's into shared memory, [warps, depth + 2].
  float* const shared = shared_memory<float>();
  const Lane lane;
  float* const to = shared + lane.own_warp * (depth + 2);
  if (lane.thread < lanes)
    for (int i = 0; i < eight; ++i) to[column + i] = own.sums[i];
  if (lane.thread == 0) to[depth] = own.largest, to[depth + 1] = own.total;
  __syncthreads();
  if (thread >= size) return;
  float largest = least_score, total = 0, sum = 0;
  for (int w = 0; w < decode_warps; ++w) largest = fmaxf(largest, shared[w * (depth + 2) + depth]);
  for (int w = 0; w < decode_warps; ++w) {
    const float* const from = shared + w * (depth + 2);
    const float factor = exponential<T>(from[depth] - largest);
    total += factor * from[depth + 1];
    sum += factor * from[thread];
  }
  out[static_cast<long>(at.begin) * batch.width + at.head * size + thread] = element<T>(sum / total);
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
    const auto kernel = batch.wide ? decode_kernel<depth, true, T> : decode_kernel<depth, false, T>;
    launch(kernel, blocks_of(batch, sequences), decode_threads, decode_warps * (depth + 2) * sizeof(float), batch, cache, out);
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
