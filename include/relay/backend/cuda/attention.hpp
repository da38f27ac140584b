// Attention of the CUDA backend, forward and backward: T. Dao, "FlashAttention-2: Faster Attention with Better Parallelism and Work
// Partitioning", 2023, arXiv 2307.08691.
//
//   S = scale Q K^T, where the mask allows   P = softmax(S) = e^(S - lse)   O = P V
//   dV = P^T dO   dP = dO V^T   dS = P (dP - D)   D = rowsum(P dP)   dQ = scale dS K   dK = scale dS^T Q
//
// Scores exist in registers alone: a warp has 16 rows of them, a few columns at a time. Forward takes keys tile by tile and corrects what
// it has summed whenever a larger score comes; it keeps the log-sum-exp of each row, from which backward computes P again.
//
// A block of threads has so many queries of one head of one sequence as it has warps, times 16. Backward of short sequences has a whole
// head in one block, and P and dS in shared memory. Backward of longer ones is two kernels, one with the queries' rows in its warps (D and
// dQ), one with the keys' (dK and dV), so that every sum has one place where it is made, in one order: the same bits in every run. There
// D is rowsum(dO O), which is the same number.
//
// In kernels for longer sequences a warp's rows are in registers, and blocks are small: a sequence of some hundred rows is so soon done that
// most of a block's time is waiting, for its first rows, for the table of positions, for other warps, and other blocks work meanwhile.
// Blocks begin with those of the longest sequences, so that a GPU's last ones are short.
//
// Products are TensorCores' for bf16 and heads of 16, 32, .. 128; otherwise Plain, float32. Both have the same fragments, so there is one
// text of each kernel. Sums, and everything between products, are float32.
//
// Rotary positions (layer/rotary.hpp): queries and keys of short sequences are turned when they are in shared memory, their gradients turned
// back while they are in registers, and no pass over qkv is needed. In longer ones every block would turn the same keys again, so a pass
// turns them before; their gradients are turned back in registers too.
#pragma once

#include <algorithm>
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

/// e^x, as exact as elements of T are.
template <class T>
__device__ float exponential(float x) {
  if constexpr (std::is_same_v<T, float>)
    return expf(x);
  else
    return __expf(x);
}

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

/// The same by a block whose number of threads is known, and which does it again and again: a thread has the same columns of every row.
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

/// Keys and values of earlier positions: element (slot, head, position, column) of a matrix of so many positions. Without: none.
template <class T>
struct Cache {
  T *keys = nullptr, *values = nullptr;
  const std::int32_t *slots = nullptr, *starts = nullptr;
  int positions = 0;
};

// --- Forward. ---

/// Softmax of 16 rows, some columns after the other: a lane has of two rows the largest score and its own columns' sum of exponentials.
template <class T>
struct RunningSoftmax {
  float largest[2] = {least_score, least_score}, total[2] = {};

