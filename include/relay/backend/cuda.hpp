// The CUDA backend: Cuda<float>, and Cuda<bf16> to train fast with. What includes it is compiled by nvcc (README, "On a GPU").
//
// One stream, one thing after another: the same bits in every run on the same kind of GPU. Cuda<bf16>: products and attention of bf16 by
// tensor cores, summed in float32; what lies between them is bf16; parameters, their gradients, moments, the residual stream, norms'
// statistics, logits and losses are float32.
#pragma once

#include <numeric>

#include <relay/backend/backend.hpp>
#include <relay/backend/cuda/applications.hpp>
#include <relay/backend/cuda/attention.hpp>
#include <relay/backend/cuda/cached_attention.hpp>
#include <relay/backend/cuda/fused_product.hpp>
#include <relay/backend/cuda/graph.hpp>
#include <relay/backend/cuda/norm.hpp>
#include <relay/backend/cuda/packed_attention.hpp>
#include <relay/backend/cuda/product.hpp>
#include <relay/backend/cuda/row_ops.hpp>
#include <relay/backend/cuda/tensor.hpp>
#include <relay/backend/keeping.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/bf16.hpp>
#include <relay/core/ragged.hpp>

namespace relay {

namespace cuda {

/// The functions of the backend Self. A: what lies between float32 parameters and the float32 residual stream.
template <class Self, class A>
struct Functions : ComposedOps<Self> {
  using Scalar = float;
  using Memory = cuda::Memory;
  using Device = cuda::Device;
  using Tensor = cuda::Tensor;
  using Indices = cuda::Indices;

  /// What it is called.
  static std::string gpu() {
    cudaDeviceProp device;
    check(cudaGetDeviceProperties(&device, 0), "ask what GPU there is");
    return device.name;
  }

  // Moving data between the host and the device.
  static Indices indices(std::span<const std::int32_t> from, Device device) {
    Indices list;
    list.assign(from, device);
    return list;
  }
  static void indices_to(std::span<const std::int32_t> from, Device device, Indices& to) { to.assign(from, device); }
  template <class>
  using IndexLists = cuda::IndexLists;
  static void upload(std::span<const float> from, Tensor& to) {
    if (to.type() != Type::float32) to.resize_like(to, to.rows(), to.cols(), Type::float32);
    Staging::copy(from.data(), to.data(), from.size_bytes());
  }
  static std::vector<float> download(const Tensor& from) {
    std::vector<float> values;
    download_to(from, values);
    return values;
  }
  static void download_to(const Tensor& from, std::vector<float>& to) {
    to.resize(static_cast<std::size_t>(from.size()));
    if (from.type() == Type::float32) return copy_to_host(from.data(), to.data(), from.bytes());
    const Scratch<float> wide(from.size(), from.device());
    over_elements(from.size(), Convert<bf16, float>{from.as<bf16>(), wide.data()});
    copy_to_host(wide.data(), to.data(), to.size() * sizeof(float));
  }
  template <class, class>
  class Reading {
   public:
    void begin(const Tensor& x) {
      require(x.type() == Type::float32, "what is read later is float32");
      size_ = static_cast<std::size_t>(x.size());
      download_.begin(x.data(), x.bytes());
    }
    std::span<const float> values() { return {download_.wait<float>(), size_}; }

   private:
    Download download_;
    std::size_t size_ = 0;
  };

