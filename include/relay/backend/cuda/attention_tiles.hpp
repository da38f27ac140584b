// What all kernels of attention are made of (attention.hpp says which there are): what a position sees, tiles of rows in shared memory,
// their products, the softmax of scores that come one after another, and what a kernel is told.
//
// Products are TensorCores' for bf16 and heads of 16, 32, .. 128; otherwise Plain, float32. Both have the same fragments, so there is one
// text of each kernel. Sums, and everything between products, are float32.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>
#include <utility>

#include <relay/backend/cuda/numbers.hpp>
#include <relay/backend/ops.hpp>

namespace relay::cuda {

/// What the queries and keys of the first `heads` heads are turned by: layer/rotary.hpp's table [positions, size], on the device.
struct Rotation {
  int heads = 0;
  const float* table = nullptr;
};

namespace detail {

// --- What a position sees. ---

/// Heads::operator(), on the device.
__device__ inline Mask mask_of(const Heads& heads, int head) {
  const int from_last = heads.count - 1 - head;
  if (heads.mask != Mask::none || from_last >= heads.directional) return heads.mask;
  return from_last % 2 == 0 ? Mask::causal : Mask::anticausal;
}

struct Range {
  int begin = 0, end = 0;
  __device__ bool has(int i) const { return begin <= i && i < end; }
  __device__ bool meets(int first, int count) const { return begin < first + count && first < end; }
  __device__ bool covers(int first, int count) const { return begin <= first && first + count <= end; }
};

/// Which columns of a matrix of scores its rows see. Row i has the position shift + i among the columns' (only with a causal mask).
struct Sight {
  Mask mask;
  int rows, columns, shift = 0;

  /// What rows first .. first + count - 1 see, taken together; rows that do not exist see nothing.
  __device__ Range of(int first, int count = 1) const {
    if (first >= rows) return {};
    const int last = first + count < rows ? first + count : rows;
    const int end = shift + last < columns ? shift + last : columns;
    return {mask == Mask::anticausal ? first : 0, mask == Mask::causal ? end : columns};
  }
  /// What each of them sees that exists.
  __device__ Range of_each(int first, int count) const {
    if (first >= rows) return {};
    const int last = first + count < rows ? first + count : rows;
    return {mask == Mask::anticausal ? last - 1 : 0, of(first).end};
  }
  /// The other way round: by which rows a column is seen.
  __device__ Sight transposed() const {
    const Mask other = mask == Mask::causal ? Mask::anticausal : mask == Mask::anticausal ? Mask::causal : Mask::none;
    return {other, columns, rows};
  }
};

/// Stands for minus infinity, but differences of it are numbers.
inline constexpr float least_score = -1e30f;

/// 2^x, as exact as elements of T are: what the hardware has, so scores are multiplied by this where e^x is meant.
template <class T>
__device__ float power_of_two(float x) {
  if constexpr (std::is_same_v<T, float>)
    return exp2f(x);
  else
    return quick_power_of_two(x);
}
inline constexpr float log2_e = 1.4426950408889634f;

template <int value>
using Constant = std::integral_constant<int, value>;

/// f(Constant<0>()), .. f(Constant<count - 1>()): a loop whose arrays stay in registers, whatever the compiler thinks of it.
template <int count, class F>
__device__ void unrolled(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (f(Constant<i>()), ...); }(std::make_integer_sequence<int, count>());
}

// --- Tiles: rows of a head in shared memory. ---

/// Elements from a row of a tile to the next: 16 bytes more than a row has, so that eight rows lie in different banks.
template <class Element, int columns>
inline constexpr int pitch = columns + 16 / static_cast<int>(sizeof(Element));

struct alignas(16) Sixteen {
  std::uint32_t words[4];
};

/// A head of a sequence in global memory: `count` rows of `size` elements, `stride` elements apart. wide: in steps of 16 bytes.
template <class T>
struct HeadRows {
  T* at;
  long stride;
  int count, size;
  bool wide;
};

/// Copies rows first .. first + rows - 1 to a tile, zeros where there is nothing, element by element.
template <int rows, int depth, class Element, class T>
__device__ void load_elements(const HeadRows<T>& from, int first, Element* to) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * depth; i += static_cast<int>(blockDim.x)) {
    const int r = i / depth, c = i % depth;
    const bool there = first + r < from.count && c < from.size;
    to[r * pitch<Element, depth> + c] = element<Element>(there ? number(from.at[(first + r) * from.stride + c]) : 0.0f);
  }
}

