// Products of bf16 with what follows them done in registers, before anything is written: a feed-forward layer's up projection with GELU, the
// way back through its down projection with GELU's slope and the sums for the bias, and a projection with the residual and the layer norm
// behind it. (With thousands of rows, cuBLASLt's product with GELU takes a fifth longer on an H200, and its product and a pass that
// multiplies with the slope and adds up take half as long again. How long the one with a norm takes has not been measured.)
//
// A block has some columns of the weight in shared memory, all of their depth, for as long as it runs. Its four warpgroups are two pairs, which
// take one tile of 64 rows after another: while the tensor cores multiply the tile of one pair, the other does with its last what follows it, and
// the rows of its next are on their way. To have the weight there takes some microseconds: few rows are sooner done by cuBLASLt.
#pragma once

#include <relay/backend/cuda/row_ops.hpp>
#include <relay/backend/cuda/warpgroup.hpp>

namespace relay::cuda {

/// x [rows, depth] weight, of which `columns` are asked for.
struct WideProduct {
  const bf16 *x, *weight;
  int rows, columns;
};

/// Where there is no GPU, tests have a sixty-fourth of the rows that a GPU has.
#if defined(RELAY_CUDA_RUNTIME)
inline constexpr int fewer_rows = 64;
#else
inline constexpr int fewer_rows = 1;
#endif

/// h = p + bias, y = GELU(h). Of the product, whose weight is [columns, depth].
struct WithGelu {
  static constexpr bool weight_across = false, sums = false, normalises = false;
  static constexpr int numbers = 1, parts_ahead = 2;  // of a column, to be kept; parts of 32 columns, to be read beforehand
  // On an H200 with 256 -> 1024 columns as fast as cuBLASLt at 5000 rows, a third slower at 3000; but to ask cuBLASLt takes the host twice as long.
  static constexpr int least_rows = 3072 / fewer_rows;
  const float* bias;
  bf16 *hidden, *y;  // `hidden` may be null

  /// What is read beforehand: of a column; of eight neighbours of a row, which lie at `at`.
  __device__ float of_column(int /*which*/, int column) const { return bias[column]; }
  struct Ahead {};
  __device__ void load(Ahead& /*ahead*/, long /*at*/, bool /*there*/) const {}
  __device__ void operator()(float (&x)[8], const Ahead& /*ahead*/, const float* columns, long at, bool there) const {
    Eight<bf16> h, activated;
    Eight<float> term = Eight<float>::load(columns);
    for (int i = 0; i < 8; ++i) {
      x[i] += term[i];
      h[i] = element<bf16>(x[i]);
      activated[i] = element<bf16>(gelu<bf16>(x[i]));
    }
    if (there && hidden != nullptr) h.store(hidden + at);
    if (there) activated.store(y + at);
  }
};

/// dh = p GELU'(h), which is added up over the rows. Of the product, whose weight is [depth, columns].
struct WithGeluSlope {
  static constexpr bool weight_across = true, sums = true, normalises = false;
  static constexpr int numbers = 0, parts_ahead = 2;
  static constexpr int least_rows = 1024 / fewer_rows;  // the same: as fast as a product and a pass at 3000, and one launch for two
  const bf16* hidden;
  bf16* dh;
  float* partial;  // [gridDim.x, columns], row b: the sums over the rows that the blocks (b, ..) have had
  bool adds;       // to what is there