  // Products. Weights are [outputs, inputs].
  /// y [rows, outputs] = x [rows, inputs] weight^T
  static void product(const Tensor& x, const Tensor& weight, Tensor& y) { multiply_transposed(x, weight, nullptr, y, type_of<A>, true); }
  static void linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
    multiply_transposed(x, weight, &bias, y, type_of<A>, false);
  }
  /// The same with a result of float32, for the softmax.
  static void logits(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
    multiply_transposed(x, weight, &bias, y, Type::float32, true);
  }
  /// dx [rows, inputs] = dy [rows, outputs] weight
  static void product_backward(const Tensor& dy, const Tensor& weight, Tensor& dx) { product_backward(dy, Gradient(dy), weight, dx); }
  /// dweight [outputs, inputs] += dy^T x
  static void add_outer_product(const Tensor& dy, const Tensor& x, Tensor& dweight) { add_outer_product(dy, Gradient(dy), x, dweight); }
  static void linear_backward(const Tensor& x, const Tensor& weight, const Tensor& dy, Tensor& dx, Tensor& dweight, Tensor& dbias) {
    const Gradient d(dy);  // once for both products
    product_backward(dy, d, weight, dx);
    add_gradients(dy, d, x, weight, dweight, dbias);
  }
  /// GELU goes along with bf16's products: its approximation (row_ops.hpp). It is kept then, for to make it again is a pass of its own.
  static constexpr Keeping keeping = keeping_on_gpu<A>;
  static_assert(keeping.aligned == row_alignment && keeping.parts == most_norm_backward_blocks && keeping.parts == most_added_parts);
  static constexpr bool keeps_activated = keeping.activated;
  static void linear_gelu(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& up, Tensor& y) {
    if constexpr (keeps_activated) {
      up.resize_like(x, x.rows(), weight.rows(), type_of<A>);
      if (&y != &up) y.resize_like(x, x.rows(), weight.rows(), type_of<A>);
      if (x.rows() == 0) return;
      const Operand w(weight), from(x);
      if (const FusedProduct<WithGelu> fused(x.rows(), weight.cols(), weight.rows()); fused)
        return fused(from.elements(), w.elements(), {bias.as<float>(), &y == &up ? nullptr : up.template as<A>(), y.template as<A>()});
      const Operands operands{.a = w.data, .b = from.data, .c = y.data(), .beside = &y == &up ? nullptr : up.data()};
      if (with_bias(product_of(x, weight, type_of<A>, &y == &up ? Epilogue::gelu : Epilogue::gelu_beside), operands, bias)) return;
    }
    linear(x, weight, bias, up);
    gelu(up, y);
  }
  static void gelu_linear_backward(const Tensor& x, const Tensor& activated, const Tensor& weight, const Tensor& dy, Tensor& dx, Tensor& dweight,
                                   Tensor& dbias) {
    const Gradient d(dy);
    if constexpr (keeps_activated)
      if (x.type() == type_of<A> && x.cols() % 8 == 0 && x.rows() > 0) {  // with the sums that the bias before wants
        const A* const hidden = x.template as<A>();
        const auto sums_for = [&](int parts) {  // behind dx.as(), which forgets what there was
          return dx.placed_for() != nullptr ? applications->bias_sums(dx.placed_for(), most_added_parts, x.cols()) : dx.make_column_sums(parts);
        };
        if (const FusedProduct<WithGeluSlope> fused(x.rows(), dy.cols(), x.cols()); fused) {
          const Operand w(weight);
          dx.resize_like(dy, dy.rows(), weight.cols(), type_of<A>);
          A* const to = dx.template as<A>();
          float* const sums = sums_for(fused.blocks());
          fused(static_cast<const A*>(d.data), w.elements(), {hidden, to, sums, dx.placed_for() != nullptr});
        } else {
          product_backward(dy, d, weight, dx);
          A* const to = dx.template as<A>();
          float* const sums = sums_for(added_parts(x.rows()));
          add_rows(x.rows(), x.cols(), GeluSlope<A>{hidden, to}, sums, dx.placed_for() != nullptr);
        }
        return add_gradients(dy, d, activated, weight, dweight, dbias);
      }
    product_backward(dy, d, weight, dx);
    Tensor again;
    gelu_backward(x, dx, dx, again);
    add_gradients(dy, d, again, weight, dweight, dbias);
  }
  using Applications = cuda::Applications;
  using Applied = cuda::Applied;
  static constexpr bool loops_give_needed_rows = false;
  static void begin_applications(Applications& to, int rows, Device device) { to.begin(rows, device); }
  static void begin_gradients(Applications& of) { of.begin_gradients(); }
  static void place_input(const Tensor& weight, Tensor& x) {
    if (applications == nullptr) return x.place(nullptr, 0, {});
    x.place(applications->input(weight, type_of<A>), applications->bytes(weight.cols(), type_of<A>), applications->device());
  }
  static void place_gradient(const Tensor& weight, Tensor& dy) {
    if (applications == nullptr) return dy.place(nullptr, 0, {});
    dy.place(applications->gradient(weight, type_of<A>), applications->bytes(weight.rows(), type_of<A>), applications->device(), &weight);
  }
  static void add_gradients(Applications& from) {
    from.finish([](const Applications::Layer& layer, const Applications::Part& part) {
      const int inputs = layer.x.cols(), outputs = layer.dy.cols();
      const A* const x = layer.x.template as<A>() + static_cast<long>(part.first) * inputs;
      const A* const dy = layer.dy.template as<A>() + static_cast<long>(part.first) * outputs;
      Products::instance()({.transpose_b = true, .m = inputs, .n = outputs, .k = part.rows, .type = type_of<A>, .adds = true},
                           {.a = x, .b = dy, .c = layer.dweight->data()});
      if (part.summed) return;
      const int parts = added_parts(part.rows);
      const Scratch<float> partial(static_cast<long>(parts) * outputs, layer.dy.device());
      add_rows(part.rows, outputs, Itself<A>{dy}, partial.data());
      add_parts(partial.data(), parts, outputs, *layer.dbias);
    }, [](Applications::Sums& sums) {
      const int parts = sums.partial.rows(), cols = sums.partial.cols();
      float* const second = sums.second == nullptr ? nullptr : sums.second->template as<float>();
      sum_columns(sums.partial.template as<float>(), parts, cols, 1, parts, true, second == nullptr ? cols : cols / 2,
                  sums.first->template as<float>(), second);
    });
  }
  /// Writes the weight a second time as products want it, until it is written again.
  static void prepare(Tensor& weight) {
    if constexpr (!std::is_same_v<A, float>)
      weight.convert([&](const float* from, bf16* to) { convert(from, to, weight.size()); }, for_products(weight.rows()));
  }

  // Rows and elements.
  static void fill(Tensor& x, double value) {
    if (x.type() != Type::float32) x.resize_like(x, x.rows(), x.cols(), Type::float32);
    over_elements(x.size(), Fill{static_cast<float>(value), x.as<float>()});
  }
  /// In one launch.
  class Clearing {
   public:
    void add(Tensor& x) {
      if (x.type() != Type::float32) return fill(x, 0);
      if (cleared_.count == Cleared::most) end();
      cleared_.at[cleared_.count] = x.as<float>();
      cleared_.size[cleared_.count++] = x.size();
    }
    void end() {
      if (cleared_.count > 0) launch(clear_kernel<>, dim3(Cleared::blocks, static_cast<unsigned>(cleared_.count)), Cleared::threads, 0, cleared_);
      cleared_.count = 0;
    }

