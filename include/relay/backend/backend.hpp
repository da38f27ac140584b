// What a Backend is: the types and functions through which everything outside backend/ computes. Nothing else is used of one.
//
// A tensor is a row-major matrix [rows, cols] on a device; the host sees its elements by upload and download alone. What a
// function overwrites it shapes itself, on the device of its first argument; what it adds to has its shape already. What is
// written is no other argument of the same call, unless it is said here. A tensor may have no rows.
// Functions may be called from several threads at once, on different tensors whose devices have different Memory; add,
// sum_of_squares, adamw and prepare, which take nothing from it, also on different tensors of one device.
//
// tests/backend/conformance.hpp checks what each function computes; backend/cpu.hpp is an example.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <relay/backend/ops.hpp>
#include <relay/core/random.hpp>
#include <relay/core/ragged.hpp>
#include <relay/core/threads.hpp>

namespace relay {

namespace detail {

template <class B>
using In = const typename B::Tensor&;
template <class B>
using Out = typename B::Tensor&;  // overwritten, or added to where the comment has +=

template <class B>
concept BackendTypes =
    requires {
      typename B::Scalar;   // of an element
      typename B::Memory;   // what tensors take their memory from: each lane of a batch has one, used by one thread at a time
      typename B::Device;   // where tensors live: Device{} is the default, Device{&memory} the same with that memory
      typename B::Tensor;   // a matrix that owns its elements; copies are deep
      typename B::Indices;  // a list of rows or tokens, on the device
    } && std::floating_point<typename B::Scalar> && std::default_initializable<typename B::Memory> &&
    std::semiregular<typename B::Device> && std::semiregular<typename B::Tensor> && std::semiregular<typename B::Indices>;

/// A linear layer's parameters, or their gradients, by these names.
template <class B>
struct Affine {
  typename B::Tensor weight, bias;
};

}  // namespace detail

template <class B>
concept ComputeBackend =
    // 1. Types.
    detail::BackendTypes<B> &&

    // 2. Memory and tensors. A resized tensor keeps its memory where that suffices, but not its elements.
    requires(typename B::Memory& memory, Threads& threads, typename B::Device device, detail::In<B> x, detail::Out<B> y, int rows,
             int cols) {
      { typename B::Device{&memory} } -> std::same_as<typename B::Device>;
      // These threads may share the work of one operation on such tensors. No result depends on it.
      { typename B::Device{&memory, &threads} } -> std::same_as<typename B::Device>;
      { memory.allocations() } -> std::convertible_to<long>;   // how often the system was asked for memory so far
      { memory.bytes() } -> std::convertible_to<std::size_t>;  // what it gave so far; it is kept for the next tensors
      { typename B::Tensor(rows, cols) } -> std::same_as<typename B::Tensor>;
      { typename B::Tensor(rows, cols, device) } -> std::same_as<typename B::Tensor>;
      { x.rows() } -> std::same_as<int>;
      { x.cols() } -> std::same_as<int>;
      { x.size() } -> std::convertible_to<long>;  // rows * cols
      { x.device() } -> std::same_as<typename B::Device>;
      y.resize(rows, cols, device);
      y.resize_like(x, rows, cols);  // on the device of x
    } &&

    // 3. Between host and device, row after row.
    requires(std::span<const std::int32_t> list, std::span<const typename B::Scalar> values, typename B::Device device,
             detail::In<B> x, detail::Out<B> y) {
      { B::indices(list, device) } -> std::same_as<typename B::Indices>;
      B::upload(values, y);  // y has its shape already
      { B::download(x) } -> std::same_as<std::vector<typename B::Scalar>>;
    } &&

    // 4. Products. Weights are [outputs, inputs].
    requires(detail::In<B> x, detail::In<B> weight, detail::In<B> dy, detail::Out<B> y, detail::Out<B> dx, detail::Out<B> dweight) {
      B::product(x, weight, y);              // y = x weight^T
      B::product_backward(dy, weight, dx);   // dx = dy weight
      B::add_outer_product(dy, x, dweight);  // dweight += dy^T x
      // Many products are about to read y as their weight or bias: the backend may keep it beside itself in other forms, until it
      // is written. No result depends on it.
      B::prepare(y);
    } &&

    // 5. Rows and elements.
    requires(detail::In<B> x, detail::In<B> row, const typename B::Indices& indices, int first, int count, int end,
             double value, detail::Out<B> y, detail::Out<B> total) {
      B::fill(y, value);                      // every element of y, whose shape stays
      B::copy(x, y);                          // y = x
      B::copy_first(x, count, y);             // y = the first rows of x
      B::add(x, y);                           // y += x over the rows that both have: none, where one is Tensor()
      B::add_row(row, y);                     // every row of y += row [1, cols]
      B::add_column_sums(x, total);           // total [1, cols] += the sum of x's rows
      B::clear_rows(y, first, end);           // rows first .. end-1 of y = 0
      B::gather_rows(x, indices, first, y);   // y's row first + i = x's row indices[i]; y's shape and other rows stay
      B::scatter_rows(x, first, indices, y);  // y's row indices[i] += x's row first + i; an index may come again
      { B::sum_of_squares(x) } -> std::same_as<double>;
    } &&