  /// Scores become exponentials of `factor` times them, and what was summed before is to be multiplied by `correction`. least_score: not
  /// seen. Written so that no compiler can round it otherwise anywhere: a sequence has the same bits in every kernel.
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

// --- Longer sequences. ---

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

/// How a block of a kernel for longer sequences is made: so many times 16 rows a warp, so many warps, so many blocks at a time on a
/// multiprocessor. Heads of up to 64 columns by tensor cores: as many warps as registers allow, as they wait for what they read of shared
/// memory and for products. Blocks are small, so that few warps have no rows or wait where others see more.
struct LongShape {
  int groups, warps, blocks;
};
template <class Products, int depth>
inline constexpr bool slim = std::is_same_v<Products, TensorCores> && depth <= 64;
template <class Products, int depth>
inline constexpr LongShape other_shape{1, std::is_same_v<Products, TensorCores> ? 8 : Products::template warps<depth>, depth > 64 ? 1 : 2};
template <class Products, int depth>
inline constexpr LongShape forward_shape = slim<Products, depth> ? LongShape{1, 4, 4} : other_shape<Products, depth>;
template <class Products, int depth>
inline constexpr LongShape query_shape = slim<Products, depth> ? LongShape{1, 4, 4} : other_shape<Products, depth>;
template <class Products, int depth>
inline constexpr LongShape key_shape = slim<Products, depth> ? LongShape{1, 4, 3} : other_shape<Products, depth>;

/// Rows in the block's warps, and what is taken tile by tile, of two matrices each.
template <class Products, int depth, LongShape shape>
struct LongRoom {
  using Element = typename Products::Element;
  static constexpr bool tensor_cores = std::is_same_v<Products, TensorCores>;
  static constexpr int groups = shape.groups, warps = shape.warps, blocks = shape.blocks;
  static constexpr int rows = 16 * groups * warps, threads = warps * warp, tile = tile_rows<Products, depth>;
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

template <class Products, int depth>
using ForwardLong = LongRoom<Products, depth, forward_shape<Products, depth>>;
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
template <int rows, class Begin, class Arrive, class Ready, class Use>
__device__ void over_long_tiles(Range range, Begin begin, Arrive arrive, Ready ready, Use use) {
  int stage = 0, first = range.begin / rows * rows;
  begin(first, stage);
  end_copies();
  arrive(stage);
  wait_for_copies();
  __syncthreads();
  ready();
  for (; first < range.end; first += rows, stage = 1 - stage) {
    const bool more = first + rows < range.end;
    if (more) begin(first + rows, 1 - stage);
    end_copies();
    use(first, stage);
    if (more) arrive(1 - stage);
    wait_for_copies();
    __syncthreads();
  }
}

/// So many times 16 rows of a tile as the left side of products with others. Tensor cores' are kept in registers.
template <class Products, int depth, int groups>
struct OwnRows {
  const float* tile = nullptr;
  __device__ void load(const float* from) { tile = from; }
  /// sums += rows b^T, b [columns, depth]
  template <int columns>
  __device__ void multiply(const float* b, float (&sums)[groups][columns / 8][4]) const {
    for (int g = 0; g < groups; ++g) Products::template multiply_transposed<depth, columns>(tile + 16 * g * pitch<float, depth>, b, sums[g]);
  }
};
template <int depth, int groups>
struct OwnRows<TensorCores, depth, groups> {
  std::uint32_t words[groups][depth / 16][4];
  __device__ void load(const bf16* from) {
    const int lane = Lane().thread;
    from += lane % 16 * pitch<bf16, depth> + lane / 16 * 8;
    unrolled<groups>([&](auto g) {
      unrolled<depth / 16>([&](auto k) { load_tiles(words[g][k], from + 16 * g * pitch<bf16, depth> + 16 * k); });
    });
  }
  template <int columns>
  __device__ void multiply(const bf16* b, float (&sums)[groups][columns / 8][4]) const {
    constexpr int next = pitch<bf16, depth>;
    const int lane = Lane().thread;
    b += (lane / 16 * 8 + lane % 8) * next + lane / 8 % 2 * 8;
    unrolled<depth / 16>([&](auto k) {
      for (int n = 0; n < columns / 8; n += 2) {
        std::uint32_t right[4];
        load_tiles(right, b + 8 * n * next + 16 * k);
        for (int g = 0; g < groups; ++g) {
          multiply_tiles(sums[g][n], words[g][k], {right[0], right[1]});
          multiply_tiles(sums[g][n + 1], words[g][k], {right[2], right[3]});
        }
      }
    });
  }
};

/// sums += p b: p [16 groups, depth] is the warp's, in registers; b [depth, columns] a tile.
template <class Products, int depth, int columns, int groups>
__device__ void multiply_own(const float (&p)[groups][depth / 8][4], const typename Products::Element* b, float (&sums)[groups][columns / 8][4],
                             typename Products::Element* room) {
  if constexpr (std::is_same_v<Products, TensorCores>) {
    constexpr int next = pitch<bf16, columns>;
    const int lane = Lane().thread;
    b += lane % 16 * next + lane / 16 * 8;
    for (int k = 0; k < depth / 16; ++k) {
      std::uint32_t left[groups][4];
      for (int g = 0; g < groups; ++g)
        for (int i = 0; i < 4; ++i) left[g][i] = pair(p[g][2 * k + i / 2][i % 2 * 2], p[g][2 * k + i / 2][i % 2 * 2 + 1]);
      for (int n = 0; n < columns / 8; n += 2) {
        std::uint32_t right[4];
        load_tiles_transposed(right, b + 16 * k * next + 8 * n);
        for (int g = 0; g < groups; ++g) {
          multiply_tiles(sums[g][n], left[g], {right[0], right[1]});
          multiply_tiles(sums[g][n + 1], left[g], {right[2], right[3]});
        }
      }
    }
  } else {
    for (int g = 0; g < groups; ++g) Products::template multiply_registers<depth, columns>(p[g], b, sums[g], room);
  }
}

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
template <int groups, int fragments>
__device__ void hide(float (&p)[groups][fragments][4], const Sight& sight, int row, int column) {
  const Lane lane;
  unrolled<2 * groups>([&](auto i) {
    constexpr int half = i % 2;
    const Range seen = sight.of(row + 8 * i + lane.group);
    unrolled<fragments>([&](auto c) {
      for (int j = 0; j < 2; ++j)
        if (!seen.has(column + 8 * c + 2 * lane.member + j)) p[i / 2][c][2 * half + j] = least_score;
    });
  });
}

template <class Products, int depth, class T>
__global__ void __launch_bounds__(ForwardLong<Products, depth>::threads, ForwardLong<Products, depth>::blocks)
    long_attention_kernel(Batch<T> batch, const Unit* order, T* out, float* lse) {
  after_earlier_kernels();
  using Element = typename Products::Element;
  using Long = ForwardLong<Products, depth>;
  using Room = typename Long::Forward;
  constexpr int next = Long::row, tile = Long::tile, rows = Long::rows, groups = Long::groups;
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * rows;
  const Sight sight{mask_of(batch.heads, at.head), at.rows, at.rows};
  const auto keys = batch.rows(batch.qkv, at, 3, 1), values = batch.rows(batch.qkv, at, 3, 2);
  Element* const shared = shared_memory<Element>();
  static_assert(Long::tensor_cores);
  load_known_rows<Long::threads, rows, depth>(batch.rows(batch.qkv, at, 3, 0), first, shared + Room::tiles + Long::stage);

  const Lane lane;
  const int own_rows = 16 * groups * lane.own_warp, row = first + own_rows;
  const Range own = sight.of(row, 16 * groups), all = sight.of_each(row, 16 * groups);
  const float factor = batch.scale * log2_e;
  OwnRows<Products, depth, groups> queries;
  RunningSoftmax<T> softmax[groups];
  float sums[groups][depth / 8][4] = {};
  over_long_tiles<tile>(
      sight.of(first, rows),
      [&](int from, int stage) {
        load_known_rows<Long::threads, tile, depth>(keys, from, shared + Room::tiles + stage * Long::stage);
        load_known_rows<Long::threads, tile, depth>(values, from, shared + Room::tiles + stage * Long::stage + tile * next);
      },
      [](int) {},
      [&] {
        queries.load(shared + Room::tiles + Long::stage + own_rows * next);
        __syncthreads();
      },
      [&](int from, int stage) {
        const Element* const key = shared + Room::tiles + stage * Long::stage;
        for (int step = 0; step < tile; step += span) {
          if (!own.meets(from + step, span)) continue;
          float p[groups][span / 8][4] = {}, correction[groups][2];
          queries.template multiply<span>(key + step * next, p);
          if (!all.covers(from + step, span)) hide(p, sight, row, from + step);
          bool corrects = false;
          for (int g = 0; g < groups; ++g) {
            softmax[g].add(p[g], factor, correction[g]);
            corrects = corrects || correction[g][0] != 1 || correction[g][1] != 1;
          }
          if (__ballot_sync(whole_warp, corrects) != 0)  // soon it is rare that there is a larger score
            for (int g = 0; g < groups; ++g)
              for (int c = 0; c < depth / 8; ++c)
                for (int i = 0; i < 4; ++i) sums[g][c][i] *= correction[g][i / 2];
          multiply_own<Products, span, depth>(p, key + (tile + step) * next, sums, shared + Room::own + lane.own_warp * Products::room);
        }
      });
  unrolled<groups>([&](auto g) {
    float inverse[2];
    softmax[g].end(batch.scale, inverse, [&](int below, float value) {
      if (const int i = row + 16 * g + lane.group + below; i < at.rows) lse[batch.of_row(at, i)] = value;
    });
    Element* const free = shared + Room::tiles + (own_rows + 16 * g) * next;  // nobody reads tiles any longer
    store_rows<Products, depth>(sums[g], inverse[0], inverse[1], free, batch.rows(out, at, 1, 0), row + 16 * g);
  });
}

/// D, which the next kernel reads, and dQ.
template <class Products, int depth, class T>
__global__ void __launch_bounds__(QueryLong<Products, depth>::threads, QueryLong<Products, depth>::blocks)
    query_gradient_kernel(Batch<T> batch, const Unit* order, const float* lse, const T* out, const T* dout, float* means, T* dqkv) {
  after_earlier_kernels();
  using Element = typename Products::Element;
  using Long = QueryLong<Products, depth>;
  using Room = typename Long::Backward;
  constexpr int next = Long::row, tile = Long::tile, rows = Long::rows, groups = Long::groups;
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * rows;
  const Sight sight{mask_of(batch.heads, at.head), at.rows, at.rows};
  const auto keys = batch.rows(batch.qkv, at, 3, 1), values = batch.rows(batch.qkv, at, 3, 2);
  Element* const shared = shared_memory<Element>();
  load_known_rows<Long::threads, rows, depth>(batch.rows(batch.qkv, at, 3, 0), first, shared + Room::first);
  load_known_rows<Long::threads, rows, depth>(batch.rows(dout, at, 1, 0), first, shared + Room::second);
  load_known_rows<Long::threads, rows, depth>(batch.rows(out, at, 1, 0), first, shared + Room::tiles + Long::stage);  // where the second tile comes

  const Lane lane;
  const int own_rows = 16 * groups * lane.own_warp, row = first + own_rows;
  Element* const query = shared + Room::first + own_rows * next;
  const Range own = sight.of(row, 16 * groups), all = sight.of_each(row, 16 * groups);
  const float factor = batch.scale * log2_e;
  float log_sum[groups][2], mean[groups][2];  // both negative, the first of base two
  for (int g = 0; g < groups; ++g)
    for (int half = 0; half < 2; ++half) {
      const int i = row + 16 * g + 8 * half + lane.group;
      log_sum[g][half] = i < at.rows ? -log2_e * lse[batch.of_row(at, i)] : 0.0f;
    }
  OwnRows<Products, depth, groups> queries, gradients;
  float dq[groups][depth / 8][4] = {};
  over_long_tiles<tile>(
      sight.of(first, rows),
      [&](int from, int stage) {
        load_known_rows<Long::threads, tile, depth>(keys, from, shared + Room::tiles + stage * Long::stage);
        load_known_rows<Long::threads, tile, depth>(values, from, shared + Room::tiles + stage * Long::stage + tile * next);
      },
      [](int) {},
      [&] {
        queries.load(query);
        gradients.load(shared + Room::second + own_rows * next);
        for (int g = 0; g < groups; ++g)
          for (int half = 0; half < 2; ++half) {
            const int below = own_rows + 16 * g + 8 * half + lane.group, i = first + below;
            const float sum = product_of_rows<depth>(shared + Room::tiles + Long::stage + below * next, shared + Room::second + below * next);
            mean[g][half] = -sum;
            if (lane.member == 0 && i < at.rows) means[batch.of_row(at, i)] = sum;
          }
        __syncthreads();
      },
      [&](int from, int stage) {
        const Element* const key = shared + Room::tiles + stage * Long::stage;
        for (int step = 0; step < tile; step += span) {
          if (!own.meets(from + step, span)) continue;
          float p[groups][span / 8][4] = {}, dp[groups][span / 8][4];
          for (int g = 0; g < groups; ++g)
            for (int c = 0; c < span / 8; ++c)
              for (int i = 0; i < 4; ++i) dp[g][c][i] = mean[g][i / 2];
          queries.template multiply<span>(key + step * next, p);
          gradients.template multiply<span>(key + (tile + step) * next, dp);
          if (!all.covers(from + step, span)) hide(p, sight, row, from + step);
          for (int g = 0; g < groups; ++g)
            for (int c = 0; c < span / 8; ++c)
              for (int i = 0; i < 4; ++i) p[g][c][i] = power_of_two<T>(fmaf(p[g][c][i], factor, log_sum[g][i / 2])) * dp[g][c][i];
          multiply_own<Products, span, depth>(p, key + step * next, dq, shared + Room::own + lane.own_warp * Products::room);
        }
      });
  const float* const table = batch.table(at);
  if (table != nullptr) unrolled<groups>([&](auto g) { turn_back<depth>(dq[g], row + 16 * g, at.rows, table); });
  unrolled<groups>([&](auto g) {
    store_rows<Products, depth>(dq[g], batch.scale, batch.scale, query + 16 * g * next, batch.rows(dqkv, at, 3, 0), row + 16 * g);
  });
}

/// dK and dV: the rows of a warp are keys, the columns of its scores queries.
template <class Products, int depth, class T>
__global__ void __launch_bounds__(KeyLong<Products, depth>::threads, KeyLong<Products, depth>::blocks)
    key_gradient_kernel(Batch<T> batch, const Unit* order, const float* lse, const T* dout, const float* means, T* dqkv) {
  after_earlier_kernels();
  using Element = typename Products::Element;
  using Long = KeyLong<Products, depth>;
  using Room = typename Long::Backward;
  constexpr int next = Long::row, tile = Long::tile, rows = Long::rows, groups = Long::groups;
  constexpr int own_span = Long::tensor_cores ? 16 : span;  // so few columns that all else is in registers
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * rows;
  const Sight sight = Sight{mask_of(batch.heads, at.head), at.rows, at.rows}.transposed();
  const auto queries = batch.rows(batch.qkv, at, 3, 0), gradients = batch.rows(dout, at, 1, 0);
  Element* const shared = shared_memory<Element>();
  load_known_rows<Long::threads, rows, depth>(batch.rows(batch.qkv, at, 3, 1), first, shared + Room::first);
  load_known_rows<Long::threads, rows, depth>(batch.rows(batch.qkv, at, 3, 2), first, shared + Room::second);

  const Lane lane;
  const int own_rows = 16 * groups * lane.own_warp, row = first + own_rows;
  Element* const key = shared + Room::first + own_rows * next;
  Element* const value = shared + Room::second + own_rows * next;
  const Range own = sight.of(row, 16 * groups), all = sight.of_each(row, 16 * groups);
  const float factor = batch.scale * log2_e;
  // Of the queries of both stages, [lse, D][tile], both negative, the first of base two. A thread brings some numbers of a tile.
  float* const columns = reinterpret_cast<float*>(shared + Room::all);
  const int thread = static_cast<int>(threadIdx.x);
  float brought[Long::brings];
  OwnRows<Products, depth, groups> keys, values;
  float dk[groups][depth / 8][4] = {}, dv[groups][depth / 8][4] = {};
  over_long_tiles<tile>(
      sight.of(first, rows),
      [&](int from, int stage) {
        for (int b = 0; b < Long::brings; ++b) {
          const int number = thread + b * Long::threads, i = from + number % tile;
          if (number >= 2 * tile || i >= at.rows)
            brought[b] = 0;
          else
            brought[b] = number < tile ? -log2_e * lse[batch.of_row(at, i)] : -means[batch.of_row(at, i)];
        }
        load_known_rows<Long::threads, tile, depth>(queries, from, shared + Room::tiles + stage * Long::stage);
        load_known_rows<Long::threads, tile, depth>(gradients, from, shared + Room::tiles + stage * Long::stage + tile * next);
      },
      [&](int stage) {
        for (int b = 0; b < Long::brings; ++b)
          if (const int number = thread + b * Long::threads; number < 2 * tile) columns[2 * stage * tile + number] = brought[b];
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
          float p[groups][own_span / 8][4] = {}, ds[groups][own_span / 8][4];
          for (int g = 0; g < groups; ++g)
            for (int c = 0; c < own_span / 8; ++c)
              for (int i = 0; i < 4; ++i) ds[g][c][i] = column[tile + 8 * c + i % 2];
          keys.template multiply<own_span>(query + step * next, p);
          values.template multiply<own_span>(gradient + step * next, ds);
          if (!all.covers(from + step, own_span)) hide(p, sight, row, from + step);
          for (int g = 0; g < groups; ++g)
            for (int c = 0; c < own_span / 8; ++c)
              for (int i = 0; i < 4; ++i) {
                p[g][c][i] = power_of_two<T>(fmaf(p[g][c][i], factor, column[8 * c + i % 2]));
                ds[g][c][i] *= p[g][c][i];
              }
          Element* const room = shared + Room::own + lane.own_warp * Products::room;
          multiply_own<Products, own_span, depth>(p, gradient + step * next, dv, room);
          multiply_own<Products, own_span, depth>(ds, query + step * next, dk, room);
        }
      });
  const float* const table = batch.table(at);
  if (table != nullptr) unrolled<groups>([&](auto g) { turn_back<depth>(dk[g], row + 16 * g, at.rows, table); });
  unrolled<groups>([&](auto g) {
    store_rows<Products, depth>(dk[g], batch.scale, batch.scale, key + 16 * g * next, batch.rows(dqkv, at, 3, 1), row + 16 * g);
    store_rows<Products, depth>(dv[g], 1, 1, value + 16 * g * next, batch.rows(dqkv, at, 3, 2), row + 16 * g);
  });
}


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
Batch<T> batch_of(const T* qkv, const std::int32_t* offsets, int longest, int rows, int width, const Heads& heads, const Rotation& rotation, bool others) {
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
  using Long = ForwardLong<TensorCores, depth>;
  static_assert(Long::Forward::bytes <= most_shared_everywhere && Long::rows >= fewest_long_rows);
  const auto batch = batch_of(qkv, offsets, longest, Long::rows, width, heads, {}, aligned(out));
  const int units = make_order(offsets, sequences, rows, longest, Long::rows, order);
  launch(long_attention_kernel<TensorCores, depth, T>, long_blocks(batch, units), Long::threads, Long::Forward::bytes, batch, order, out, lse);
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
    using Long = QueryLong<Products, depth>;
    using LongKeys = KeyLong<Products, depth>;
    using Room = typename Long::Backward;
    using RoomOfKeys = typename LongKeys::Backward;
    static_assert(std::max(Room::bytes, RoomOfKeys::bytes_with_columns) <= (depth > 128 ? most_shared : most_shared_everywhere));
    static_assert(Long::rows >= fewest_long_rows && LongKeys::rows >= fewest_long_rows);
    const auto batch = batch_of(qkv, offsets, longest, Long::rows, width, heads, rotation, aligned(out) && aligned(dout) && aligned(dqkv));
    auto* const order = reinterpret_cast<Unit*>(scratch);
    float* const means = scratch + order_size(rows, sequences);
    int units = make_order(offsets, sequences, rows, longest, Long::rows, order);
    launch(query_gradient_kernel<Products, depth, T>, long_blocks(batch, units), Long::threads, Room::bytes, batch, order, lse, out, dout, means, dqkv);
    if (LongKeys::rows != Long::rows) units = make_order(offsets, sequences, rows, longest, LongKeys::rows, order);
    launch(key_gradient_kernel<Products, depth, T>, long_blocks(batch, units), LongKeys::threads, RoomOfKeys::bytes_with_columns, batch, order, lse,
           dout, means, dqkv);
  });
}

}  // namespace relay::cuda