  __device__ float of_column(int /*which*/, int /*column*/) const { return 0; }
  using Ahead = Neighbours<std::uint32_t, 4>;  // two numbers each: nothing is waited for before they are taken apart
  __device__ void load(Ahead& ahead, long at, bool there) const {
    ahead = {};
    if (there) ahead = *reinterpret_cast<const Ahead*>(hidden + at);
  }
  __device__ void operator()(float (&x)[8], const Ahead& ahead, const float* /*columns*/, long at, bool there) const {
    Ahead d;
    for (int i = 0; i < 4; ++i) {
      float first, second;
      gelu<bf16>(lower_number(ahead.element[i]), &first);
      gelu<bf16>(upper_number(ahead.element[i]), &second);
      x[2 * i] *= first;
      x[2 * i + 1] *= second;
      d.element[i] = pair(x[2 * i], x[2 * i + 1]);
    }
    if (there) *reinterpret_cast<Ahead*>(dh + at) = d;
  }
};

/// sum = base + dropout(p + bias), and normal, its layer norm, with what norms keep, as norm.hpp has it. Of a product of as many columns as a
/// block has, which so has whole rows.
struct WithResidualNorm {
  static constexpr bool weight_across = false, sums = false, normalises = true;
  static constexpr int numbers = 3, parts_ahead = 1;
  static constexpr int least_rows = 3072 / fewer_rows;  // as for GELU: not measured
  const float *bias, *base, *scale, *shift;
  float eps;
  Drop drop;
  float* sum;
  bf16* normal;
  float* statistics;