    // 6. Layer norm of each row: y = scale (x - mean) rstd + shift, rstd = 1 / sqrt(variance + eps); scale and shift [1, cols].
    requires(detail::In<B> x, detail::In<B> scale, detail::In<B> shift, double eps, detail::In<B> dy, detail::In<B> kept,
             detail::Out<B> y, detail::Out<B> statistics, detail::Out<B> dx, detail::Out<B> dscale, detail::Out<B> dshift) {
      B::layer_norm(x, scale, shift, eps, y, statistics);              // statistics: what backward wants to have kept
      B::layer_norm_backward(x, kept, scale, dy, dx, dscale, dshift);  // dx; dscale += .., dshift += ..
    } &&

    // 7. GELU, exact: y = x Phi(x). (Of bf16 an approximation will do whose error is less than rounding takes from 1.)
    requires(detail::In<B> x, detail::In<B> dy, detail::Out<B> y, detail::Out<B> dx) {
      B::gelu(x, y);                   // y may be x
      B::gelu_backward(x, dy, dx, y);  // dx = dy GELU'(x), and y once more, which a forward pass need not keep then; dx may be dy
    } &&

    // 8. Attention inside each sequence of `rows`. qkv [rows, 3 width]: queries, keys, values, each all heads side by side. (Of bf16, what its
    // products multiply may be rounded, probabilities too.)
    requires(const Rows<B>& rows, int rotated, int direction, int positions, int count, long elements, const Heads& heads, detail::In<B> table,
             const typename B::Indices& slots, const typename B::Indices& starts, detail::In<B> kept, detail::In<B> mixed, detail::In<B> dout,
             detail::In<B> qkv, detail::Out<B> rotating, detail::Out<B> dqkv, detail::Out<B> out, detail::Out<B> lse,
             detail::Out<B> keys, detail::Out<B> values) {
      // Queries and keys of the first `rotated` heads turned by their positions, or back (direction -1): layer/rotary.hpp.
      B::rotate(rotating, rows, count, rotated, table, direction);
      B::rotate(rotating, rows, count, rotated, table, direction, starts);  // sequence s begins at position starts[s]
      B::attention(qkv, rows, heads, out, lse);                             // lse [rows, heads]: log-sum-exp of the scores
      B::attention_backward(qkv, mixed, kept, dout, rows, heads, dqkv);     // mixed: out, kept: lse
      // Sequence s goes on in slot slots[s] of a cache at position starts[s]: its keys and values are appended, and it attends,
      // causally, to all that is there. How a cache holds them is the backend's own matter.
      B::attention_cached(qkv, rows, slots, starts, count, keys, values, out);
      // How many sequences it is best to continue at once, each with so many elements of keys and values in all caches together.
      { B::sequences_at_once(elements, qkv.device()) } -> std::same_as<int>;
      B::make_cache(count, positions, count, heads.count, qkv.device(), keys, values);  // of so many slots, positions, width and heads
    } &&

    // 9. Dropout: y = x kept / (1 - rate); what is kept follows from the key and an element's place (core/random.hpp).
    requires(detail::In<B> x, double rate, Key key, detail::Out<B> y) {
      B::dropout(x, rate, key, y);  // y may be x
    } &&

    // 10. Reading the logits of a head, a class a column.
    requires(detail::In<B> x, const typename B::Indices& targets, std::span<const double> weights, detail::Out<B> logits,
             detail::Out<B> losses, std::vector<std::int32_t>& best, std::vector<double>& probability) {
      // losses [rows, 2]: the cross-entropy, and 1 where the target is the argmax; the logits become their gradient, by row
      // times weights[row].
      B::softmax_cross_entropy(logits, targets, weights, losses);
      B::argmax(x, best, probability);  // of each row: the largest one's class, the first of equals, and its probability
      B::softmax(logits);               // each row becomes its softmax
      B::softmax_backward(x, losses);   // x: a softmax, losses: its gradient, which becomes that of the logits
    } &&

    // 11. One step of AdamW on one tensor (train/adamw.hpp); first and second are its moments.
    requires(detail::Out<B> weight, detail::In<B> gradient, detail::Out<B> first, detail::Out<B> second, const AdamWStep& step) {
      B::adamw(weight, gradient, first, second, step);
    } &&

