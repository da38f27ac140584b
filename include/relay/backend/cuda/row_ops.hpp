// What happens between the products on the GPU: elementwise kernels, four elements a thread; rows by a warp each; sums over rows in two
// passes, always in the same order.
//
// Sources and results are float or bf16, numbers are computed as float. What each function computes stands in backend/backend.hpp and
// backend/cpu/row_ops.hpp.
#pragma once

#include <cmath>

#include <relay/backend/cuda/tensor.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/random.hpp>

namespace relay::cuda {

// --- Elements, four a thread. ---

/// Four neighbours as one load or store of the memory.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T element[4];
};

template <class T>
__device__ inline void load(const T* from, long at, long size, float (&x)[4]) {
  if (at + 4 <= size) {
    const Four<T> four = *reinterpret_cast<const Four<T>*>(from + at);
    for (int i = 0; i < 4; ++i) x[i] = number(four.element[i]);
  } else {
    for (int i = 0; i < 4; ++i) x[i] = at + i < size ? number(from[at + i]) : 0.0f;
  }
}
template <class T>
__device__ inline void store(T* to, long at, long size, const float (&x)[4]) {
  if (at + 4 <= size) {
    Four<T> four;
    for (int i = 0; i < 4; ++i) four.element[i] = element<T>(x[i]);
    *reinterpret_cast<Four<T>*>(to + at) = four;
  } else {
    for (int i = 0; i < 4 && at + i < size; ++i) to[at + i] = element<T>(x[i]);
  }
}

/// compute(first, size) for every four of so many elements.
template <class Compute>
__global__ void elements_kernel(long size, Compute compute) {
  after_earlier_kernels();
  const long at = 4 * (static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x);
  if (at < size) compute(at, size);
}
template <class Compute>
void over_elements(long size, Compute compute) {
  constexpr int threads = 256;
  launch(elements_kernel<Compute>, dim3(static_cast<unsigned>((size + 4 * threads - 1) / (4 * threads))), threads, 0, size, compute);
}

template <class From, class To>
struct Convert {
  const From* from;
  To* to;
  __device__ void operator()(long at, long size) const {
    float x[4];
    load(from, at, size, x);
    store(to, at, size, x);
  }
};

/// Rows of so many columns, as bf16 and as far apart as is a multiple of four, with zeros between them.
template <class From>
struct ConvertRows {
  const From* from;
  int from_apart, cols, apart;
  bf16* to;
  __device__ void operator()(long at, long size) const {
    const long row = at / apart;
    const int c = static_cast<int>(at - row * apart);
    float x[4];
    for (int i = 0; i < 4; ++i) x[i] = c + i < cols ? number(from[row * from_apart + c + i]) : 0.0f;
    store(to, at, size, x);
  }
};

struct Fill {
  float value;
  float* to;
  __device__ void operator()(long at, long size) const {
    const float x[4] = {value, value, value, value};
    store(to, at, size, x);
  }
};

/// Several tensors at once, of which each has some blocks.
struct Cleared {
  static constexpr int most = 64, blocks = 32, threads = 256;
  float* at[most];
  long size[most];
  int count = 0;
};
template <class = void>
__global__ void clear_kernel(Cleared all) {
  after_earlier_kernels();
  float* const to = all.at[blockIdx.y];
  const long size = all.size[blockIdx.y];
  const float zeros[4] = {};
  for (long at = 4 * (static_cast<long>(blockIdx.x) * Cleared::threads + threadIdx.x); at < size; at += 4L * Cleared::blocks * Cleared::threads)
    store(to, at, size, zeros);
}

/// to += from
template <class From, class To>
struct Add {
  const From* from;
  To* to;
  __device__ void operator()(long at, long size) const {
    float x[4], y[4];
    load(from, at, size, x);
    load(to, at, size, y);
    for (int i = 0; i < 4; ++i) y[i] += x[i];
    store(to, at, size, y);
  }
};