/// Begins to copy rows first .. first + rows - 1 to a tile, zeros where there is nothing. They are there after wait_for_copies() and a
/// barrier.
template <int rows, int depth, class Element, class T>
__device__ void load_rows(const HeadRows<T>& from, int first, Element* to) {
  if constexpr (std::is_same_v<std::remove_const_t<T>, Element>) {
    if (from.wide) {
      constexpr int step = 16 / static_cast<int>(sizeof(T)), steps = depth / step;
      const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
      for (int i = thread; i < rows * steps; i += threads) {
        const int r = i / steps, c = i % steps * step;
        const bool there = first + r < from.count && c < from.size;
        copy_behind(to + r * pitch<Element, depth> + c, there ? from.at + (first + r) * from.stride + c : from.at, there);
      }
      return;
    }
  }
  load_elements<rows, depth>(from, first, to);
}

/// What thread this is: `group` and `member` say which part of a fragment its lane has.
struct Lane {
  int thread = static_cast<int>(threadIdx.x % warp), own_warp = static_cast<int>(threadIdx.x / warp);  // divided as what is not negative
  int group = thread / 4, member = thread % 4;
};

// --- Products of tiles. ---
//
// The results of a warp are 16 rows, eight columns a fragment. A lane has of a fragment {row group, columns 2 member + {0, 1}; row
// group + 8, the same columns}, as tensor cores have it.

/// By tensor cores, from bf16.
struct TensorCores {
  using Element = bf16;
  static constexpr int room = 0;
  template <int depth>
  static constexpr int warps = 4;  // of a block, unless a kernel takes more

  /// sums [16, columns] += a b^T of tiles a [16, depth], b [columns, depth].
  template <int depth, int columns>
  static __device__ void multiply_transposed(const bf16* a, const bf16* b, float (&sums)[columns / 8][4]) {
    constexpr int next = pitch<bf16, depth>;
    const int lane = Lane().thread;
    a += lane % 16 * next + lane / 16 * 8;
    b += (lane / 16 * 8 + lane % 8) * next + lane / 8 % 2 * 8;
    for (int k = 0; k < depth; k += 16) {
      std::uint32_t left[4];
      load_tiles(left, a + k);
      for (int n = 0; n < columns; n += 16) {
        std::uint32_t right[4];
        load_tiles(right, b + n * next + k);
        multiply_two(left, right, sums[n / 8], sums[n / 8 + 1]);
      }
    }
  }

  /// sums [16, columns] += p b: p [16, depth] is the warp's, in registers; b [depth, columns] a tile.
  template <int depth, int columns>
  static __device__ void multiply_registers(const float (&p)[depth / 8][4], const bf16* b, float (&sums)[columns / 8][4], bf16* /*room*/) {
    for (int k = 0; k < depth; k += 16) {
      const float(&first)[4] = p[k / 8];
      const float(&second)[4] = p[k / 8 + 1];
      const std::uint32_t left[4] = {pair(first[0], first[1]), pair(first[2], first[3]), pair(second[0], second[1]),
                                     pair(second[2], second[3])};
      multiply_rows<columns>(left, b + k * pitch<bf16, columns>, sums);
    }
  }

  /// sums [16, columns] += a^T b for rows k .. k + 15 of both: 16 columns of a tile of so many, and b [.., columns] a tile.
  template <int columns_of_a, int columns>
  static __device__ void multiply_columns(const bf16* a, const bf16* b, int k, float (&sums)[columns / 8][4]) {
    const int lane = Lane().thread;
    std::uint32_t left[4];
    load_tiles_transposed(left, a + (k + lane / 16 * 8 + lane % 8) * pitch<bf16, columns_of_a> + lane / 8 % 2 * 8);
    multiply_rows<columns>(left, b + k * pitch<bf16, columns>, sums);
  }

  /// Two neighbours.
  static __device__ void put(bf16* to, float first, float second) { *reinterpret_cast<std::uint32_t*>(to) = pair(first, second); }