    // 12. Composed of the above: bodies to inherit, or to replace by faster ones, are in backend/ops.hpp.
    requires(detail::In<B> x, detail::In<B> weight, detail::In<B> bias, detail::In<B> branch, detail::In<B> dy, detail::In<B> scale,
             detail::In<B> shift, detail::In<B> kept, double rate, double eps, int width, const std::optional<Key>& key,
             const std::optional<Dropping>& dropping, detail::Out<B> y, detail::Out<B> dx, detail::Out<B> dweight, detail::Out<B> dbias,
             detail::Out<B> normal, detail::Out<B> statistics, detail::Out<B> dscale, detail::Out<B> dshift, const Rows<B>& rows,
             const Heads& heads, std::span<const std::int32_t> list, typename B::Device device, typename B::Indices& indices,
             std::vector<typename B::Scalar>& values, const detail::Affine<B>& linear, detail::Affine<B>& gradient, bool forward_only) {
      B::linear(x, weight, bias, y);                          // y = x weight^T + bias
      B::linear_backward(x, weight, dy, dx, dweight, dbias);  // dx = dy weight; dweight += dy^T x, dbias += column sums of dy
      B::logits(x, weight, bias, y);                          // the same two for a head, whose y a softmax reads
      B::logits_backward(x, weight, dy, dx, dweight, dbias);
      // A feed-forward layer, y = GELU(x up.weight^T + up.bias) down.weight^T + down.bias. dx, normal: what backward needs, in B's own form.
      B::feed_forward(x, linear, linear, forward_only, dx, normal, y);
      B::feed_forward_backward(x, branch, kept, linear, linear, dy, dx, gradient, gradient);  // dx; the gradients of weights and biases += ..
      // What these two are composed of.
      B::linear_gelu(x, weight, bias, y, normal);             // y = x weight^T + bias, normal = gelu(y); they may be one
      { B::keeps_activated } -> std::convertible_to<bool>;    // whether the next wants `branch`, gelu(x), or makes it again
      B::gelu_linear_backward(x, branch, weight, dy, dx, dweight, dbias);  // linear_backward of gelu(x), and through it: dx = (dy weight) GELU'(x)
      // Attention of queries and keys that are yet to be turned by their positions; y, their qkv, may be written.
      B::rotary_attention(y, rows, heads, width, weight, dx, normal);
      B::rotary_attention_backward(x, branch, kept, dy, rows, heads, width, weight, dx);  // x: qkv as it was left, branch: out, kept: lse
      B::rotary_attention_cached(y, rows, indices, indices, width, width, weight, dx, dweight, normal);
      B::make_room(x, width, y);                              // y [width, x's columns], for rows of x
      B::spread_rows(x, width, indices, width, y);            // y [width, x's columns]: row indices[i] is x's row width + i, all others are zeros
      B::residual(x, branch, rate, key, y);                   // y = x + dropout(branch), if there is a key
      B::residual_norm(x, branch, rate, key, scale, shift, eps, y, normal, statistics);  // y, and its layer norm
      B::linear_residual_norm(x, weight, bias, branch, rate, key, scale, shift, eps, dx, y, normal, statistics);  // of a branch x weight^T + bias; dx: room
      B::layer_norm_backward_add(x, kept, scale, dy, branch, dx, dscale, dshift);  // layer_norm_backward's dx, plus as large a branch
      B::layer_norm_backward_add(x, kept, scale, dy, branch, dx, dscale, dshift, dropping);  // ... and dropout(dx) comes next
      B::layer_norm_backward_add_first(x, kept, scale, dy, branch, dx, dscale, dshift, dropping);  // the same with a smaller branch: of the first rows
      { B::rows_at_once(width, device) } -> std::same_as<int>;  // how many rows a forward pass of this width is fastest with
      { B::in_order } -> std::convertible_to<bool>;           // whether one thread of the host is all that the device needs
      { B::loops_give_needed_rows } -> std::convertible_to<bool>;  // whether a loop's last layer leaves out rows that nobody needs
      requires std::default_initializable<typename B::Applications> && std::destructible<typename B::Applied>;
      B::place_input(weight, y);                              // y, or dy, is yet to be written for the linear layer of this weight
      B::place_gradient(weight, y);
      { B::repeats } -> std::convertible_to<bool>;            // whether B::repeat(repeated, size, times, device, f) may record what f does
      requires std::default_initializable<typename B::Repeated> && std::default_initializable<typename B::Answers>;
      { B::repeated_size(width) } -> std::same_as<int>;
      B::indices_to(list, device, indices);                   // indices = B::indices(list, device), in the memory it has
      requires std::default_initializable<typename B::template IndexLists<typename B::Indices>>;  // assign(all, firsts, device), and [i]
      B::download_to(x, values);                              // values = B::download(x), in the memory it has
      requires std::default_initializable<typename B::template Reading<typename B::Tensor, typename B::Scalar>>;  // begin(x), and later values()
      requires std::default_initializable<typename B::Updating>;
      requires std::default_initializable<typename B::Clearing>;  // add(y) of some tensors, which are zeros after end()
      // And, of all parameters of an optimiser at once, sums_of_squares, adamw_all and clipped_adamw_all, which take a ParameterList
      // (core/parameters.hpp); an optimiser asks for the last, and keeps an Updating for it.
    };

}  // namespace relay