template <class To>
struct AddRow {
  const float* row;
  int cols;
  To* to;
  __device__ void operator()(long at, long size) const {
    float y[4];
    load(to, at, size, y);
    int c = static_cast<int>(at % cols);
    for (int i = 0; i < 4; ++i) {
      y[i] += row[c];
      if (++c == cols) c = 0;
    }
    store(to, at, size, y);
  }
};

/// y = x Phi(x), and its slope. As bf16, which keeps 8 bits, it is the approximation that goes along with cuBLASLt's products (D. Hendrycks,
/// K. Gimpel 2016, arXiv 1606.08415): y = x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), off by 5e-4 at most.
template <class A>
__device__ float gelu(float x, float* slope = nullptr) {
  if constexpr (std::is_same_v<A, float>) {
    const float distribution = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    if (slope != nullptr) *slope = distribution + x * (0.39894228040143268f * expf(-0.5f * x * x));
    return x * distribution;
  } else {
    // y = x/2 + x/2 t, y' = 1/2 + t/2 + x (1 - t^2) (x (root + cubic x^2))' / 2, in as few operations as there can be
    constexpr float root = 0.79788456080286536f, cubic = 0.044715f * root;
    const float square = x * x, t = tanh_approximately(x * fmaf(square, cubic, root)), half = 0.5f * x;
    if (slope != nullptr) *slope = fmaf(fmaf(-t, t, 1.0f) * half, fmaf(square, 3.0f * cubic, root), fmaf(0.5f, t, 0.5f));
    return fmaf(half, t, half);
  }
}

/// A: what the backend computes with.
template <class A, class X, class T>
struct Gelu {
  const X* from;
  T* to;
  __device__ void operator()(long at, long size) const {
    float x[4];
    load(from, at, size, x);
    for (int i = 0; i < 4; ++i) x[i] = gelu<A>(x[i]);
    store(to, at, size, x);
  }
};

/// dx = dy GELU'(x), and y = GELU(x) once more
template <class X, class D, class T, class A>
struct GeluBackward {
  const X* from;
  const D* dy;
  T* dx;
  A* y;
  __device__ void operator()(long at, long size) const {
    float x[4], d[4];
    load(from, at, size, x);
    load(dy, at, size, d);
    for (int i = 0; i < 4; ++i) {
      float slope;
      x[i] = gelu<A>(x[i], &slope);
      d[i] *= slope;
    }
    store(dx, at, size, d);
    store(y, at, size, x);
  }
};

/// What dropout keeps; a rate of 0 keeps everything.
struct Drop {
  std::uint64_t key, threshold;
  float kept;

  Drop(double rate, Key of)
      : key(of.value), threshold(static_cast<std::uint64_t>(rate * 4294967296.0)), kept(static_cast<float>(1 / (1 - rate))) {}

  /// Of four elements, the first of which is the at-th of its tensor: one Philox block decides them.
  __device__ void operator()(long at, float (&x)[4]) const {
    if (threshold == 0) return;
    const auto bits = philox({static_cast<std::uint32_t>(at >> 2), static_cast<std::uint32_t>(at >> 34), 0x44524f50u, 0}, key);
    for (int i = 0; i < 4; ++i) x[i] = bits[static_cast<std::size_t>(i)] >= threshold ? x[i] * kept : 0.0f;
  }
};

/// y = base + dropout(x), or without a base dropout(x).
template <class Base, class X, class Y>
struct ResidualSum {
  const Base* base;  // may be null
  const X* x;
  Y* y;
  Drop drop;
  __device__ void operator()(long at, long size) const {
    float v[4], b[4] = {};
    load(x, at, size, v);
    if (base != nullptr) load(base, at, size, b);
    drop(at, v);
    for (int i = 0; i < 4; ++i) b[i] += v[i];
    store(y, at, size, b);
  }
};

/// AdamW of train/adamw.hpp, its factors worked out.
struct Adam {
  float scale, keep, rate, beta1, rest1, beta2, rest2, root, epsilon;

