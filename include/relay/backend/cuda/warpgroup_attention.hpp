// Attention to sequences of more than 128 rows, of heads with 64 columns, by Hopper's products of warpgroups (warpgroup.hpp). The kernels are
// those of long_attention.hpp, which says what they compute and where; here a block is one warpgroup, which has 64 rows and takes tiles of 64.
//
// A tile's matrices are read once for all four warps, and once more where they are a product's other way: queries, keys, values and their
// gradients are one panel each, and every product finds its factor in one as it lies, by rows or across them. Scores are in registers, and go
// from there into the next product. While one block's products run, others are between theirs.
#pragma once

#include <relay/backend/cuda/long_attention.hpp>
#include <relay/backend/cuda/warpgroup.hpp>

namespace relay::cuda::detail {

inline constexpr int panel_rows = 64, panel_size = panel_rows * panel_columns;

/// Matrices of the block's own rows, which stay there, and two stages of a tile, of two matrices each.
template <int matrices>
struct PanelRoom {
  static constexpr int tiles = matrices * panel_size, stage = 2 * panel_size, all = tiles + 2 * stage;
  static constexpr std::size_t bytes = panel_alignment + all * sizeof(bf16);
  static constexpr std::size_t bytes_with_columns = bytes + 2 * 2 * panel_rows * sizeof(float);  // and two numbers of each row of both stages
  static_assert(4 * 16 * pitch<bf16, panel_columns> <= 2 * stage);                               // where results are laid out to be stored
};

/// Begins to copy rows first .. first + 63 to a panel, zeros where there is nothing.
template <class T>
__device__ void load_panel(const HeadRows<T>& from, int first, bf16* to) {
  constexpr int across = panel_columns / 8, at_once = warpgroup / across;
  const int thread = static_cast<int>(threadIdx.x), above = thread / across, column = thread % across * 8;
  const int left = from.count - first - above;
  const T* at = from.at + (first + above) * from.stride + column;
  to += place_in_panels(panel_rows, above, column);
  unrolled<panel_rows / at_once>([&](auto i) {  // at_once is a multiple of eight: sixteens lie alike in all of these rows
    copy_behind(to + i * at_once * panel_columns, at, i * at_once < left);
    at += at_once * from.stride;
  });
}

/// A tile: the same rows of two matrices.
template <class T>
__device__ void load_panels(const HeadRows<T>& first_of, const HeadRows<T>& second_of, int first, bf16* to) {
  load_panel(first_of, first, to);
  load_panel(second_of, first, to + panel_size);
}

/// The sum of products of a row of two panels, in each of four neighbouring lanes.
__device__ inline float product_of_panel_rows(const bf16* a, const bf16* b, int row) {
  using Pairs = Neighbours<std::uint32_t, 4>;
  float sum = 0;
  unrolled<2>([&](auto i) {
    const int at = place_in_panels(panel_rows, row, (4 * i + Lane().member) * 8);
    const Pairs left = *reinterpret_cast<const Pairs*>(a + at), right = *reinterpret_cast<const Pairs*>(b + at);
    for (int j = 0; j < 4; ++j) {
      sum = fmaf(lower_number(left.element[j]), lower_number(right.element[j]), sum);
      sum = fmaf(upper_number(left.element[j]), upper_number(right.element[j]), sum);
    }
  });
  return sum_lanes<4>(sum);
}

#if RELAY_CUDA_WARPGROUPS
/// sums = a b^T of panels: asked for, as all these are, between begin_products() and end_products().
__device__ inline void multiply_transposed(float (&sums)[8][4], MatrixAt a, MatrixAt b) {
  unrolled<4>([&](auto k) { multiply_panel<false>(sums, a + 16 * k, b + 16 * k, k > 0); });
}
/// Scores as the left side of a product, of 16 columns each.
__device__ inline void as_factor(const float (&p)[8][4], std::uint32_t (&words)[4][4]) {
  unrolled<4>([&](auto k) {
    for (int i = 0; i < 4; ++i) words[k][i] = pair(p[2 * k + i / 2][i % 2 * 2], p[2 * k + i / 2][i % 2 * 2 + 1]);
  });
}
/// sums += a b: a in registers.
__device__ inline void add_product(float (&sums)[8][4], const std::uint32_t (&a)[4][4], MatrixAt b) {
  unrolled<4>([&](auto k) { multiply_panel<true>(sums, a[k], b + 16 * k * panel_columns, true); });
}
__device__ inline MatrixAt panel_at(const bf16* from) { return MatrixAt(from, panel_size); }
#endif

template <class = void>
__global__ void __launch_bounds__(threads_with_warpgroups(warpgroup), 5) warpgroup_attention_kernel(Batch<bf16> batch, const Unit* order, bf16* out, float* lse) {
  after_earlier_kernels();
#if RELAY_CUDA_WARPGROUPS
  using Room = PanelRoom<1>;
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * panel_rows;
  const Sight sight{mask_of(batch.heads, at.head), at.rows, at.rows};
  const auto keys = batch.rows(batch.qkv, at, 3, 1), values = batch.rows(batch.qkv, at, 3, 2);
  bf16* const shared = panel_aligned(shared_memory<bf16>());
  load_panel(batch.rows(batch.qkv, at, 3, 0), first, shared);

  const Lane lane;
  const int row = first + 16 * lane.own_warp;
  const Range all = sight.of_each(row, 16);
  const float factor = batch.scale * log2_e;
  RunningSoftmax<bf16> softmax;
  float sums[8][4] = {};
  over_long_tiles<panel_rows, true>(
      sight.of(first, panel_rows),
      [&](int from, int stage) { load_panels(keys, values, from, shared + Room::tiles + stage * Room::stage); },
      [](int) {}, [] {},
      [&](int from, int stage) {
        const bf16* const key = shared + Room::tiles + stage * Room::stage;
        float p[8][4], correction[2];
        begin_products();
        multiply_transposed(p, panel_at(shared), panel_at(key));
        end_products();
        wait_for_products(p);
        if (!all.covers(from, panel_rows)) hide(p, sight, row, from);
        softmax.add(p, factor, correction);
        if (__ballot_sync(whole_warp, correction[0] != 1 || correction[1] != 1) != 0)
          for (int c = 0; c < 8; ++c)
            for (int i = 0; i < 4; ++i) sums[c][i] *= correction[i / 2];
        std::uint32_t factors[4][4];
        as_factor(p, factors);
        begin_products();
        add_product(sums, factors, panel_at(key + panel_size));
        end_products();
        wait_for_products(sums);
      });
  float inverse[2];
  softmax.end(batch.scale, inverse, [&](int lower, float value) {
    if (const int i = row + lane.group + lower; i < at.rows) lse[batch.of_row(at, i)] = value;
  });
  bf16* const free = shared + Room::tiles + 16 * lane.own_warp * pitch<bf16, panel_columns>;  // nobody reads tiles any longer
  store_rows<TensorCores, panel_columns>(sums, inverse[0], inverse[1], free, batch.rows(out, at, 1, 0), row);
#endif
}

template <class = void>
__global__ void __launch_bounds__(threads_with_warpgroups(warpgroup), 4)
    warpgroup_query_gradient_kernel(Batch<bf16> batch, const Unit* order, const float* lse, const bf16* out, const bf16* dout, float* means, bf16* dqkv) {
  after_earlier_kernels();
#if RELAY_CUDA_WARPGROUPS
  using Room = PanelRoom<2>;
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * panel_rows;
  const Sight sight{mask_of(batch.heads, at.head), at.rows, at.rows};
  const auto keys = batch.rows(batch.qkv, at, 3, 1), values = batch.rows(batch.qkv, at, 3, 2);
  bf16* const shared = panel_aligned(shared_memory<bf16>());
  bf16* const gradient = shared + panel_size;
  load_panel(batch.rows(batch.qkv, at, 3, 0), first, shared);
  load_panel(batch.rows(dout, at, 1, 0), first, gradient);
  load_panel(batch.rows(out, at, 1, 0), first, shared + Room::tiles + Room::stage);  // where the second tile comes

  const Lane lane;
  const int below = 16 * lane.own_warp, row = first + below;
  const Range all = sight.of_each(row, 16);
  const float factor = batch.scale * log2_e;
  float log_sum[2], mean[2];  // both negative, the first of base two
  for (int half = 0; half < 2; ++half) {
    const int i = row + 8 * half + lane.group;
    log_sum[half] = i < at.rows ? lse[batch.of_row(at, i)] : 0.0f;
  }
  float dq[8][4] = {};
  over_long_tiles<panel_rows, true>(
      sight.of(first, panel_rows),
      [&](int from, int stage) { load_panels(keys, values, from, shared + Room::tiles + stage * Room::stage); },
      [](int) {},
      [&] {
        for (int half = 0; half < 2; ++half) {
          const int lower = below + 8 * half + lane.group, i = first + lower;
          const float sum = product_of_panel_rows(shared + Room::tiles + Room::stage, gradient, lower);
          mean[half] = -sum;
          log_sum[half] *= -log2_e;
          if (lane.member == 0 && i < at.rows) means[batch.of_row(at, i)] = sum;
        }
        __syncthreads();
      },
      [&](int from, int stage) {
        const bf16* const key = shared + Room::tiles + stage * Room::stage;
        float p[8][4], dp[8][4];
        begin_products();
        multiply_transposed(p, panel_at(shared), panel_at(key));
        multiply_transposed(dp, panel_at(gradient), panel_at(key + panel_size));
        end_products();
        wait_for_products(p);
        wait_for_products(dp);
        if (!all.covers(from, panel_rows)) hide(p, sight, row, from);
        for (int c = 0; c < 8; ++c)
          for (int i = 0; i < 4; ++i) p[c][i] = power_of_two<bf16>(fmaf(p[c][i], factor, log_sum[i / 2])) * (dp[c][i] + mean[i / 2]);
        std::uint32_t factors[4][4];
        as_factor(p, factors);
        begin_products();
        add_product(dq, factors, panel_at(key));
        end_products();
        wait_for_products(dq);
      });
  const float* const table = batch.table(at);
  if (table != nullptr) turn_back<panel_columns>(dq, row, at.rows, table);
  bf16* const free = shared + Room::tiles + below * pitch<bf16, panel_columns>;
  store_rows<TensorCores, panel_columns>(dq, batch.scale, batch.scale, free, batch.rows(dqkv, at, 3, 0), row);
#endif
}

template <class = void>
__global__ void __launch_bounds__(threads_with_warpgroups(warpgroup), 3)
    warpgroup_key_gradient_kernel(Batch<bf16> batch, const Unit* order, const float* lse, const bf16* dout, const float* means, bf16* dqkv) {
  after_earlier_kernels();
#if RELAY_CUDA_WARPGROUPS
  using Room = PanelRoom<2>;
  const auto at = place_in(batch, order);
  if (at.rows == 0) return;
  const int first = at.block * panel_rows;
  const Sight sight = Sight{mask_of(batch.heads, at.head), at.rows, at.rows}.transposed();
  const auto queries = batch.rows(batch.qkv, at, 3, 0), gradients = batch.rows(dout, at, 1, 0);
  bf16* const shared = panel_aligned(shared_memory<bf16>());
  load_panel(batch.rows(batch.qkv, at, 3, 1), first, shared);
  load_panel(batch.rows(batch.qkv, at, 3, 2), first, shared + panel_size);

  const Lane lane;
  const int below = 16 * lane.own_warp, row = first + below, thread = static_cast<int>(threadIdx.x);
  const Range all = sight.of_each(row, 16);
  const float factor = batch.scale * log2_e;
  // Of the queries of both stages, [lse, D][tile], both negative, the first of base two. A thread brings one number of a tile.
  static_assert(2 * panel_rows == warpgroup);
  float* const columns = reinterpret_cast<float*>(shared + Room::all);
  float brought = 0;
  float dk[8][4] = {}, dv[8][4] = {};
  over_long_tiles<panel_rows, true>(
      sight.of(first, panel_rows),
      [&](int from, int stage) {
        const int i = from + thread % panel_rows;
        brought = i < at.rows ? (thread < panel_rows ? lse : means)[batch.of_row(at, i)] : 0.0f;
        load_panels(queries, gradients, from, shared + Room::tiles + stage * Room::stage);
      },
      [&](int stage) { columns[2 * stage * panel_rows + thread] = (thread < panel_rows ? -log2_e : -1.0f) * brought; }, [] {},
      [&](int from, int stage) {
        const bf16* const query = shared + Room::tiles + stage * Room::stage;
        const float* const column = columns + 2 * stage * panel_rows + 2 * lane.member;
        float p[8][4], ds[8][4];
        begin_products();
        multiply_transposed(p, panel_at(shared), panel_at(query));
        multiply_transposed(ds, panel_at(shared + panel_size), panel_at(query + panel_size));
        end_products();
        wait_for_products(p);
        wait_for_products(ds);
        if (!all.covers(from, panel_rows)) hide(p, sight, row, from);
        for (int c = 0; c < 8; ++c)
          for (int i = 0; i < 4; ++i) {
            p[c][i] = power_of_two<bf16>(fmaf(p[c][i], factor, column[8 * c + i % 2]));
            ds[c][i] = p[c][i] * (ds[c][i] + column[panel_rows + 8 * c + i % 2]);
          }
        std::uint32_t factors[4][4], gradient_factors[4][4];
        as_factor(p, factors);
        as_factor(ds, gradient_factors);
        begin_products();
        add_product(dv, factors, panel_at(query + panel_size));
        add_product(dk, gradient_factors, panel_at(query));
        end_products();
        wait_for_products(dv);
        wait_for_products(dk);
      });
  const float* const table = batch.table(at);
  if (table != nullptr) turn_back<panel_columns>(dk, row, at.rows, table);
  bf16* const free = shared + Room::tiles + below * pitch<bf16, panel_columns>;
  store_rows<TensorCores, panel_columns>(dk, batch.scale, batch.scale, free, batch.rows(dqkv, at, 3, 1), row);
  store_rows<TensorCores, panel_columns>(dv, 1, 1, free, batch.rows(dqkv, at, 3, 2), row);
#endif
}

// --- On the host. ---

/// Whether there are such kernels for these heads on this device, and they were launched. scratch: as launch_long_forward's and backward's.
inline bool launch_warpgroup_forward(const Batch<bf16>& batch, int sequences, int rows, int longest, bf16* out, float* lse, Unit* order) {
  const auto kernel = warpgroup_attention_kernel<>;
  if (batch.size != panel_columns || !batch.wide || !with_warpgroups(reinterpret_cast<const void*>(kernel))) return false;
  const int units = make_order(batch.offsets, sequences, rows, longest, panel_rows, order);
  launch(kernel, long_blocks(batch, units), warpgroup, PanelRoom<1>::bytes, batch, order, out, lse);
  return true;
}
inline bool launch_warpgroup_backward(const Batch<bf16>& batch, const bf16* out, const float* lse, const bf16* dout, int sequences, int rows, int longest,
                                      Unit* order, float* means, bf16* dqkv) {
  const auto of_queries = warpgroup_query_gradient_kernel<>;
  const auto of_keys = warpgroup_key_gradient_kernel<>;
  if (batch.size != panel_columns || !batch.wide || !with_warpgroups(reinterpret_cast<const void*>(of_queries))) return false;
  const int units = make_order(batch.offsets, sequences, rows, longest, panel_rows, order);
  launch(of_queries, long_blocks(batch, units), warpgroup, PanelRoom<2>::bytes, batch, order, lse, out, dout, means, dqkv);
  launch(of_keys, long_blocks(batch, units), warpgroup, PanelRoom<2>::bytes_with_columns, batch, order, lse, dout, means, dqkv);
  return true;
}

}  // namespace relay::cuda::detail