 private:
  static __device__ void multiply_two(const std::uint32_t (&left)[4], const std::uint32_t (&right)[4], float (&first)[4],
                                      float (&second)[4]) {
    multiply_tiles(first, left, {right[0], right[1]});
    multiply_tiles(second, left, {right[2], right[3]});
  }
  template <int columns>
  static __device__ void multiply_rows(const std::uint32_t (&left)[4], const bf16* b, float (&sums)[columns / 8][4]) {
    const int lane = Lane().thread;
    b += lane % 16 * pitch<bf16, columns> + lane / 16 * 8;
    for (int n = 0; n < columns; n += 16) {
      std::uint32_t right[4];
      load_tiles_transposed(right, b + n);
      multiply_two(left, right, sums[n / 8], sums[n / 8 + 1]);
    }
  }
};

/// By a fused multiplication and addition each, from float32: the same functions.
struct Plain {
  using Element = float;
  static constexpr int room = 16 * pitch<float, 32>;  // of a warp, in shared memory: registers of other lanes are read there
  template <int depth>
  static constexpr int warps = depth > 128 ? 2 : 4;

  struct alignas(16) Four {
    float x[4];
  };
  struct alignas(8) Two {
    float x[2];
  };
  static __device__ Four four(const float* from) { return *reinterpret_cast<const Four*>(from); }
  static __device__ Two two(const float* from) { return *reinterpret_cast<const Two*>(from); }

  template <int depth, int columns>
  static __device__ void multiply_transposed(const float* a, const float* b, float (&sums)[columns / 8][4]) {
    constexpr int next = pitch<float, depth>;
    const Lane lane;
    a += lane.group * next;
    b += 2 * lane.member * next;
    for (int k = 0; k < depth; k += 4) {
      const Four upper = four(a + k), lower = four(a + 8 * next + k);
      for (int n = 0; n < columns; n += 8)
        for (int j = 0; j < 2; ++j) {
          const Four right = four(b + (n + j) * next + k);
          for (int i = 0; i < 4; ++i) {
            sums[n / 8][j] += upper.x[i] * right.x[i];
            sums[n / 8][2 + j] += lower.x[i] * right.x[i];
          }
        }
    }
  }

  template <int depth, int columns>
  static __device__ void multiply_registers(const float (&p)[depth / 8][4], const float* b, float (&sums)[columns / 8][4], float* room) {
    static_assert(depth == 32);
    constexpr int next = pitch<float, depth>;
    const Lane lane;
    for (int k = 0; k < depth; k += 8) {
      float* const at = room + lane.group * next + k + 2 * lane.member;
      put(at, p[k / 8][0], p[k / 8][1]);
      put(at + 8 * next, p[k / 8][2], p[k / 8][3]);
    }
    __syncwarp();
    const float* const upper = room + lane.group * next;
    for (int k = 0; k < depth; ++k) multiply_row<columns>(upper[k], upper[8 * next + k], b + k * pitch<float, columns>, sums);
    __syncwarp();
  }

  template <int columns_of_a, int columns>
  static __device__ void multiply_columns(const float* a, const float* b, int k, float (&sums)[columns / 8][4]) {
    const int group = Lane().group;
    for (int i = k; i < k + 16; ++i) {
      const float* const row = a + i * pitch<float, columns_of_a> + group;
      multiply_row<columns>(row[0], row[8], b + i * pitch<float, columns>, sums);
    }
  }

  static __device__ void put(float* to, float first, float second) { *reinterpret_cast<Two*>(to) = {{first, second}}; }

 private:
  template <int columns>
  static __device__ void multiply_row(float upper, float lower, const float* row, float (&sums)[columns / 8][4]) {
    const int member = Lane().member;
    for (int n = 0; n < columns; n += 8) {
      const Two right = two(row + n + 2 * member);
      for (int j = 0; j < 2; ++j) {
        sums[n / 8][j] += upper * right.x[j];
        sums[n / 8][2 + j] += lower * right.x[j];
      }
    }
  }
};

