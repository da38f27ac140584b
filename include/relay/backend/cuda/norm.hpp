// Layer norm on the GPU, forward and backward, with what lies around it in a transformer: the residual before it, the gradient that goes
// around it, and the dropout that this gradient meets next. A warp has a row, in registers where it is not too wide.
//
// What each function computes stands in backend/backend.hpp and layer/layer_norm.hpp.
#pragma once

#include <relay/backend/cuda/row_ops.hpp>

namespace relay::cuda {

/// f(fours) for rows that a warp has in registers, as a constant: a lane has so many times four neighbours, each a whole warp of fours after
/// the last. For rows of other widths 0: their numbers are read again from memory. (With registers for any width every load would have a
/// branch of its own, and wait for the one before.)
template <class F>
void with_fours(int width, F&& f) {
  if (width == warp_of_fours)
    f(std::integral_constant<int, 1>());
  else if (width == 2 * warp_of_fours)
    f(std::integral_constant<int, 2>());
  else if (width == 4 * warp_of_fours)
    f(std::integral_constant<int, 4>());
  else
    f(std::integral_constant<int, 0>());
}

/// A lane's part of a row, as it lies in memory.
template <int fours, class T>
struct LoadedPart {
  Four<T> part[fours];

  __device__ void load(const T* row) {
    for (int i = 0; i < fours; ++i) part[i] = *reinterpret_cast<const Four<T>*>(row + first_column() + i * warp_of_fours);
  }
  __device__ float operator()(int i, int j) const { return number(part[i].element[j]); }
};

/// And as numbers.
template <int fours>
struct RowPart {
  float x[fours][4];