   private:
    Cleared cleared_;
  };
  static void copy(const Tensor& x, Tensor& y) { y.assign(x, x.rows()); }
  static void copy_first(const Tensor& x, int count, Tensor& y) { y.assign(x, count); }
  static void view_first(const Tensor& x, int count, Tensor& y) { y.view(x, count); }
  static void add(const Tensor& x, Tensor& y) {
    const long size = std::min(x.size(), y.size());
    typed(x, [&](const auto* from) { typed(y, [&](auto* to) { over_elements(size, Add<Element<decltype(from)>, Element<decltype(to)>>{from, to}); }); });
  }
  static void add_row(const Tensor& row, Tensor& y) {
    typed(y, [&](auto* to) { over_elements(y.size(), AddRow<Element<decltype(to)>>{row.as<float>(), y.cols(), to}); });
  }
  static void add_column_sums(const Tensor& x, Tensor& total) {
    const int rows = x.rows(), cols = x.cols(), apart = x.apart();
    if (rows == 0) return;
    if (apart % 8 == 0) {  // what lies between the rows is added, too, and not taken
      const int parts = added_parts(rows);
      const Scratch<float> partial(static_cast<long>(parts) * apart, x.device());
      spread(x, [&](const auto* from) { add_rows(rows, apart, Itself<Element<decltype(from)>>{from}, partial.data()); });
      return sum_columns(partial.data(), parts, apart, 1, parts, true, cols, total.as<float>(), nullptr);
    }
    constexpr int rows_of_part = 256;
    const int parts = std::min((rows + rows_of_part - 1) / rows_of_part, 256), part = (rows + parts - 1) / parts;
    float* const to = total.as<float>();
    typed(x, [&](const auto* from) {
      if (parts == 1) return sum_columns(from, rows, cols, 1, rows, true, cols, to, nullptr);
      const Scratch<float> partial(static_cast<long>(parts) * cols, x.device());
      sum_columns(from, rows, cols, parts, part, false, cols, partial.data(), nullptr);
      sum_columns(partial.data(), parts, cols, 1, parts, true, cols, to, nullptr);
    });
  }
  static void clear_rows(Tensor& x, int begin, int end) {
    const std::size_t row = static_cast<std::size_t>(x.cols()) * size_of(x.type());
    std::byte* const first = static_cast<std::byte*>(x.data()) + static_cast<std::size_t>(begin) * row;
    if (end > begin) check(cudaMemsetAsync(first, 0, static_cast<std::size_t>(end - begin) * row, stream()), "clear rows");
  }
  static void gather_rows(const Tensor& x, const Indices& indices, int first, Tensor& y) {
    typed(x, [&](const auto* from) {
      typed(y, [&](auto* to) {
        launch(gather_kernel<Element<decltype(from)>, Element<decltype(to)>>, row_blocks(indices.size()), row_threads, 0, from, indices.data(),
               indices.size(), x.cols(), to + static_cast<long>(first) * y.cols());
      });
    });
  }
  static void scatter_rows(const Tensor& y, int first, const Indices& indices, Tensor& x) {
    if (indices.size() == 0) return;
    typed(y, [&](const auto* all) {
      typed(x, [&](auto* to) {
        using Y = Element<decltype(all)>;
        using X = Element<decltype(to)>;
        const Y* const from = all + static_cast<long>(first) * y.cols();
        if (indices.ascending()) {
          launch(scatter_kernel<true, Y, X>, row_blocks(indices.size()), row_threads, 0, from, indices.data(), indices.size(), x.cols(), to);
        } else {
          scatter_by_target(from, indices, to, x.rows(), x.cols(), y.device());
        }
      });
    });
  }
  static void make_room(const Tensor& x, int rows, Tensor& y) { y.resize_like(x, rows, x.cols(), x.type()); }
  static void spread_rows(const Tensor& x, int first, const Indices& indices, int rows, Tensor& y) {
    if (!indices.ascending()) return ComposedOps<Self>::spread_rows(x, first, indices, rows, y);
    make_room(x, rows, y);
    clear_rows(y, 0, rows);
    if (indices.size() == 0) return;
    typed(x, [&](const auto* from) {
      using X = Element<decltype(from)>;
      launch(scatter_kernel<false, X, X>, row_blocks(indices.size()), row_threads, 0, from + static_cast<long>(first) * x.cols(), indices.data(),
             indices.size(), x.cols(), y.as<X>());
    });
  }
  static double sum_of_squares(const Tensor& x) {
    std::vector<Piece> pieces;
    cut(x, pieces, [&](long at) { return Piece{.gradient = x.as<float>() + at}; });
    if (pieces.empty()) return 0;
    const Scratch<Piece> on_device(static_cast<long>(pieces.size()), x.device());
    const Scratch<float> each(static_cast<long>(pieces.size()), x.device());
    Staging::copy(pieces.data(), on_device.data(), pieces.size() * sizeof(Piece));
    constexpr int threads = 256;
    launch(squares_kernel<>, dim3(static_cast<unsigned>(pieces.size())), threads, threads / warp * sizeof(float), on_device.data(), each.data());
    std::vector<float> squares(pieces.size());
    copy_to_host(each.data(), squares.data(), squares.size() * sizeof(float));
    return std::accumulate(squares.begin(), squares.end(), 0.0);
  }