/// Turns the sums of rows first .. first + 15 of a head of `count` rows and `depth` columns back.
template <int depth>
__device__ void turn_back(float (&sums)[depth / 8][4], int first, int count, const float* table) {
  constexpr int half = depth / 2;
  struct alignas(8) Neighbours {
    float x[2];
  };
  const Lane lane;
  // Without branches, so that everything is read of the table at the same time.
  unrolled<2>([&](auto lower) {
    const int row = first + lane.group + 8 * lower;
    const float* const angle = table + (row < count ? row : 0) * depth + 2 * lane.member;
    unrolled<half / 8>([&](auto c) {
      const Neighbours cosine = *reinterpret_cast<const Neighbours*>(angle + 8 * c);
      const Neighbours sine = *reinterpret_cast<const Neighbours*>(angle + half + 8 * c);
      for (int j = 0; j < 2; ++j) turn(sums[c][2 * lower + j], sums[c + half / 8][2 * lower + j], cosine.x[j], -sine.x[j]);
    });
  });
}

/// Rows first .. first + 15 of `to` = sums; `upper` and `lower` are the factors of the rows that a lane has. `tile`: 16 rows of a tile that
/// only this warp reads or writes.
template <class Products, int depth, class T>
__device__ void store_rows(const float (&sums)[depth / 8][4], float upper, float lower, typename Products::Element* tile,
                           const HeadRows<T>& to, int first) {
  using Element = typename Products::Element;
  constexpr int next = pitch<Element, depth>;
  const Lane lane;
  __syncwarp();
  for (int c = 0; c < depth; c += 8) {
    Element* const at = tile + lane.group * next + c + 2 * lane.member;
    Products::put(at, sums[c / 8][0] * upper, sums[c / 8][1] * upper);
    Products::put(at + 8 * next, sums[c / 8][2] * lower, sums[c / 8][3] * lower);
  }
  __syncwarp();
  if constexpr (std::is_same_v<T, Element>) {
    if (to.wide) {
      constexpr int step = 16 / static_cast<int>(sizeof(T)), steps = depth / step;
      constexpr int turns = 16 * steps / warp, together = turns < 4 ? turns : 4;  // what is read together waits once
      for (int i = lane.thread; i < 16 * steps; i += together * warp) {
        Sixteen read[together];
        unrolled<together>([&](auto t) {
          const int j = i + t * warp;
          read[t] = *reinterpret_cast<const Sixteen*>(tile + j / steps * next + j % steps * step);
        });
        unrolled<together>([&](auto t) {
          const int j = i + t * warp, r = j / steps, c = j % steps * step;
          if (first + r < to.count && c < to.size) *reinterpret_cast<Sixteen*>(to.at + (first + r) * to.stride + c) = read[t];
        });
      }
      return;
    }
  }
  for (int i = lane.thread; i < 16 * depth; i += warp) {
    const int r = i / depth, c = i % depth;
    if (first + r < to.count && c < to.size) to.at[(first + r) * to.stride + c] = element<T>(number(tile[r * next + c]));
  }
}

// --- Blocks. ---

inline constexpr int span = 32;  // so many columns of scores a warp has at a time
inline constexpr std::size_t most_shared = 227 * 1024;            // bytes of a block
inline constexpr std::size_t most_shared_everywhere = 163 * 1024;  // on an A100 too

/// Of what is taken tile by tile: fewer, where two stages of them fill the shared memory.
template <class Products, int depth>
inline constexpr int tile_rows = sizeof(typename Products::Element) * depth > 256 ? 32 : 64;

/// What all kernels are given.
template <class T>
struct Batch {
  const T* qkv;
  const std::int32_t* offsets;
  Heads heads;
  int width, size, blocks;  // of all heads; of one; blocks of threads for a sequence's rows
  float scale;
  bool wide;
  Rotation rotation = {};