  template <class T>
  __device__ void store(T* row) const {
    for (int i = 0; i < fours; ++i) {
      Four<T> four;
      for (int j = 0; j < 4; ++j) four.element[j] = element<T>(x[i][j]);
      *reinterpret_cast<Four<T>*>(row + first_column() + i * warp_of_fours) = four;
    }
  }
  /// `begin`: the place of the row's first element in its tensor.
  __device__ void drop(const Drop& drop, long begin) {
    for (int i = 0; i < fours; ++i) drop(begin + first_column() + i * warp_of_fours, x[i]);
  }
  /// f(element, its place) for all of them.
  template <class F>
  __device__ void each(F&& f) {
    for (int i = 0; i < fours; ++i)
      for (int j = 0; j < 4; ++j) f(x[i][j], i, j);
  }
};

/// y = norm(sum), sum = base + dropout(branch); without a branch, sum = base, which is not written.
template <class Base, class Branch, class Y>
struct Norm {
  const Base* base;
  const Branch* branch;  // may be null
  float* sum;            // with a branch
  Drop drop;
  const float *scale, *shift;
  float eps;
  int rows, width;
  Y* y;
  float* statistics;
};

template <int fours, class Base, class Branch, class Y>
__global__ void norm_kernel(Norm<Base, Branch, Y> p) {
  after_earlier_kernels();
  const int row = warp_row();
  if (row >= p.rows) return;
  constexpr int width = fours * warp_of_fours;
  const long begin = static_cast<long>(row) * width;
  LoadedPart<fours, Base> base;
  LoadedPart<fours, float> factor, term;
  RowPart<fours> v;
  base.load(p.base + begin);
  if (p.branch != nullptr) {
    LoadedPart<fours, Branch> branch;
    branch.load(p.branch + begin);
    factor.load(p.scale);  // on their way while the sums are made, which is time that nothing else hides where there are few rows
    term.load(p.shift);
    v.each([&](float& x, int i, int j) { x = branch(i, j); });
    v.drop(p.drop, begin);
    v.each([&](float& x, int i, int j) { x += base(i, j); });
    v.store(p.sum + begin);
  } else {
    factor.load(p.scale);
    term.load(p.shift);
    v.each([&](float& x, int i, int j) { x = base(i, j); });
  }
  float total = 0, squares = 0;
  v.each([&](float x, int, int) { total += x; });
  const float mean = sum_lanes(total) / width;
  v.each([&](float x, int, int) { squares += (x - mean) * (x - mean); });
  const float rstd = 1.0f / sqrtf(sum_lanes(squares) / width + p.eps);
  v.each([&](float& x, int i, int j) { x = (x - mean) * rstd * factor(i, j) + term(i, j); });
  v.store(p.y + begin);
  if (warp_lane() == 0) {
    p.statistics[2L * row] = mean;
    p.statistics[2L * row + 1] = rstd;
  }
}

/// The same for rows of any width, whose numbers are read again from memory.
template <class Base, class Branch, class Y>
__global__ void wide_norm_kernel(Norm<Base, Branch, Y> p) {
  after_earlier_kernels();
  const int row = warp_row(), width = p.width;
  if (row >= p.rows) return;
  const long begin = static_cast<long>(row) * width;
  if (p.branch != nullptr)
    for (int c = first_column(); c < width; c += warp_of_fours) {
      float x[4], more[4];
      load_of_row(p.base + begin, c, width, x);
      load_of_row(p.branch + begin, c, width, more);
      p.drop(begin + c, more);
      for (int i = 0; i < 4; ++i) x[i] += more[i];
      store_of_row(p.sum + begin, c, width, x);  // a lane reads below what it has written itself
    }
  const auto load_sum = [&](int c, float(&x)[4]) {
    if (p.branch != nullptr)
      load_of_row(p.sum + begin, c, width, x);
    else
      load_of_row(p.base + begin, c, width, x);
  };
  float x[4], total = 0, squares = 0;
  for (int c = first_column(); c < width; c += warp_of_fours) {
    load_sum(c, x);
    for (int i = 0; i < 4; ++i) total += x[i];
  }
  const float mean = sum_lanes(total) / static_cast<float>(width);
  for (int c = first_column(); c < width; c += warp_of_fours) {
    load_sum(c, x);
    for (int i = 0; i < 4; ++i)
      if (c + i < width) squares += (x[i] - mean) * (x[i] - mean);
  }
  const float rstd = 1.0f / sqrtf(sum_lanes(squares) / static_cast<float>(width) + p.eps);
  for (int c = first_column(); c < width; c += warp_of_fours) {
    float factor[4], term[4];
    load_sum(c, x);
    load_of_row(p.scale, c, width, factor);
    load_of_row(p.shift, c, width, term);
    for (int i = 0; i < 4; ++i) x[i] = (x[i] - mean) * rstd * factor[i] + term[i];
    store_of_row(p.y + begin, c, width, x);
  }
  if (warp_lane() == 0) {
    p.statistics[2L * row] = mean;
    p.statistics[2L * row + 1] = rstd;
  }
}

template <class Base, class Branch, class Y>
void normalise(const Norm<Base, Branch, Y>& p) {
  with_fours(p.width, [&](auto fours) {
    if constexpr (fours == 0)
      launch(wide_norm_kernel<Base, Branch, Y>, row_blocks(p.rows), row_threads, 0, p);
    else
      launch(norm_kernel<fours, Base, Branch, Y>, row_blocks(p.rows), row_threads, 0, p);
  });
}

/// dx = norm'(dy) + skip, where there is a skip, which may have fewer rows; `branch` = dropout(dx), where it is asked for. And of each block
/// the sums over its rows: partial [blocks, 2 width] of dy n and of dy, branch_partial [blocks, width] of the branch.
template <class X, class D>
struct NormBackward {
  const X* x;
  const float *statistics, *scale;
  const D* dy;
  const float* skip;  // may be null
  int skip_rows;
  int rows, width;
  Drop drop;
  float* dx;
  bf16* branch;  // may be null
  float* partial;
  bool adds;              // to what partial has
  float* branch_partial;  // may be null
  bool branch_adds;
};

inline constexpr int norm_backward_threads = 256, norm_backward_warps = norm_backward_threads / warp;

inline constexpr int most_norm_backward_blocks = 264;

/// As many as a large GPU has at once; rows are dealt to all their warps in turn.
inline int norm_backward_blocks(int rows) { return std::min((rows + norm_backward_warps - 1) / norm_backward_warps, most_norm_backward_blocks); }

template <int fours, class X, class D>
__global__ void __launch_bounds__(norm_backward_threads, fours <= 2 ? 2 : 1) norm_backward_kernel(NormBackward<X, D> p) {
  after_earlier_kernels();
  constexpr int width = fours * warp_of_fours;
  const int own = static_cast<int>(threadIdx.x) / warp, step = static_cast<int>(gridDim.x) * norm_backward_warps;
  RowPart<fours> scales{}, shifts{}, branches{};  // the sums of this warp
  LoadedPart<fours, float> factor;
  factor.load(p.scale);
  struct Row {
    LoadedPart<fours, X> x;
    LoadedPart<fours, D> dy;
    LoadedPart<fours, float> around;
    struct alignas(8) Statistics {
      float mean, rstd;
    } statistics;
    __device__ void load(const NormBackward<X, D>& p, int row) {
      if (row >= p.rows) return;
      const long begin = static_cast<long>(row) * width;
      x.load(p.x + begin);
      dy.load(p.dy + begin);
      around = {};
      if (row < p.skip_rows) around.load(p.skip + begin);
      statistics = reinterpret_cast<const Statistics*>(p.statistics)[row];
    }
  };
  int row = static_cast<int>(blockIdx.x) * norm_backward_warps + own;
  Row ahead;  // the next row is on its way while this one is computed
  ahead.load(p, row);
  for (; row < p.rows; row += step) {
    const long begin = static_cast<long>(row) * width;
    const Row at = ahead;
    ahead.load(p, row + step);
    const float mean = at.statistics.mean, rstd = at.statistics.rstd;
    const auto normal = [&](int i, int j) { return (at.x(i, j) - mean) * rstd; };
    RowPart<fours> d;
    float sum_g = 0, sum_gn = 0;
    d.each([&](float& x, int i, int j) {
      const float given = at.dy(i, j), n = normal(i, j);
      scales.x[i][j] += given * n;
      shifts.x[i][j] += given;
      x = given * factor(i, j);
      sum_g += x;
      sum_gn += x * n;
    });
    const float mean_g = sum_lanes(sum_g) / width, mean_gn = sum_lanes(sum_gn) / width;
    d.each([&](float& x, int i, int j) { x = (x - mean_g - normal(i, j) * mean_gn) * rstd + at.around(i, j); });
    d.store(p.dx + begin);
    if (p.branch == nullptr) continue;
    d.drop(p.drop, begin);
    d.store(p.branch + begin);
    d.each([&](float x, int i, int j) { branches.x[i][j] += x; });
  }
  float* const sums = shared_memory<float>();  // [warps, width]
  const auto add_up = [&](const RowPart<fours>& part, bool adds, float* to) {
    part.store(sums + own * width);
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < width; c += norm_backward_threads) {
      float sum = adds ? to[c] : 0.0f;
      for (int w = 0; w < norm_backward_warps; ++w) sum += sums[w * width + c];
      to[c] = sum;
    }
    __syncthreads();
  };
  add_up(scales, p.adds, p.partial + 2L * blockIdx.x * width);
  add_up(shifts, p.adds, p.partial + (2L * blockIdx.x + 1) * width);
  if (p.branch_partial != nullptr) add_up(branches, p.branch_adds, p.branch_partial + static_cast<long>(blockIdx.x) * width);
}