  explicit Adam(const AdamWStep& s)
      : scale(static_cast<float>(s.gradient_scale)),
        keep(static_cast<float>(1 - s.rate * s.decay)),
        rate(static_cast<float>(s.rate / s.correction1)),
        beta1(static_cast<float>(s.beta1)),
        rest1(static_cast<float>(1 - s.beta1)),
        beta2(static_cast<float>(s.beta2)),
        rest2(static_cast<float>(1 - s.beta2)),
        root(static_cast<float>(1 / std::sqrt(s.correction2))),
        epsilon(static_cast<float>(s.epsilon)) {}
};

struct AdamW {
  Adam step;
  const float* gradient;
  float *weight, *first, *second;
  __device__ void operator()(long at, long size) const {
    float g[4], m[4], v[4], w[4];
    load(gradient, at, size, g);
    load(first, at, size, m);
    load(second, at, size, v);
    load(weight, at, size, w);
    for (int i = 0; i < 4; ++i) {
      g[i] *= step.scale;
      m[i] = m[i] * step.beta1 + g[i] * step.rest1;
      v[i] = v[i] * step.beta2 + g[i] * g[i] * step.rest2;
      w[i] = w[i] * step.keep - m[i] * step.rate / (sqrtf(v[i]) * step.root + step.epsilon);
    }
    store(first, at, size, m);
    store(second, at, size, v);
    store(weight, at, size, w);
  }
};

// --- Rows, a warp each. ---

inline constexpr int row_threads = 128, rows_of_block = row_threads / warp;

inline dim3 row_blocks(int rows) { return dim3(static_cast<unsigned>((rows + rows_of_block - 1) / rows_of_block)); }

/// The row of this warp, and this thread's lane in it.
__device__ inline int warp_row() { return static_cast<int>(blockIdx.x) * rows_of_block + static_cast<int>(threadIdx.x) / warp; }
__device__ inline int warp_lane() { return static_cast<int>(threadIdx.x) % warp; }

/// Four neighbours of a row, from column c; a row begins where four may be loaded at once if its width is a multiple of four.
template <class T>
__device__ inline void load_of_row(const T* row, int c, int width, float (&x)[4]) {
  if (width % 4 == 0) return load(row, c, width, x);
  for (int i = 0; i < 4; ++i) x[i] = c + i < width ? number(row[c + i]) : 0.0f;
}
template <class T>
__device__ inline void store_of_row(T* row, int c, int width, const float (&x)[4]) {
  if (width % 4 == 0) return store(row, c, width, x);
  for (int i = 0; i < 4 && c + i < width; ++i) row[c + i] = element<T>(x[i]);
}

/// The columns of a row that a lane has: four neighbours, and again a whole warp of fours further on.
inline constexpr int warp_of_fours = 4 * warp;
__device__ inline int first_column() { return 4 * warp_lane(); }

/// y's row i = x's row indices[i].
template <class X, class Y>
__global__ void gather_kernel(const X* x, const std::int32_t* indices, int count, int cols, Y* y) {
  after_earlier_kernels();
  const int row = warp_row();
  if (row >= count) return;
  const X* const from = x + static_cast<long>(indices[row]) * cols;
  Y* const to = y + static_cast<long>(row) * cols;
  for (int c = first_column(); c < cols; c += warp_of_fours) {
    float some[4];
    load_of_row(from, c, cols, some);
    store_of_row(to, c, cols, some);
  }
}

/// x's row indices[i] = y's row i, or, where it `adds`, += that, where no index comes twice.
template <bool adds, class Y, class X>
__global__ void scatter_kernel(const Y* y, const std::int32_t* indices, int count, int cols, X* x) {
  after_earlier_kernels();
  const int row = warp_row();
  if (row >= count) return;
  const Y* const from = y + static_cast<long>(row) * cols;
  X* const to = x + static_cast<long>(indices[row]) * cols;
  for (int c = first_column(); c < cols; c += warp_of_fours) {
    float some[4], before[4] = {};
    load_of_row(from, c, cols, some);
    if constexpr (adds) load_of_row(to, c, cols, before);
    for (int i = 0; i < 4; ++i) some[i] += before[i];
    store_of_row(to, c, cols, some);
  }
}