  __device__ float of_column(int which, int column) const { return (which == 0 ? bias : which == 1 ? scale : shift)[column]; }
  using Ahead = Eight<float>;
  __device__ void load(Ahead& ahead, long at, bool there) const {
    ahead = {};
    if (there) ahead = Eight<float>::load(base + at);
  }
  __device__ void operator()(float (&x)[8], const Ahead& ahead, const float* columns, long at, bool there) const {
    Eight<float> residual = ahead, term = Eight<float>::load(columns);
    for (int four = 0; four < 8; four += 4) {
      float some[4];
      for (int i = 0; i < 4; ++i) some[i] = x[four + i] + term[four + i];
      drop(at + four, some);
      for (int i = 0; i < 4; ++i) residual[four + i] = x[four + i] = residual[four + i] + some[i];
    }
    if (there) residual.store(sum + at);
  }
  /// normal from numbers less their mean, over their deviation; `columns`: of scale.
  __device__ void normalise(const float (&x)[8], const float* columns, const float* next_columns, long at, bool there) const {
    Eight<float> factor = Eight<float>::load(columns), term = Eight<float>::load(next_columns);
    Eight<bf16> y;
    for (int i = 0; i < 8; ++i) y[i] = element<bf16>(x[i] * factor[i] + term[i]);
    if (there) y.store(normal + at);
  }
};

namespace fused {

inline constexpr int tile_rows = 64, tile_columns = 128, columns = 2 * tile_columns;  // of a warpgroup; the columns of a block, which a pair has
inline constexpr int pair_threads = 2 * warpgroup, threads = 2 * pair_threads;

/// The weight; a tile for each pair; numbers for each column; and of rows, what the two sides of a pair tell each other, twice.
template <int depth, class Follow>
inline constexpr std::size_t shared_bytes = panel_alignment + static_cast<std::size_t>(columns + threads / pair_threads * tile_rows) * depth * sizeof(bf16) +
                                            (Follow::numbers * columns + (Follow::normalises ? 4 * threads / pair_threads * tile_rows : 0)) * sizeof(float);

/// The column of the block that the tensor cores have as their n-th: then a thread's sums of a row are eight neighbours, four times.
__device__ inline int column_of(int n) { return n / 32 * 32 + n % 8 / 2 * 8 + n / 8 % 4 * 2 + n % 2; }

template <int depth>
__device__ void load_tile(const WideProduct& p, int tile, bf16* to) {
  constexpr int across = depth / 8, at_once = pair_threads / across;  // sixteens of bytes of a row; rows
  const int thread = static_cast<int>(threadIdx.x) % pair_threads, column = thread % across * 8;
  RELAY_UNROLLED
  for (int above = 0; above < tile_rows; above += at_once) {
    const int row = above + thread / across, of = tile * tile_rows + row;
    const bool there = of < p.rows;
    copy_behind(to + place_in_panels(tile_rows, row, column), p.x + (there ? static_cast<long>(of) * depth + column : 0), there);
  }
  end_copies();
}

/// The block's columns of the weight: as rows of panels, where they are so in memory, else across them.
template <int depth, bool across>
__device__ void load_weight(const WideProduct& p, int first, bf16* to) {
  const int thread = static_cast<int>(threadIdx.x);
  constexpr int steps = depth * columns / 8 / threads;
  if constexpr (!across) {
    constexpr int sixteens = depth / 8;
    RELAY_UNROLLED
    for (int step = 0; step < steps; ++step) {
      const int i = step * threads + thread, n = i / sixteens, k = i % sixteens * 8;
      copy_behind(to + place_in_panels(columns, n, k), p.weight + static_cast<long>(first + column_of(n)) * depth + k, true);
    }
  } else {
    using Pairs = Neighbours<std::uint32_t, 4>;
    Pairs eight[steps];  // all of them are on their way together
    const auto column = [](int i) { return i / (8 * depth) * panel_columns + i % 8 * 8; };
    const auto row = [](int i) { return i / 8 % depth; };
    RELAY_UNROLLED
    for (int step = 0; step < steps; ++step) {
      const int i = step * threads + thread;
      eight[step] = *reinterpret_cast<const Pairs*>(p.weight + static_cast<long>(row(i)) * p.columns + first + column(i));
    }
    RELAY_UNROLLED
    for (int step = 0; step < steps; ++step) {
      const int i = step * threads + thread, n = column(i) / 32 * 32 + column(i) % 32 / 8 * 2;  // column_of(n) = column(i)
      for (int j = 0; j < 4; ++j) *reinterpret_cast<std::uint32_t*>(to + place_in_panels(depth, row(i), n + 8 * j)) = eight[step].element[j];
    }
  }
}

/// Eight numbers of each of eight lanes that are four apart, added up: the i-th of those lanes has the sums of the i-th.
__device__ inline float sum_by_lane(float (&x)[8]) {
  for (int count = 4; count > 0; count /= 2) {
    const bool upper = (warp_lane() / 4 & count) != 0;
    for (int i = 0; i < count; ++i) {
      const float kept = upper ? x[i + count] : x[i], given = upper ? x[i] : x[i + count];
      x[i] = kept + __shfl_xor_sync(whole_warp, given, 4 * count);
    }
  }
  return x[0];
}

template <int depth, class Follow>
__global__ void __launch_bounds__(threads_with_warpgroups(threads), 1) fused_product_kernel(WideProduct p, Follow follow) {
  after_earlier_kernels();
#if RELAY_CUDA_WARPGROUPS
  constexpr bool across = Follow::weight_across;
  constexpr int parts = tile_columns / 32;
  const int own = static_cast<int>(threadIdx.x) / pair_threads, side = static_cast<int>(threadIdx.x) % pair_threads / warpgroup, lane = warp_lane();
  const int first = static_cast<int>(blockIdx.y) * columns;
  const int tiles = (p.rows + tile_rows - 1) / tile_rows, step = static_cast<int>(gridDim.x) * (threads / pair_threads);
  bf16* const weight = panel_aligned(shared_memory<bf16>());
  bf16* const x = weight + (columns + own * tile_rows) * depth;
  float* const of_columns = reinterpret_cast<float*>(weight + (columns + threads / pair_threads * tile_rows) * depth);
  if (const int c = static_cast<int>(threadIdx.x); c < columns)
    for (int i = 0; i < Follow::numbers; ++i) of_columns[i * columns + c] = follow.of_column(i, first + c);
  int tile = static_cast<int>(blockIdx.x) + own * static_cast<int>(gridDim.x);
  if (tile < tiles) load_tile<depth>(p, tile, x);
  load_weight<depth, across>(p, first, weight);
  end_copies();
  wait_for_copies();
  written_for_products();
  __syncthreads();
  const MatrixAt rows(x, panel_columns * tile_rows);
  const MatrixAt factor(weight + side * tile_columns * (across ? depth : panel_columns), panel_columns * (across ? depth : columns));
  const int row = static_cast<int>(threadIdx.x) % warpgroup / warp * 16 + lane / 4, column = first + side * tile_columns + lane % 4 * 8;
  float column_sums[parts] = {};
  if (own == 1) give_turn<pair_threads>();
  for (int left = (tiles - static_cast<int>(blockIdx.x) + step - 1) / step; left > 0; --left) {
    const bool has_tile = tile < tiles;  // the second pair may have one less
    typename Follow::Ahead ahead[parts][2];
    const int above = tile * tile_rows + row;
    const long place = static_cast<long>(above) * p.columns + column;
    const auto at = [&](int g, int half) { return place + 8L * half * p.columns + 32 * g; };
    const auto there = [&](int half) { return above + 8 * half < p.rows; };
    const auto load = [&](int first_part, int end) {
      RELAY_UNROLLED
      for (int g = first_part; g < end; ++g)
        for (int half = 0; half < 2; ++half) follow.load(ahead[g][half], at(g, half), there(half));
    };
    load(0, Follow::parts_ahead);  // the others when registers for them are free
    const auto give = [&] {
      if (own == 0 || left > 1) give_turn<pair_threads>();  // nobody waits for the last
    };
    wait_for_turn<pair_threads>();
    if (!has_tile) {
      give();
      continue;
    }
    float d[64];  // the first of the products writes it
    const MatrixAt a = rows.of_warp(), b = factor.of_warp();
    begin_products();
    RELAY_UNROLLED
    for (int k = 0; k < depth; k += 16) {
      const int panel = k / panel_columns * panel_columns, within = k % panel_columns;
      multiply_panels<across>(d, a + (panel * tile_rows + within), b + (across ? k * panel_columns : panel * columns + within), k > 0);
    }
    end_products();
    give();
    wait_for_products(d);
    wait_for_neighbours<pair_threads>();  // all have multiplied these rows
    tile += step;
    if (tile < tiles) load_tile<depth>(p, tile, x);
    RELAY_UNROLLED
    for (int g = 0; g < parts; ++g) {
      float sums[8];
      for (int half = 0; half < 2; ++half) {
        float eight[8];
        for (int j = 0; j < 8; ++j) eight[j] = d[16 * g + j / 2 * 4 + 2 * half + j % 2];
        follow(eight, ahead[g][half], of_columns + (column - first) + 32 * g, at(g, half), there(half));
        if constexpr (Follow::normalises)
          for (int j = 0; j < 8; ++j) d[16 * g + j / 2 * 4 + 2 * half + j % 2] = eight[j];
        for (int j = 0; j < 8; ++j) sums[j] = half == 0 ? eight[j] : sums[j] + eight[j];
      }
      if (g + Follow::parts_ahead < parts) load(g + Follow::parts_ahead, g + Follow::parts_ahead + 1);
      if constexpr (Follow::sums) column_sums[g] += sum_by_lane(sums);
    }
    if constexpr (Follow::normalises) {
      // Of this thread's two rows, over all columns, what each(x) gives: its own, its neighbours', and the other side's.
      const auto over_row = [&](int turn, auto&& each, float (&sums)[2]) {
        sums[0] = sums[1] = 0;
        RELAY_UNROLLED
        for (int i = 0; i < 64; ++i) sums[i / 2 % 2] += each(d[i], i / 2 % 2);
        float* const told = of_columns + Follow::numbers * columns + (2 * own + turn) * 2 * tile_rows + row;
        for (int half = 0; half < 2; ++half) {
          sums[half] = sum_lanes<4>(sums[half]);
          if (lane % 4 == 0) told[side * tile_rows + 8 * half] = sums[half];
        }
        wait_for_neighbours<pair_threads>();
        for (int half = 0; half < 2; ++half) sums[half] = (told[8 * half] + told[tile_rows + 8 * half]) / columns;
      };
      float mean[2], rstd[2];
      over_row(0, [](float y, int) { return y; }, mean);
      over_row(1, [&](float y, int half) { return (y - mean[half]) * (y - mean[half]); }, rstd);
      for (int half = 0; half < 2; ++half) {
        rstd[half] = 1.0f / sqrtf(rstd[half] + follow.eps);
        if (side == 0 && lane % 4 == 0 && there(half))
          reinterpret_cast<Neighbours<float, 2>*>(follow.statistics)[above + 8 * half] = {mean[half], rstd[half]};
      }
      RELAY_UNROLLED
      for (int g = 0; g < parts; ++g)
        for (int half = 0; half < 2; ++half) {
          float eight[8];
          for (int j = 0; j < 8; ++j) eight[j] = (d[16 * g + j / 2 * 4 + 2 * half + j % 2] - mean[half]) * rstd[half];
          const float* const scale = of_columns + columns + (column - first) + 32 * g;
          follow.normalise(eight, scale, scale + columns, at(g, half), there(half));
        }
    }
    wait_for_copies();
    written_for_products();
    wait_for_neighbours<pair_threads>();  // the next are there
  }
  if constexpr (Follow::sums) {
    float* const sums = reinterpret_cast<float*>(weight);  // [warps, tile_columns]
    __syncthreads();                                       // nobody multiplies with it any more
    const int own_warp = static_cast<int>(threadIdx.x) / warp;
    for (int g = 0; g < parts; ++g) sums[own_warp * tile_columns + 32 * g + lane % 4 * 8 + lane / 4] = column_sums[g];
    __syncthreads();
    if (const int c = static_cast<int>(threadIdx.x); c < columns) {
      float& to = follow.partial[static_cast<long>(blockIdx.x) * p.columns + first + c];
      float sum = follow.adds ? to : 0.0f;
      for (int w = 0; w < threads / warp; ++w)
        if (w * warp % pair_threads / warpgroup == c / tile_columns) sum += sums[w * tile_columns + c % tile_columns];
      to = sum;
    }
  }
#endif
}

}  // namespace fused

/// x [rows, depth] weight with what follows it, where there is such a product for these sizes on this device, and it is worth it.
template <class Follow>
class FusedProduct {
 public:
  FusedProduct(int rows, int depth, int columns) : rows_(rows), columns_(columns) {
    if (rows < Follow::least_rows || columns == 0 || columns % fused::columns != 0 || (Follow::normalises && columns != fused::columns)) return;
    if (depth == 64) take<64>();
    if (depth == 128) take<128>();
    if (depth == 256) take<256>();
  }
  explicit operator bool() const { return kernel_ != nullptr; }

  /// So many blocks share the rows, each with the same columns; so many sums over rows there are.
  int blocks() const {
    const int tiles = (rows_ + fused::tile_rows - 1) / fused::tile_rows;
    return std::clamp(std::min(multiprocessors(), most_added_parts) * fused::columns / columns_, 1, tiles);
  }
  void operator()(const bf16* x, const bf16* weight, const Follow& follow) const {
    const dim3 grid(static_cast<unsigned>(blocks()), static_cast<unsigned>(columns_ / fused::columns));
    launch(kernel_, grid, fused::threads, shared_, WideProduct{x, weight, rows_, columns_}, follow);
  }

 private:
  template <int depth>
  void take() {
    const auto kernel = fused::fused_product_kernel<depth, Follow>;
    if (!with_warpgroups(reinterpret_cast<const void*>(kernel))) return;
    kernel_ = kernel;
    shared_ = fused::shared_bytes<depth, Follow>;
  }

  int rows_, columns_;
  void (*kernel_)(WideProduct, Follow) = nullptr;
  std::size_t shared_ = 0;
};

}  // namespace relay::cuda