/// The same for rows of any width: a block has one after the other, its threads their columns.
template <class X, class D>
__global__ void wide_norm_backward_kernel(NormBackward<X, D> p) {
  after_earlier_kernels();
  const int width = p.width, thread = static_cast<int>(threadIdx.x), step = 4 * norm_backward_threads;
  float* const sums = shared_memory<float>();  // of dy n, of dy, of the branch
  float* const room = sums + 3 * width;
  for (int c = thread; c < 3 * width; c += norm_backward_threads) sums[c] = 0;
  __syncthreads();
  for (int row = static_cast<int>(blockIdx.x); row < p.rows; row += static_cast<int>(gridDim.x)) {
    const long begin = static_cast<long>(row) * width;
    const float mean = p.statistics[2L * row], rstd = p.statistics[2L * row + 1];
    float v[4], d[4], factor[4], sum_g = 0, sum_gn = 0;
    const auto load_all = [&](int c) {
      load_of_row(p.x + begin, c, width, v);
      load_of_row(p.dy + begin, c, width, d);
      load_of_row(p.scale, c, width, factor);
      for (float& x : v) x = (x - mean) * rstd;
    };
    for (int c = 4 * thread; c < width; c += step) {
      load_all(c);
      for (int i = 0; i < 4; ++i) {  // beyond the row d is 0
        sum_g += d[i] * factor[i];
        sum_gn += d[i] * factor[i] * v[i];
        if (c + i >= width) continue;
        sums[c + i] += d[i] * v[i];
        sums[width + c + i] += d[i];
      }
    }
    const float mean_g = sum_block(sum_g, room) / static_cast<float>(width), mean_gn = sum_block(sum_gn, room) / static_cast<float>(width);
    for (int c = 4 * thread; c < width; c += step) {
      float around[4] = {};
      load_all(c);
      if (p.skip != nullptr && row < p.skip_rows) load_of_row(p.skip + begin, c, width, around);
      for (int i = 0; i < 4; ++i) d[i] = (d[i] * factor[i] - mean_g - v[i] * mean_gn) * rstd + around[i];
      store_of_row(p.dx + begin, c, width, d);
      if (p.branch == nullptr) continue;
      p.drop(begin + c, d);
      store_of_row(p.branch + begin, c, width, d);
      for (int i = 0; i < 4 && c + i < width; ++i) sums[2 * width + c + i] += d[i];
    }
  }
  __syncthreads();
  for (int c = thread; c < 2 * width; c += norm_backward_threads) {
    float& to = p.partial[2L * blockIdx.x * width + c];
    to = (p.adds ? to : 0.0f) + sums[c];
  }
  if (p.branch_partial != nullptr)
    for (int c = thread; c < width; c += norm_backward_threads) {
      float& to = p.branch_partial[static_cast<long>(blockIdx.x) * width + c];
      to = (p.branch_adds ? to : 0.0f) + sums[2 * width + c];
    }
}

template <class X, class D>
void normalise_backward(const NormBackward<X, D>& p) {
  const dim3 blocks(static_cast<unsigned>(norm_backward_blocks(p.rows)));
  with_fours(p.width, [&](auto fours) {
    if constexpr (fours == 0)
      launch(wide_norm_backward_kernel<X, D>, blocks, norm_backward_threads, static_cast<std::size_t>(3 * p.width + norm_backward_warps) * sizeof(float), p);
    else
      launch(norm_backward_kernel<fours, X, D>, blocks, norm_backward_threads, static_cast<std::size_t>(norm_backward_warps * p.width) * sizeof(float), p);
  });
}

}  // namespace relay::cuda