/// The sum where an index may come again, as tokens do: a block for each row of x reads a part of the list and adds what is the row's own, in
/// order: to x, where the part is the whole, or from 0 to partial [parts, rows of x, cols]. It first finds all that is its own in a piece of
/// the list, so that it waits for the list and for rows once, and not again and again.
inline constexpr int scatter_threads = 256, scatter_warps = scatter_threads / warp, scatter_piece = 2048;
inline constexpr std::size_t scatter_room = (scatter_piece + scatter_warps) * sizeof(int);

template <class Y, class X>
__global__ void __launch_bounds__(scatter_threads)
    scatter_by_target_kernel(const Y* y, const std::int32_t* indices, int count, int cols, int part, X* x, float* partial) {
  after_earlier_kernels();
  constexpr int own_warps = scatter_piece / scatter_warps, each = own_warps / warp;  // of a piece, neighbours: a warp's; so many of a lane
  const int target = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x), lane = warp_lane(), own_warp = thread / warp;
  int* const own = shared_memory<int>();  // of a piece: which are for this row, in order
  int* const counts = own + scatter_piece;  // of each warp
  const int begin = static_cast<int>(blockIdx.y) * part, end = min(begin + part, count);
  for (int c0 = 0; c0 < cols; c0 += scatter_threads) {
    const int c = c0 + thread;
    float sum = partial == nullptr && c < cols ? number(x[static_cast<long>(target) * cols + c]) : 0.0f;
    for (int first = begin; first < end; first += scatter_piece) {
      const int from = first + own_warp * own_warps + lane;
      unsigned found[each];  // by which lanes
      int of_warp = 0;
      RELAY_UNROLLED
      for (int i = 0; i < each; ++i) found[i] = from + i * warp < end && indices[from + i * warp] == target ? 1u : 0u;
      RELAY_UNROLLED
      for (int i = 0; i < each; ++i) of_warp += __popc(found[i] = __ballot_sync(whole_warp, found[i] != 0));
      if (lane == 0) counts[own_warp] = of_warp;
      __syncthreads();
      int before = 0, all = 0;
      for (int w = 0; w < scatter_warps; ++w) {
        before += w < own_warp ? counts[w] : 0;
        all += counts[w];
      }
      RELAY_UNROLLED
      for (int i = 0; i < each; ++i) {
        if ((found[i] >> lane & 1u) != 0) own[before + __popc(found[i] & ((1u << lane) - 1))] = from + i * warp;
        before += __popc(found[i]);
      }
      __syncthreads();
      if (c < cols)
        for (int k = 0; k < all; ++k) sum += number(y[static_cast<long>(own[k]) * cols + c]);
      __syncthreads();
    }
    if (c >= cols) continue;
    if (partial != nullptr)
      partial[(static_cast<long>(blockIdx.y) * gridDim.x + target) * cols + c] = sum;
    else
      x[static_cast<long>(target) * cols + c] = element<X>(sum);
  }
}

// --- Rows, by columns: sums over all rows, eight neighbours a thread. ---

/// Eight neighbours, read and written 16 bytes at a time.
template <class T>
struct Eight {
  struct alignas(16) Part {
    T element[16 / sizeof(T)];
  };
  Part part[8 * sizeof(T) / 16];

  __device__ static Eight load(const T* from) { return *reinterpret_cast<const Eight*>(from); }
  __device__ void store(T* to) const { *reinterpret_cast<Eight*>(to) = *this; }
  __device__ T& operator[](int i) {
    constexpr int each = 16 / static_cast<int>(sizeof(T));
    return part[i / each].element[i % each];
  }
};

/// What a pass over rows adds up: the elements themselves.
template <class T>
struct Itself {
  static constexpr int ahead = 4;
  const T* x;
  using Loaded = Eight<T>;
  __device__ Loaded load(long at) const { return Loaded::load(x + at); }
  __device__ void operator()(long /*at*/, Loaded& loaded, float (&to)[8]) const {
    for (int i = 0; i < 8; ++i) to[i] = number(loaded[i]);
  }
};