  /// A sequence, a head and a part of the sequence's rows.
  struct Place {
    int sequence, head, block, begin, rows;
  };
  __device__ Place place() const {
    const int i = static_cast<int>(blockIdx.x), head = i / blocks % heads.count, sequence = i / blocks / heads.count;
    const int begin = offsets[sequence];
    return {sequence, head, i % blocks, begin, offsets[sequence + 1] - begin};
  }
  /// What the head is turned by, null: it is not.
  __device__ const float* table(const Place& at) const { return at.head < rotation.heads ? rotation.table : nullptr; }
  /// Where a matrix [rows, heads] has the number of a row of the sequence.
  __device__ long of_row(const Place& at, int row) const { return static_cast<long>(at.begin + row) * heads.count + at.head; }
  /// Part 0, 1, 2 of a matrix [rows, parts width]: queries, keys, values, or what belongs to them.
  template <class U>
  __device__ HeadRows<U> rows(U* matrix, const Place& at, int parts, int part) const {
    const long stride = static_cast<long>(parts) * width;
    return {matrix + at.begin * stride + static_cast<long>(part) * width + at.head * size, stride, at.rows, size, wide};
  }
};

// --- The softmax. ---

/// Softmax of 16 rows, some columns after the other: a lane has of two rows the largest score and its own columns' sum of exponentials.
template <class T>
struct RunningSoftmax {
  float largest[2] = {least_score, least_score}, total[2] = {};

  /// Scores become exponentials of `factor` times them, and what was summed before is to be multiplied by `correction`. least_score: not
  /// seen. Written so that no compiler can round it otherwise anywhere: a sequence has the same bits in every kernel
  /// that takes `span` columns at a time.
  template <int fragments>
  __device__ void add(float (&p)[fragments][4], float factor, float (&correction)[2]) {
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
      for (int c = 0; c < fragments; ++c) most = fmaxf(most, fmaxf(p[c][2 * half], p[c][2 * half + 1]));
      most = largest_lane<4>(most);
      correction[half] = power_of_two<T>((largest[half] - most) * factor);
      largest[half] = most;
      const float offset = most > least_score ? -(most * factor) : 0.0f;
      float sum = 0;
      for (int c = 0; c < fragments; ++c)
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          p[c][i] = power_of_two<T>(fmaf(p[c][i], factor, offset));
          sum += p[c][i];
        }
      total[half] = fmaf(total[half], correction[half], sum);
    }
  }
  /// After the last: writes the log-sum-exp of the two rows that exist, and gives what sums are to be multiplied by.
  template <class Write>
  __device__ void end(float scale, float (&inverse)[2], Write write) {
    for (int half = 0; half < 2; ++half) {
      total[half] = sum_lanes<4>(total[half]);
      inverse[half] = total[half] > 0 ? 1 / total[half] : 0.0f;
      if (Lane().member == 0) write(8 * half, fmaf(largest[half], scale, logf(total[half])));
    }
  }
};

// --- On the host. ---

/// f(products, depth): what multiplies heads of this size, and how deep tiles are made for them, the rest zeros.
template <class T, class F>
void with_products(int size, F&& f) {
  if constexpr (std::is_same_v<T, bf16>) {
    if (size % 16 == 0 && size <= 128) {
      if (size == 16) return f(TensorCores(), Constant<16>());
      if (size == 32) return f(TensorCores(), Constant<32>());
      if (size <= 64) return f(TensorCores(), Constant<64>());
      return f(TensorCores(), Constant<128>());
    }
  } else {
    if (size <= 16) return f(Plain(), Constant<16>());
    if (size <= 32) return f(Plain(), Constant<32>());
    if (size > 64 && size <= 128) return f(Plain(), Constant<128>());
  }
  if (size <= 64) return f(Plain(), Constant<64>());
  require(size <= 256, "a head has ", size, " columns, but attention on the GPU takes at most 256: take more heads");
  f(Plain(), Constant<256>());
}

template <class T>
bool aligned(const T* x) {
  return reinterpret_cast<std::uintptr_t>(x) % 16 == 0;
}

/// The batch in parts of so many rows; wide if everything, `others` too, lies as 16 bytes want it.
template <class T>
Batch<T> batch_of(const T* qkv, const std::int32_t* offsets, int longest, int rows, int width, const Heads& heads, const Rotation& rotation,
                  bool others) {
  const int size = width / heads.count;
  return {.qkv = qkv,
          .offsets = offsets,
          .heads = heads,
          .width = width,
          .size = size,
          .blocks = (longest + rows - 1) / rows,
          .scale = 1 / std::sqrt(static_cast<float>(size)),
          .wide = size * sizeof(T) % 16 == 0 && aligned(qkv) && others,
          .rotation = rotation};
}

}  // namespace detail
}  // namespace relay::cuda