  // What layers are made of.
  static void layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double eps, Tensor& y, Tensor& statistics) {
    y.resize_like(x, x.rows(), x.cols(), type_of<A>);
    statistics.resize_like(x, x.rows(), 2);
    typed(x, [&](const auto* from) {
      normalise(Norm<Element<decltype(from)>, float, A>{from, nullptr, nullptr, Drop(0, Key()), scale.as<float>(), shift.as<float>(),
                                                        static_cast<float>(eps), x.rows(), x.cols(), y.template as<A>(), statistics.as<float>()});
    });
  }
  static void layer_norm_backward(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, Tensor& dx, Tensor& dscale,
                                  Tensor& dshift) {
    norm_backward(x, statistics, scale, dy, nullptr, dx, dscale, dshift, {});
  }
  static void layer_norm_backward_add(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, const Tensor& skip, Tensor& dx,
                                      Tensor& dscale, Tensor& dshift, const std::optional<Dropping>& next = {}) {
    layer_norm_backward_add_first(x, statistics, scale, dy, skip, dx, dscale, dshift, next);
  }
  static void layer_norm_backward_add_first(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, const Tensor& skip,
                                            Tensor& dx, Tensor& dscale, Tensor& dshift, const std::optional<Dropping>& next = {}) {
    if (skip.type() != Type::float32) return ComposedOps<Self>::layer_norm_backward_add(x, statistics, scale, dy, skip, dx, dscale, dshift);
    norm_backward(x, statistics, scale, dy, &skip, dx, dscale, dshift, next);
  }
  static void residual_norm(const Tensor& x, const Tensor& branch, double rate, const std::optional<Key>& key, const Tensor& scale, const Tensor& shift,
                            double eps, Tensor& y, Tensor& normal, Tensor& statistics) {
    if (x.cols() % 4 != 0) return ComposedOps<Self>::residual_norm(x, branch, rate, key, scale, shift, eps, y, normal, statistics);
    y.resize_like(x, x.rows(), x.cols());
    normal.resize_like(x, x.rows(), x.cols(), type_of<A>);
    statistics.resize_like(x, x.rows(), 2);
    float* const sum = y.as<float>();
    typed(x, [&](const auto* base) {
      typed(branch, [&](const auto* from) {
        normalise(Norm<Element<decltype(base)>, Element<decltype(from)>, A>{base, from, sum, Drop(key ? rate : 0, key.value_or(Key())), scale.as<float>(),
                                                                            shift.as<float>(), static_cast<float>(eps), x.rows(), x.cols(),
                                                                            normal.template as<A>(), statistics.as<float>()});
      });
    });
  }
  static void linear_residual_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& base, double rate, const std::optional<Key>& key,
                                   const Tensor& scale, const Tensor& shift, double eps, Tensor& branch, Tensor& y, Tensor& normal, Tensor& statistics) {
    if constexpr (!std::is_same_v<A, float>)
      if (const FusedProduct<WithResidualNorm> fused(x.rows(), weight.cols(), weight.rows()); fused && base.type() == Type::float32) {
        const Operand w(weight), from(x);
        y.resize_like(base, base.rows(), base.cols());
        normal.resize_like(base, base.rows(), base.cols(), type_of<A>);
        statistics.resize_like(base, base.rows(), 2);
        return fused(from.elements(), w.elements(),
                     {bias.as<float>(), base.as<float>(), scale.as<float>(), shift.as<float>(), static_cast<float>(eps),
                      Drop(key ? rate : 0, key.value_or(Key())), y.as<float>(), normal.template as<A>(), statistics.as<float>()});
      }
    ComposedOps<Self>::linear_residual_norm(x, weight, bias, base, rate, key, scale, shift, eps, branch, y, normal, statistics);
  }
  static void gelu(const Tensor& x, Tensor& y) {
    if (&x != &y) y.resize_like(x, x.rows(), x.cols(), type_of<A>);  // in place it keeps its type
    typed(x, [&](const auto* from) {
      typed(y, [&](auto* to) { over_elements(x.size(), Gelu<A, Element<decltype(from)>, Element<decltype(to)>>{from, to}); });
    });
  }
  static void gelu_backward(const Tensor& x, const Tensor& dy, Tensor& dx, Tensor& y) {
    if (&dy != &dx) dx.resize_like(x, x.rows(), x.cols(), type_of<A>);  // in place it keeps its type
    y.resize_like(x, x.rows(), x.cols(), type_of<A>);
    typed(x, [&](const auto* at) {
      typed(dy, [&](const auto* from) {
        typed(dx, [&](auto* to) {
          using Op = GeluBackward<Element<decltype(at)>, Element<decltype(from)>, Element<decltype(to)>, A>;
          over_elements(x.size(), Op{at, from, to, y.template as<A>()});
        });
      });
    });
  }
  static void rotate(Tensor& qkv, const Rows<Self>& rows, int heads, int rotated, const Tensor& table, int direction, const Indices& starts = {}) {
    const int width = qkv.cols() / 3, size = width / heads;
    if (rotated == 0) return;
    typed(qkv, [&](auto* elements) {
      using T = Element<decltype(elements)>;
      constexpr int step = 16 / static_cast<int>(sizeof(T)), at_once = rows_of_block * rotate_rows;
      const auto kernel = size / 2 % step == 0 ? rotate_kernel<step, T> : rotate_kernel<1, T>;
      launch(kernel, dim3(static_cast<unsigned>((rows.count() + at_once - 1) / at_once)), row_threads, 0, elements,
             rows.batch().on_device().data(), starts.size() > 0 ? starts.data() : nullptr, rows.sequences(), rows.count(), width, size, rotated,
             table.as<float>(), static_cast<float>(direction));
    });
  }
  static void attention(const Tensor& qkv, const Rows<Self>& rows, const Heads& heads, Tensor& out, Tensor& lse) {
    attention(qkv, rows, heads, {}, out, lse);
  }
  static void attention_backward(const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dout, const Rows<Self>& rows, const Heads& heads,
                                 Tensor& dqkv) {
    attention_backward(qkv, out, lse, dout, rows, heads, {}, dqkv);
  }
  static void attention_cached(const Tensor& qkv, const Rows<Self>& rows, const Indices& slots, const Indices& starts, int heads, Tensor& keys,
                               Tensor& values, Tensor& out) {
    attention_cached(qkv, rows, slots, starts, heads, {}, keys, values, out);
  }
  /// Where attention turns queries and keys itself, qkv stays as it was.
  static void rotary_attention(Tensor& qkv, const Rows<Self>& rows, const Heads& heads, int rotated, const Tensor& table, Tensor& out, Tensor& lse) {
    if (!turns_inside<A>(table.cols(), rows.longest())) return ComposedOps<Self>::rotary_attention(qkv, rows, heads, rotated, table, out, lse);
    attention(qkv, rows, heads, {rotated, table.as<float>()}, out, lse);
  }
  static void rotary_attention_backward(const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dout, const Rows<Self>& rows,
                                        const Heads& heads, int rotated,
                                        const Tensor& table, Tensor& dqkv) {
    if (!turns_inside<A>(table.cols(), rows.longest()) && !turns_back(table.cols(), rows.longest()))
      return ComposedOps<Self>::rotary_attention_backward(qkv, out, lse, dout, rows, heads, rotated, table, dqkv);
    attention_backward(qkv, out, lse, dout, rows, heads, {rotated, table.as<float>()}, dqkv);
  }
  static void rotary_attention_cached(Tensor& qkv, const Rows<Self>& rows, const Indices& slots, const Indices& starts, int heads, int rotated,
                                      const Tensor& table, Tensor& keys, Tensor& values, Tensor& out) {
    if (rows.longest() > 1 || !turns_in_a_step(table.cols()))
      return ComposedOps<Self>::rotary_attention_cached(qkv, rows, slots, starts, heads, rotated, table, keys, values, out);
    attention_cached(qkv, rows, slots, starts, heads, {rotated, table.as<float>()}, keys, values, out);
  }
  static void make_cache(int slots, int positions, int width, int heads, Device device, Tensor& keys, Tensor& values) {
    for (Tensor* cache : {&keys, &values}) {
      cache->resize(slots * heads, positions * (width / heads), device);
      as_activation(*cache);
    }
  }
  static constexpr bool in_order = true;
  /// Steps of generation are replayed as graphs.
  static constexpr bool repeats = true;
  using Repeated = Graphs;
  static void repeat(Repeated& graphs, int size, int times, const Device& device, auto&& f) { graphs.run(size, times, *device.memory, f); }
  static int repeated_size(int size) { return Graphs::size_of(size); }
  /// argmax within what is repeated: rows `first` .. of found [.., 2] are what is to be read, the tokens found are what the next step begins
  /// with, at starts that are one further.
  static void choose(const Tensor& logits, int first, Tensor& found, Indices& tokens, Indices& starts) {
    launch(argmax_kernel<>, row_blocks(logits.rows()), row_threads, 0, logits.spread<float>(), logits.rows(), logits.cols(), logits.apart(),
           found.as<float>() + 2L * first, tokens.rewritten(), starts.rewritten());
  }
  /// What was found in some steps, on its way to the host while the next are computed; read in the order in which they were begun, two behind at
  /// most.
  class Answers {
   public:
    void begin(const Tensor& found, int rows) {
      Answer& answer = answers_[begun_++ % 2];
      answer.rows = rows;
      answer.download.begin(found.data(), static_cast<std::size_t>(2L * rows) * sizeof(float));
    }
    void read(std::vector<std::int32_t>& best, std::vector<double>& probability) {
      Answer& answer = answers_[read_++ % 2];
      split(answer.download.template wait<float>(), answer.rows, best, probability);
    }

   private:
    struct Answer {
      Download download;
      int rows = 0;
    };
    Answer answers_[2];
    unsigned begun_ = 0, read_ = 0;
  };
  /// A step costs hardly more for many sequences than for one; so many as fit into 4 GiB.
  static int sequences_at_once(long elements, const Device&) {
    const long bytes = std::max(1L, elements * long{sizeof(A)});
    return static_cast<int>(std::clamp((4L << 30) / bytes, 1L, 512L));
  }
  static void dropout(const Tensor& x, double rate, Key key, Tensor& y) {
    if (&y != &x && y.take_dropped(x, {rate, key})) return;  // it was made along with x
    drop(nullptr, x, rate, key, y, type_of<A>);
  }
  /// y = x + dropout(branch), float32: the residual stream.
  static void residual(const Tensor& x, const Tensor& branch, double rate, const std::optional<Key>& key, Tensor& y) {
    drop(&x, branch, key ? rate : 0, key.value_or(Key()), y, Type::float32);
  }
  static void softmax_cross_entropy(Tensor& logits, const Indices& targets, std::span<const double> weights, Tensor& losses) {
    as_float32(logits);
    losses.resize_like(logits, logits.rows(), 2);
    thread_local std::vector<float> rounded;  // keeps its memory
    rounded.assign(weights.begin(), weights.end());
    const Scratch<float> factors(static_cast<long>(rounded.size()), logits.device());
    Staging::copy(rounded.data(), factors.data(), rounded.size() * sizeof(float));
    cuda::softmax_cross_entropy(classes_of(logits), targets.data(), factors.data(), losses.as<float>());
  }
  static void argmax(const Tensor& logits, std::vector<std::int32_t>& best, std::vector<double>& probability) {
    const int rows = logits.rows();
    Tensor wide;
    const Tensor* from = &logits;
    if (logits.type() != Type::float32) {
      wide = logits;
      as_float32(wide);
      from = &wide;
    }
    const Scratch<float> found(2L * rows, logits.device());
    launch(argmax_kernel<>, row_blocks(rows), row_threads, 0, from->spread<float>(), rows, logits.cols(), from->apart(), found.data(), nullptr, nullptr);
    std::vector<float> read(static_cast<std::size_t>(2L * rows));
    copy_to_host(found.data(), read.data(), read.size() * sizeof(float));
    split(read.data(), rows, best, probability);
  }
  static void softmax(Tensor& y) {
    as_float32(y);
    launch(softmax_kernel<>, row_blocks(y.rows()), row_threads, 0, classes_of(y));
  }
  static void softmax_backward(const Tensor& y, Tensor& dy) {
    as_float32(dy);
    launch(softmax_backward_kernel<>, row_blocks(y.rows()), row_threads, 0, y.spread<float>(), y.apart(), classes_of(dy));
  }

  // The optimiser.
  static void adamw(Tensor& weight, const Tensor& gradient, Tensor& first, Tensor& second, const AdamWStep& step) {
    over_elements(weight.size(), AdamW{Adam(step), gradient.as<float>(), weight.as<float>(), first.as<float>(), second.as<float>()});
  }
  /// The list of pieces, which stays on the device while the parameters stay where they are, and what the device finds in a step.
  class Updating {
   public:
    std::vector<Piece> pieces;  // to be filled

    /// All of it on the device; `device` is theirs.
    void upload(Device device) {
      move(on_device_, pieces.size() * sizeof(Piece), device);
      move(squares_, pieces.size() * sizeof(float), device);
      move(clipped_, sizeof(Clipped), device);
      if (pieces == uploaded_) return;
      uploaded_.clear();  // if it fails
      Staging::copy(pieces.data(), on_device_.data(), pieces.size() * sizeof(Piece));
      uploaded_ = pieces;
    }
    const Piece* on_device() const { return static_cast<const Piece*>(on_device_.data()); }
    float* squares() const { return static_cast<float*>(squares_.data()); }
    Clipped* clipped() const { return static_cast<Clipped*>(clipped_.data()); }
    Download found;  // clipped()

   private:
    void move(Buffer<DeviceMemory>& buffer, std::size_t bytes, Device device) {
      const void* const before = buffer.data();
      if (buffer.pool() != device.memory) buffer.move_to(device.memory);
      buffer.grow(bytes);
      if (buffer.data() != before) uploaded_.clear();
    }

    std::vector<Piece> uploaded_;
    Buffer<DeviceMemory> on_device_, squares_, clipped_;
  };
  /// All parameters in one launch. The device goes from the norm to the step by itself: the host waits for the norm, once, but not for the
  /// step. `parameters`: a list of (weight, gradient, first moment, second moment).
  static double clipped_adamw_all(Updating& kept, const auto& parameters, Threads*, const AdamWStep& step, double clip, auto&& decays) {
    Device device;
    kept.pieces.clear();
    parameters.visit(nullptr, [&](std::size_t, Tensor& weight, const Tensor& gradient, Tensor& first, Tensor& second) {
      device = weight.device();
      float *const w = weight.as<float>(), *const m = first.as<float>(), *const v = second.as<float>();
      bf16* converted = nullptr;
      if constexpr (!std::is_same_v<A, float>)
        converted = weight.room_for_converted(for_products(weight.rows()));
      cut(weight, kept.pieces, [&](long at) {
        return Piece{gradient.as<float>() + at, w + at, m + at, v + at, converted == nullptr ? nullptr : converted + at, 0, decays(weight) ? 1 : 0};
      });
    });
    if (kept.pieces.empty()) return 0;
    kept.upload(device);
    AdamWStep plain = step;
    plain.decay = 0;
    constexpr int threads = 256;
    const dim3 blocks(static_cast<unsigned>(kept.pieces.size()));
    launch(squares_kernel<>, blocks, threads, threads / warp * sizeof(float), kept.on_device(), kept.squares());
    launch(clip_kernel<>, dim3(1), threads, threads * sizeof(double), kept.squares(), static_cast<int>(kept.pieces.size()), clip, kept.clipped());
    kept.found.begin(kept.clipped(), sizeof(Clipped));
    launch(adamw_kernel<>, blocks, threads, 0, kept.on_device(), Adam(step), Adam(plain), kept.clipped());
    if constexpr (!std::is_same_v<A, float>)  // not before: where something throws, the copies are those of other weights
      parameters.visit(nullptr, [](std::size_t, Tensor& weight, auto&...) { weight.set_converted(for_products(weight.rows())); });
    return kept.found.template wait<Clipped>()->norm;
  }

 private:
  /// What argmax_kernel writes.
  static void split(const float* found, int rows, std::vector<std::int32_t>& best, std::vector<double>& probability) {
    best.resize(static_cast<std::size_t>(rows));
    probability.resize(best.size());
    for (std::size_t r = 0; r < best.size(); ++r) {
      best[r] = std::bit_cast<std::int32_t>(found[2 * r]);
      probability[r] = static_cast<double>(found[2 * r + 1]);
    }
  }

  template <class Pointer>
  using Element = std::remove_const_t<std::remove_pointer_t<Pointer>>;

  /// Calls f with the elements of x, whatever they are. Cuda<float> has no other than float.
  static void typed(auto& x, auto&& f) {
    if constexpr (!std::is_same_v<A, float>)
      if (x.type() == Type::bfloat16) return f(x.template as<bf16>());
    f(x.template as<float>());
  }

  /// The same of elements that may be further apart.
  static void spread(auto& x, auto&& f) {
    if constexpr (!std::is_same_v<A, float>)
      if (x.type() == Type::bfloat16) return f(x.template spread<bf16>());
    f(x.template spread<float>());
  }

  template <class From, class To>
  static void convert(const From* from, To* to, long size) {
    over_elements(size, Convert<From, To>{from, to});
  }

  /// So many columns of a result, or rows of a weight, are as good for products as any.
  static int for_products(int count) { return std::is_same_v<A, float> || count == 1 ? count : whole_eights(count); }

  /// x, to be read and written in place, and beside it what products want of it.
  static Classes classes_of(Tensor& x) {
    float* const elements = x.spread<float>();
    bf16* converted = nullptr;
    if constexpr (!std::is_same_v<A, float>)
      if (x.apart() % 8 == 0) {
        converted = x.room_for_converted(x.rows());
        x.set_converted(x.rows());
      }
    return {elements, converted, x.rows(), x.cols(), x.apart()};
  }

  /// A tensor as products and attention want it: of A. What is not so is written a second time, for as long as this lives.
  struct Operand {
    explicit Operand(const Tensor& x) : Operand(x, x.rows()) {}
    /// With rows of zeros below it, so many in all.
    Operand(const Tensor& x, int rows) {
      if constexpr (std::is_same_v<A, float>) {
        data = x.data();
      } else if (x.type() == Type::bfloat16 && rows == x.rows()) {
        data = x.data();
      } else if (const bf16* const ready = x.converted(std::max(rows, 1), x.cols())) {
        data = ready;
      } else {
        room.emplace(static_cast<long>(rows) * x.cols(), x.device());
        typed(x, [&](const auto* from) { convert(from, room->data(), x.size()); });
        const std::size_t more = static_cast<std::size_t>(rows - x.rows()) * static_cast<std::size_t>(x.cols()) * sizeof(bf16);
        if (more > 0) check(cudaMemsetAsync(room->data() + x.size(), 0, more, stream()), "clear rows");
        data = room->data();
      }
    }
    const A* elements() const { return static_cast<const A*>(data); }

    std::optional<Scratch<bf16>> room;
    const void* data = nullptr;
  };

  /// The gradient of a product's result, as the products back want it: with zeros between its rows, if it has not the columns for them.
  struct Gradient {
    explicit Gradient(const Tensor& dy) : cols(for_products(dy.cols())) {
      if (cols == dy.cols()) {
        data = close.emplace(dy).data;
        return;
      }
      if constexpr (!std::is_same_v<A, float>) {
        data = dy.converted(std::max(dy.rows(), 1), cols);  // as a softmax writes it
        if (data != nullptr) return;
        const long size = static_cast<long>(dy.rows()) * cols;
        room.emplace(size, dy.device());
        spread(dy, [&](const auto* from) {
          over_elements(size, ConvertRows<Element<decltype(from)>>{from, dy.apart(), dy.cols(), cols, room->data()});
        });
        data = room->data();
      }
    }

    int cols;
    std::optional<Operand> close;
    std::optional<Scratch<bf16>> room;
    const void* data = nullptr;
  };

  static void product_backward(const Tensor& dy, const Gradient& d, const Tensor& weight, Tensor& dx) {
    dx.resize_like(dy, dy.rows(), weight.cols(), type_of<A>);
    const Operand w(weight, d.cols);
    Products::instance()({.m = weight.cols(), .n = dy.rows(), .k = d.cols, .type = type_of<A>, .result = type_of<A>},
                         {.a = w.data, .b = d.data, .c = dx.data()});
  }
  static void add_outer_product(const Tensor& dy, const Gradient& d, const Tensor& x, Tensor& dweight) {
    if (x.rows() == 0) return;
    const Operand from(x);
    const Product product{.transpose_b = true, .m = x.cols(), .n = d.cols, .k = x.rows(), .type = type_of<A>, .adds = d.cols == dy.cols()};
    if (product.adds) {
      Products::instance()(product, {.a = from.data, .b = d.data, .c = dweight.data()});
    } else {  // there is no room for rows of zeros
      const Scratch<float> room(static_cast<long>(d.cols) * x.cols(), x.device());
      Products::instance()(product, {.a = from.data, .b = d.data, .c = room.data()});
      over_elements(dweight.size(), Add<float, float>{room.data(), dweight.template as<float>()});
    }
  }
  /// dweight += dy^T x, dbias += the column sums of dy, which may have been made along with dy. (cuBLASLt's BGRADB reads dy again for them,
  /// in a kernel of its own.)
  static void add_gradients(const Tensor& dy, const Gradient& d, const Tensor& x, const Tensor& weight, Tensor& dweight, Tensor& dbias) {
    if (x.rows() == 0 || (applications != nullptr && applications->takes(&weight, x.data(), d.data, x.rows(), dweight, dbias))) return;
    add_outer_product(dy, d, x, dweight);
    if (applications != nullptr && applications->takes_sums(&weight, d.data, dbias)) return;
    if (dy.column_sums() != nullptr)
      add_parts(dy.column_sums(), dy.column_parts(), dy.cols(), dbias);
    else
      add_column_sums(dy, dbias);
  }
  /// x weight^T
  static Product product_of(const Tensor& x, const Tensor& weight, Type result, Epilogue epilogue = Epilogue::none) {
    return {.transpose_a = true, .m = weight.rows(), .n = x.rows(), .k = x.cols(), .type = type_of<A>, .result = result, .epilogue = epilogue};
  }
  /// The product with a bias, which cuBLASLt takes as the result is; false if it cannot add one.
  static bool with_bias(Product product, Operands operands, const Tensor& bias) {
    product.vector_type = product.result;
    if (!Products::instance().possible(product)) return false;
    if (product.result == Type::float32) {
      operands.vector = bias.data();
      return Products::instance()(product, operands);
    }
    const Operand narrow(bias);
    operands.vector = narrow.data;
    return Products::instance()(product, operands);
  }

  /// y = x weight^T + bias, if there is one: added by the product, if that can, or else after it. `spreads`: where y has not the columns for
  /// rows as products want them, they are further apart.
  static void multiply_transposed(const Tensor& x, const Tensor& weight, const Tensor* bias, Tensor& y, Type type, bool spreads) {
    const int cols = spreads ? for_products(weight.rows()) : weight.rows();
    y.resize_like(x, x.rows(), weight.rows(), type, cols);
    if (x.rows() == 0) return;
    const Operand w(weight, cols), from(x);
    const Operands operands{.a = w.data, .b = from.data, .c = y.template spread<void>()};
    Product product = product_of(x, weight, type, Epilogue::bias);
    product.m = cols;
    if (bias != nullptr && with_bias(product, operands, *bias)) return;
    product.epilogue = Epilogue::none;
    Products::instance()(product, operands);
    if (bias != nullptr) add_row(*bias, y);
  }

  static void attention(const Tensor& qkv, const Rows<Self>& rows, const Heads& heads, const Rotation& rotation, Tensor& out, Tensor& lse) {
    const int width = qkv.cols() / 3;
    out.resize_like(qkv, qkv.rows(), width, type_of<A>);
    lse.resize_like(qkv, qkv.rows(), heads.count);
    const Operand x(qkv);
    if constexpr (!std::is_same_v<A, float>)
      if (packed_attention(x.elements(), rows.batch().packing(), rows.sequences(), rows.count(), width, heads, out.template as<A>(), lse.as<float>(),
                           rotation))
        return;
    const Scratch<std::int32_t> scratch(attention_scratch(qkv.rows(), rows.sequences(), rows.longest()), qkv.device());
    cuda::attention(x.elements(), rows.batch().on_device().data(), rows.sequences(), qkv.rows(), rows.longest(), width, heads, scratch.data(),
                    out.template as<A>(), lse.as<float>(), rotation);
  }
  static void attention_backward(const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dout, const Rows<Self>& rows, const Heads& heads,
                                 const Rotation& rotation, Tensor& dqkv) {
    const int width = qkv.cols() / 3;
    dqkv.resize_like(qkv, qkv.rows(), qkv.cols(), type_of<A>);
    const Operand x(qkv), o(out), d(dout);
    if constexpr (!std::is_same_v<A, float>)
      if (packed_attention_backward(x.elements(), o.elements(), lse.as<float>(), d.elements(), rows.batch().packing(), rows.sequences(), rows.count(),
                                    width, heads, dqkv.template as<A>(), rotation))
        return;
    const Scratch<float> scratch(attention_backward_scratch(qkv.rows(), rows.sequences(), heads.count), qkv.device());
    cuda::attention_backward(x.elements(), o.elements(), lse.as<float>(), d.elements(), rows.batch().on_device().data(), rows.sequences(), qkv.rows(),
                             rows.longest(), width, heads, scratch.data(), dqkv.template as<A>(), rotation);
  }
  static void attention_cached(const Tensor& qkv, const Rows<Self>& rows, const Indices& slots, const Indices& starts, int heads,
                               const Rotation& rotation, Tensor& keys, Tensor& values, Tensor& out) {
    const int width = qkv.cols() / 3, positions = keys.cols() / (width / heads);
    out.resize_like(qkv, qkv.rows(), width, type_of<A>);
    as_activation(keys);
    as_activation(values);
    const Operand x(qkv);
    cuda::attention_cached(x.elements(), rows.batch().on_device().data(), rows.sequences(), rows.longest(), slots.data(), starts.data(), width,
                           heads, keys.template as<A>(), values.template as<A>(), positions, out.template as<A>(), rotation);
  }

  /// y = base + dropout(x), or without a base dropout(x). y may be x, and keeps its type then.
  static void drop(const Tensor* base, const Tensor& x, double rate, Key key, Tensor& y, Type type) {
    if (&y != &x) y.resize_like(x, x.rows(), x.cols(), type);
    const auto compute = [&](const auto* from, const auto* first) {
      typed(y, [&](auto* to) {
        over_elements(x.size(), ResidualSum<Element<decltype(first)>, Element<decltype(from)>, Element<decltype(to)>>{first, from, to, Drop(rate, key)});
      });
    };
    typed(x, [&](const auto* from) {
      if (base == nullptr) return compute(from, static_cast<const float*>(nullptr));
      typed(*base, [&](const auto* first) { compute(from, first); });
    });
  }

  /// A block for each row of x and part of the list; where there are several parts, their sums are added in order.
  template <class Y, class X>
  static void scatter_by_target(const Y* y, const Indices& indices, X* x, int rows, int cols, Device device) {
    const int count = indices.size();
    if constexpr (std::is_same_v<X, float>) {
      const int parts = std::clamp((count + scatter_piece - 1) / scatter_piece, 1, 128), part = (count + parts - 1) / parts;
      if (parts > 1 && rows <= 1024) {
        const Scratch<float> partial(static_cast<long>(parts) * rows * cols, device);
        launch(scatter_by_target_kernel<Y, X>, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(parts)), scatter_threads, scatter_room, y,
               indices.data(), count, cols, part, x, partial.data());
        return sum_columns(partial.data(), parts, rows * cols, 1, parts, true, rows * cols, x, nullptr);
      }
    }
    launch(scatter_by_target_kernel<Y, X>, dim3(static_cast<unsigned>(rows)), scatter_threads, scatter_room, y, indices.data(), count, cols, count, x,
           nullptr);
  }

  static void as_float32(Tensor& x) {
    if (x.type() == Type::float32) return;
    Tensor wide;
    wide.resize_like(x, x.rows(), x.cols(), Type::float32, x.apart());
    convert(std::as_const(x).template spread<bf16>(), wide.spread<float>(), static_cast<long>(x.rows()) * x.apart());
    x = std::move(wide);
  }
  /// A cache holds A. Filled from outside it was float32.
  static void as_activation(Tensor& x) {
    if (x.type() == type_of<A>) return;
    Tensor narrow;
    narrow.resize_like(x, x.rows(), x.cols(), type_of<A>);
    x = std::move(narrow);
  }

  static void norm_backward(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, const Tensor* skip, Tensor& dx, Tensor& dscale,
                            Tensor& dshift, const std::optional<Dropping>& next) {
    const int width = x.cols();
    dx.resize_like(x, x.rows(), width);
    if (x.rows() == 0) return;
    const int blocks = norm_backward_blocks(x.rows());
    float* const to = dx.as<float>();
    bf16* branch = nullptr;  // for the products that dx goes back through
    void* place = nullptr;
    if constexpr (!std::is_same_v<A, float>)
      if (next && width % 4 == 0) {
        place = applications == nullptr || next->weight == nullptr ? nullptr : applications->gradient(*static_cast<const Tensor*>(next->weight), type_of<A>);
        if (next->drops())
          branch = dx.make_dropped(*next, place);
        else
          branch = dx.room_for_converted(dx.rows(), place);
      }
    const Drop drop(next && next->drops() ? next->rate : 0, next && next->drops() ? *next->key : Key());
    std::optional<Scratch<float>> own;  // where nobody adds up those of all applications
    float* partial = nullptr;
    if (applications != nullptr)
      partial = applications->sums(&scale, most_norm_backward_blocks, 2 * width, &dscale, &dshift);
    else
      partial = own.emplace(2L * blocks * width, x.device()).data();
    float* branch_partial = nullptr;
    if (branch != nullptr && place != nullptr)
      branch_partial = applications->bias_sums(next->weight, most_norm_backward_blocks, width);
    else if (branch != nullptr)
      branch_partial = dx.make_column_sums(blocks);
    const bool skips = skip != nullptr && skip->rows() > 0;
    typed(x, [&](const auto* from) {
      typed(dy, [&](const auto* d) {
        normalise_backward(NormBackward<Element<decltype(from)>, Element<decltype(d)>>{
            from, statistics.as<float>(), scale.as<float>(), d, skips ? skip->template as<float>() : nullptr, skips ? skip->rows() : 0,
            x.rows(), width, drop, to, branch, partial, applications != nullptr, branch_partial, place != nullptr});
      });
    });
    if (branch != nullptr && !next->drops()) dx.set_converted(dx.rows());
    if (own) sum_columns(partial, blocks, 2 * width, 1, blocks, true, width, dscale.as<float>(), dshift.as<float>());
  }
  /// to += the sums over `parts` rows.
  static void add_parts(const float* from, int parts, int cols, Tensor& to) {
    sum_columns(from, parts, cols, 1, parts, true, cols, to.template as<float>(), nullptr);
  }
  /// partial [added_parts(rows), cols] = what it adds up, or += that.
  template <class Compute>
  static void add_rows(int rows, int cols, Compute compute, float* partial, bool adds = false) {
    const dim3 blocks(static_cast<unsigned>(added_parts(rows)), static_cast<unsigned>((cols + added_columns - 1) / added_columns));
    launch(added_rows_kernel<Compute>, blocks, added_threads, 8 * added_threads * sizeof(float), rows, cols, compute, partial, adds);
  }
  template <class X>
  static void sum_columns(const X* x, int rows, int cols, int parts, int part, bool adds, int split, float* to, float* rest) {
    const int threads = parts == 1 && rows > 64 ? 1024 : 256;  // few blocks, so many rows at once in each
    const dim3 blocks(static_cast<unsigned>((cols + warp - 1) / warp), static_cast<unsigned>(parts));
    launch(column_sums_kernel<X>, blocks, threads, static_cast<std::size_t>(threads) * sizeof(float), x, rows, cols, part, adds, split, to, rest);
  }

  /// Adds the pieces of a tensor; make(at) gives the one that begins at an element.
  static void cut(const Tensor& x, std::vector<Piece>& pieces, auto&& make) {
    for (long at = 0; at < x.size(); at += piece_size) {
      pieces.push_back(make(at));
      pieces.back().size = static_cast<int>(std::min<long>(piece_size, x.size() - at));
    }
  }
};

}  // namespace cuda

template <class S>
struct Cuda : cuda::Functions<Cuda<S>, S> {
  static_assert(std::is_same_v<S, float>, "relay: Cuda computes with float or bf16");
};
template <>
struct Cuda<bf16> : cuda::Functions<Cuda<bf16>, cuda::bf16> {
  using Packing = cuda::Packing;
};

static_assert(ComputeBackend<Cuda<float>> && ComputeBackend<Cuda<bf16>>);

}  // namespace relay