/// d *= GELU'(x), and that is added up.
template <class A>
struct GeluSlope {
  static constexpr int ahead = 2;
  const A* x;
  A* d;
  struct Loaded {
    Eight<A> x, d;
  };
  __device__ Loaded load(long at) const { return {Eight<A>::load(x + at), Eight<A>::load(d + at)}; }
  __device__ void operator()(long at, Loaded& loaded, float (&to)[8]) const {
    for (int i = 0; i < 8; ++i) {
      float slope;
      gelu<A>(number(loaded.x[i]), &slope);
      to[i] = number(loaded.d[i]) * slope;
      loaded.d[i] = element<A>(to[i]);
    }
    loaded.d.store(d + at);
  }
};

inline constexpr int added_threads = 512, added_columns = 8 * added_threads;

/// So many parts of the rows have sums of their own.
inline constexpr int most_added_parts = 264;
inline int added_parts(int rows) { return std::clamp(rows / 16, 1, most_added_parts); }

/// partial [gridDim.x, cols] = the sums, or += them, over a part of the rows of what `compute` makes of each. The columns are a multiple of eight; a block
/// has up to added_columns of them, and some rows at once.
template <class Compute>
__global__ void __launch_bounds__(added_threads, 2) added_rows_kernel(int rows, int cols, Compute compute, float* partial, bool adds) {
  after_earlier_kernels();
  constexpr int ahead = Compute::ahead;  // rows that are loaded before the first is waited for
  const int first = static_cast<int>(blockIdx.y) * added_columns, own = min(cols - first, added_columns), across = own / 8, at_once = added_threads / across;
  const int thread = static_cast<int>(threadIdx.x), line = thread / across, c = first + thread % across * 8;
  const int begin = static_cast<int>(blockIdx.x) * at_once + line, step = static_cast<int>(gridDim.x) * at_once;
  float sums[8] = {};
  if (line < at_once)
    for (int row = begin; row < rows; row += ahead * step) {
      typename Compute::Loaded loaded[ahead];
      for (int i = 0; i < ahead; ++i)
        if (row + i * step < rows) loaded[i] = compute.load(static_cast<long>(row + i * step) * cols + c);
      for (int i = 0; i < ahead; ++i) {
        if (row + i * step >= rows) continue;
        float x[8];
        compute(static_cast<long>(row + i * step) * cols + c, loaded[i], x);
        for (int j = 0; j < 8; ++j) sums[j] += x[j];
      }
    }
  float* const shared = shared_memory<float>();  // [8, threads]
  for (int j = 0; j < 8; ++j) shared[j * added_threads + thread] = sums[j];
  __syncthreads();
  for (int i = thread; i < own; i += added_threads) {
    float& to = partial[static_cast<long>(blockIdx.x) * cols + first + i];
    float sum = adds ? to : 0.0f;
    for (int l = 0; l < at_once; ++l) sum += shared[i % 8 * added_threads + l * across + i / 8];
    to = sum;
  }
}

/// The sums over a part of x's rows each: to [gridDim.y, cols]. Or, in one part, added to what is there: the first columns at `to`, those
/// from `split` on at `rest`, if that is there.
template <class X>
__global__ void column_sums_kernel(const X* x, int rows, int cols, int part, bool adds, int split, float* to, float* rest) {
  after_earlier_kernels();
  const int c = static_cast<int>(blockIdx.x) * warp + warp_lane(), threads = static_cast<int>(blockDim.x);
  const int own = static_cast<int>(threadIdx.x) / warp, warps = threads / warp;
  const int first = static_cast<int>(blockIdx.y) * part, last = min(first + part, rows);
  float sum = 0;
  if (c < cols)
    for (int r = first + own; r < last; r += warps) sum += number(x[static_cast<long>(r) * cols + c]);
  float* const sums = shared_memory<float>();
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (own > 0 || c >= cols) return;
  for (int w = 1; w < warps; ++w) sum += sums[w * warp + warp_lane()];
  if (!adds) {
    to[static_cast<long>(blockIdx.y) * cols + c] = sum;
  } else if (c < split) {
    to[c] += sum;
  } else if (rest != nullptr) {
    rest[c - split] += sum;
  }
}

/// The sequence that a row is of, found in the rows that sequences begin with by a whole warp, whose lanes look at as many at a time.
__device__ inline int sequence_of_warp(int row, const std::int32_t* offsets, int sequences) {
  int low = 0, high = sequences;
  while (high - low > 1) {
    const int step = (high - low + warp - 1) / warp, at = low + (warp_lane() + 1) * step;
    const int begun = __popc(__ballot_sync(whole_warp, at < high && offsets[at] <= row));
    low += begun * step;
    high = low + step < high ? low + step : high;
  }
  return low;
}

/// A warp has some rows, one after another, and a lane so many neighbouring pairs at a time of a rotated head's queries or keys.
inline constexpr int rotate_rows = 4;
template <int step, class T>
__global__ void rotate_kernel(T* qkv, const std::int32_t* offsets, const std::int32_t* starts, int sequences, int rows, int width, int size, int rotated,
                              const float* table, float direction) {
  after_earlier_kernels();
  using Elements = Neighbours<T, step>;
  constexpr int at_once = step < 4 ? step : 4;
  const int first = (static_cast<int>(blockIdx.x) * static_cast<int>(blockDim.x / warp) + static_cast<int>(threadIdx.x) / warp) * rotate_rows;
  if (first >= rows) return;
  const int half = size / 2, steps = half / step, items = 2 * rotated * steps;
  int sequence = sequence_of_warp(first, offsets, sequences), position[rotate_rows];
  for (int r = 0; r < rotate_rows; ++r) {
    const int row = first + r < rows ? first + r : rows - 1;
    while (row >= offsets[sequence + 1]) ++sequence;
    position[r] = row - offsets[sequence] + (starts != nullptr ? starts[sequence] : 0);
  }
  for (int item = warp_lane(); item < items; item += warp) {
    const int pair = item % steps * step, head = item / steps % rotated, part = item / steps / rotated;
    T* const at = qkv + static_cast<long>(first) * 3 * width + part * width + head * size + pair;
    Elements x[rotate_rows], y[rotate_rows];
    for (int r = 0; r < rotate_rows; ++r) {
      const long below = first + r < rows ? r * 3L * width : 0;
      x[r] = *reinterpret_cast<const Elements*>(at + below);
      y[r] = *reinterpret_cast<const Elements*>(at + below + half);
    }
    for (int r = 0; r < rotate_rows; ++r) {
      const float* const angle = table + static_cast<long>(position[r]) * size + pair;
      for (int i = 0; i < step; i += at_once) {
        const auto cosine = *reinterpret_cast<const Neighbours<float, at_once>*>(angle + i);
        const auto sine = *reinterpret_cast<const Neighbours<float, at_once>*>(angle + half + i);
        for (int j = 0; j < at_once; ++j) {
          float a = number(x[r].element[i + j]), b = number(y[r].element[i + j]);
          turn(a, b, cosine.element[j], sine.element[j] * direction);
          x[r].element[i + j] = element<T>(a);
          y[r].element[i + j] = element<T>(b);
        }
      }
      if (first + r >= rows) break;
      *reinterpret_cast<Elements*>(at + r * 3L * width) = x[r];
      *reinterpret_cast<Elements*>(at + r * 3L * width + half) = y[r];
    }
  }
}

/// The largest of a row and, of equals, the first.
struct Best {
  float value;
  int at;

  /// Of a lane, in the order of classes.
  __device__ void see(float x, int c, int classes) {
    if (x > value || at == classes) value = x, at = c;
  }
  /// The warp's.
  __device__ void of_warp(int classes) {
    for (int distance = warp / 2; distance > 0; distance /= 2) {
      const Best other{__shfl_xor_sync(whole_warp, value, distance), __shfl_xor_sync(whole_warp, at, distance)};
      if (other.at < classes && (at == classes || other.value > value || (other.value == value && other.at < at))) *this = other;
    }
  }
};
__device__ inline Best best_of(const float* row, int classes) {
  Best best{-INFINITY, classes};
  for (int c = warp_lane(); c < classes; c += warp) best.see(row[c], c, classes);
  best.of_warp(classes);
  return best;
}

/// Rows of classes that are read and written in place: some elements apart, and the same once more as bf16, with zeros between them, if that
/// is there.
struct Classes {
  float* elements;
  bf16* converted;
  int rows, classes, apart;

  __device__ float* row(int row) const { return elements + static_cast<long>(row) * apart; }
  __device__ void write(int row, int c, float value) const {
    const long at = static_cast<long>(row) * apart + c;
    elements[at] = value;
    if (converted != nullptr) converted[at] = element<bf16>(value);
  }
  /// Writes compute(class) to all of a row: a warp does.
  template <class Compute>
  __device__ void write(int row, Compute compute) const {
    for (int c = warp_lane(); c < apart; c += warp) write(row, c, c < classes ? compute(c) : 0.0f);
  }
};

/// A row of `each` times 32 classes at most, which a warp has in registers: it waits for memory once. 0: of any number.
template <int each>
__global__ void softmax_cross_entropy_kernel(Classes logits, const std::int32_t* targets, const float* weights, float* losses) {
  after_earlier_kernels();
  const int row = warp_row(), lane = warp_lane(), classes = logits.classes;
  if (row >= logits.rows) return;
  const float* const own = logits.row(row);
  const int target = targets[row];
  const float wanted = own[target], weight = weights[row];
  Best best{-INFINITY, classes};
  float total = 0;
  [[maybe_unused]] float kept[each > 0 ? each : 1];
  if constexpr (each > 0) {
    RELAY_UNROLLED
    for (int i = 0; i < each; ++i) kept[i] = lane + i * warp < classes ? own[lane + i * warp] : -INFINITY;
    RELAY_UNROLLED
    for (int i = 0; i < each; ++i)
      if (lane + i * warp < classes) best.see(kept[i], lane + i * warp, classes);
    best.of_warp(classes);
    RELAY_UNROLLED
    for (int i = 0; i < each; ++i)
      if (lane + i * warp < classes) total += kept[i] = expf(kept[i] - best.value);
  } else {
    best = best_of(own, classes);
    for (int c = lane; c < classes; c += warp) total += expf(own[c] - best.value);
  }
  total = sum_lanes(total);
  const float factor = weight / total;
  const auto gradient = [&](int c, float exponential) { return exponential * factor - (c == target ? weight : 0.0f); };
  __syncwarp();  // all have read what is now written
  if constexpr (each > 0) {
    RELAY_UNROLLED
    for (int i = 0; i < each; ++i)
      if (const int c = lane + i * warp; c < logits.apart) logits.write(row, c, c < classes ? gradient(c, kept[i]) : 0.0f);
  } else {
    logits.write(row, [&](int c) { return gradient(c, expf(own[c] - best.value)); });
  }
  if (lane == 0) {
    losses[2L * row] = logf(total) + best.value - wanted;
    losses[2L * row + 1] = best.at == target ? 1.0f : 0.0f;
  }
}
inline void softmax_cross_entropy(const Classes& logits, const std::int32_t* targets, const float* weights, float* losses) {
  const auto kernel = logits.apart <= 2 * warp   ? softmax_cross_entropy_kernel<2>
                      : logits.apart <= 4 * warp ? softmax_cross_entropy_kernel<4>
                      : logits.apart <= 8 * warp ? softmax_cross_entropy_kernel<8>
                                                 : softmax_cross_entropy_kernel<0>;
  launch(kernel, row_blocks(logits.rows), row_threads, 0, logits, targets, weights, losses);
}

/// best [rows, 2]: the class, and its probability. If they are there, `tokens` become the classes, and `starts` one more.
template <class = void>
__global__ void argmax_kernel(const float* logits, int rows, int classes, int apart, float* best, std::int32_t* tokens, std::int32_t* starts) {
  after_earlier_kernels();
  const int row = warp_row(), lane = warp_lane();
  if (row >= rows) return;
  const float* const own = logits + static_cast<long>(row) * apart;
  const Best top = best_of(own, classes);
  float total = 0;
  for (int c = lane; c < classes; c += warp) total += expf(own[c] - top.value);
  total = sum_lanes(total);
  if (lane == 0) {
    best[2L * row] = __int_as_float(top.at);
    best[2L * row + 1] = 1.0f / total;
    if (tokens != nullptr) tokens[row] = top.at, starts[row] += 1;
  }
}

template <class = void>
__global__ void softmax_kernel(Classes y) {
  after_earlier_kernels();
  const int row = warp_row(), lane = warp_lane();
  if (row >= y.rows) return;
  float* const own = y.row(row);
  const float top = best_of(own, y.classes).value;
  float total = 0;
  for (int c = lane; c < y.classes; c += warp) total += own[c] = expf(own[c] - top);
  total = sum_lanes(total);
  y.write(row, [&](int c) { return own[c] * (1.0f / total); });
}

template <class = void>
__global__ void softmax_backward_kernel(const float* y, int apart, Classes dy) {
  after_earlier_kernels();
  const int row = warp_row(), lane = warp_lane();
  if (row >= dy.rows) return;
  const float* const p = y + static_cast<long>(row) * apart;
  const float* const d = dy.row(row);
  float total = 0;
  for (int c = lane; c < dy.classes; c += warp) total += p[c] * d[c];
  total = sum_lanes(total);
  dy.write(row, [&](int c) { return p[c] * (d[c] - total); });
}

// --- A step of the optimiser on all parameters at once. ---

/// Parameters side by side, cut into pieces of which a block takes one.
struct Piece {
  const float* gradient = nullptr;
  float* weight = nullptr;
  float* first = nullptr;  // moments
  float* second = nullptr;
  bf16* converted = nullptr;  // the weight for products, if there is such a one
  int size = 0;
  int decays = 0;

  bool operator==(const Piece&) const = default;
};
inline constexpr int piece_size = 4096;

/// squares [pieces]
template <class = void>  // templates may be defined in a header
__global__ void squares_kernel(const Piece* pieces, float* squares) {
  after_earlier_kernels();
  const Piece piece = pieces[blockIdx.x];
  float total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < piece.size; i += static_cast<int>(blockDim.x)) total += piece.gradient[i] * piece.gradient[i];
  total = sum_block(total, shared_memory<float>());
  if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

/// The norm of the whole gradient, and what it is multiplied with so that the norm is `clip` at most.
struct Clipped {
  double norm;
  float scale;
  int finite;  // else nothing is to change
};

/// One block, with room for a number of each thread. It adds in the same order always.
template <class = void>
__global__ void clip_kernel(const float* squares, int count, double clip, Clipped* clipped) {
  after_earlier_kernels();
  double* const room = shared_memory<double>();
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  double total = 0;
  for (int i = thread; i < count; i += threads) total += static_cast<double>(squares[i]);
  room[thread] = total;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) room[thread] += room[thread + half];
  }
  if (thread != 0) return;
  const double norm = sqrt(room[0]);
  *clipped = {norm, static_cast<float>(clip > 0 && norm > clip ? clip / norm : 1.0), norm - norm == 0 ? 1 : 0};
}

/// `decaying`: the step of parameters that decay, `plain` of the others. Weights for products are written in any case: they may be new.
template <class = void>
__global__ void adamw_kernel(const Piece* pieces, Adam decaying, Adam plain, const Clipped* clipped) {
  after_earlier_kernels();
  const Piece piece = pieces[blockIdx.x];
  const bool steps = clipped->finite != 0;
  AdamW step{piece.decays != 0 ? decaying : plain, piece.gradient, piece.weight, piece.first, piece.second};
  step.step.scale = clipped->scale;
  for (long at = 4L * threadIdx.x; at < piece.size; at += 4L * blockDim.x) {
    if (steps) step(at, piece.size);
    if (piece.converted != nullptr) Convert<float, bf16>{piece.weight, piece.converted}(at, piece.size);
  }
}

}  // namespace relay::cuda
