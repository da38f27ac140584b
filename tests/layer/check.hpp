// What every layer promises (core/concepts.hpp), checked for any layer whose input and output are tensors, in double:
// the gradient, that backward adds, that applications do not interfere, that a trace may be used again, and that a
// sequence of a ragged batch knows nothing of the others.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include <relay/backend/cpu.hpp>
#include <relay/testing/gradcheck.hpp>

#include <doctest/doctest.h>

namespace check {

using B = relay::Cpu<double>;
using Tensor = B::Tensor;
using relay::Key;
using relay::Ragged;
using relay::Rows;

template <class Backend = B>
typename Backend::Tensor random(int rows, int cols, Key key, double deviation = 1) {
  typename Backend::Tensor x(rows, cols);
  relay::initialise_normal<Backend>(x, deviation, key);
  return x;
}

/// The largest difference of two tensors of one shape.
template <class T>
double difference(const T& a, const T& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  double worst = 0;
  for (long i = 0; i < a.size(); ++i) {
    const double error = std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i]));
    if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
  }
  return worst;
}

/// The same for every parameter of two layers of one type.
template <class L>
double parameter_difference(const L& a, const L& b) {
  double worst = 0;
  relay::for_each_parameter(
      [&](std::string_view, const auto& x, const auto& y) { worst = std::max(worst, difference(x, y)); }, a, b);
  return worst;
}

/// Rows begin .. end-1 of x.
template <class T>
T slice(const T& x, int begin, int end) {
  T part(end - begin, x.cols());
  std::copy(x.row(begin), x.row(end), part.data());
  return part;
}

/// Every parameter moved a little, so that nothing stands at a special value (ones and zeros of norms).
template <class L>
void perturb(L& layer, Key key = Key(77), double deviation = 0.2) {
  std::uint64_t number = 0;
  relay::for_each_parameter(
      [&](std::string_view, auto& tensor) {
        using T = std::remove_reference_t<decltype(tensor)>;
        relay::Random random(key.fold(number++));
        for (long i = 0; i < tensor.size(); ++i)
          tensor.data()[i] += static_cast<typename T::Scalar>(deviation * random.normal());
      },
      layer);
}

/// backward against finite differences: one sequence, one row, a ragged batch, a prefix of a batch; with and without dropout.
template <class L>
void gradient(L& layer, int width) {
  const std::vector<std::vector<int>> batches{{3}, {1}, {4, 1, 6}};
  for (const auto& lengths : batches)
    for (const bool drops : {false, true})
      for (const int left_out : {0, 1}) {
        if (left_out == static_cast<int>(lengths.size())) continue;
        const Ragged<B> batch(lengths);
        const auto rows =
            Rows<B>(batch, drops ? std::optional(Key(3)) : std::nullopt).first(batch.sequences() - left_out);
        Tensor x = random(rows.count(), width, Key(lengths.size()));
        const auto report = relay::check_layer(layer, x, rows, 24);
        CHECK_MESSAGE(report.within(1e-6), report.text());
      }
}

/// Two applications of one layer: the gradient is the sum, whatever was in it before, and the traces do not interfere.
template <class L>
void adds(const L& layer, int width) {
  const std::vector<int> one{5}, two{2, 3};
  const Ragged<B> first(one), second(two);
  const Tensor x1 = random(5, width, Key(1)), x2 = random(5, width, Key(2));
  typename L::Trace t1, t2;
  const Tensor dy = random(5, layer.forward(x1, first, t1).cols(), Key(3));
  L g1 = zeros_like(layer), g2 = zeros_like(layer), both = zeros_like(layer);
  const Tensor alone = layer.backward(x1, first, t1, dy, g1);
  layer.forward(x2, second, t2);
  layer.backward(x2, second, t2, dy, g2);

  typename L::Trace s1, s2;
  layer.forward(x1, first, s1);
  layer.forward(x2, second, s2);
  layer.backward(x2, second, s2, dy, both);
  const Tensor together = layer.backward(x1, first, s1, dy, both);
  CHECK(difference(alone, together) == 0);
  for_each_parameter([](std::string_view, const auto& a, auto& sum) { B::add(a, sum); }, g2, g1);
  CHECK(parameter_difference(g1, both) < 1e-12);
}

/// A trace that another batch has used gives the same bits as a new one; and the same arguments give the same bits.
template <class L>
void overwrites(const L& layer, int width) {
  const std::vector<int> many{7, 2}, few{3};
  const Ragged<B> large(many), small(few);
  const Rows<B> rows(small, Key(4));
  const Tensor before = random(9, width, Key(1), 100), x = random(3, width, Key(2));
  typename L::Trace used, fresh;
  layer.forward(before, Rows<B>(large, Key(5)), used);
  const Tensor y = layer.forward(x, rows, used), again = layer.forward(x, rows, fresh);
  CHECK(difference(y, again) == 0);
  CHECK(difference(y, L::output(used)) == 0);
  const Tensor dy = random(3, y.cols(), Key(3));
  L g1 = zeros_like(layer), g2 = zeros_like(layer);
  CHECK(difference(layer.backward(x, rows, used, dy, g1), layer.backward(x, rows, fresh, dy, g2)) == 0);
  CHECK(parameter_difference(g1, g2) == 0);
}

/// A pass that no backward pass follows gives the same bits, also where the trace has been used otherwise, and spoils it for no other.
template <class L>
void forward_only(const L& layer, int width) {
  const std::vector<int> lengths{3, 6};
  const Ragged<B> batch(lengths);
  const Rows<B> rows(batch, Key(4));
  const Tensor x = random(9, width, Key(1));
  typename L::Trace trace, fresh;
  const Tensor y = layer.forward(x, rows, trace), alone = layer.forward(x, rows.forward_only(), fresh);
  CHECK(difference(y, alone) == 0);
  CHECK(difference(layer.forward(x, rows.forward_only(), trace), y) == 0);
  CHECK(difference(L::output(trace), y) == 0);
  CHECK(difference(layer.forward(x, rows, trace), y) == 0);
  CHECK(difference(L::output(trace), y) == 0);
  typename L::Trace kept;
  layer.forward(x, rows, kept);
  L g1 = zeros_like(layer), g2 = zeros_like(layer);
  CHECK(difference(layer.backward(x, rows, trace, y, g1), layer.backward(x, rows, kept, y, g2)) == 0);
  CHECK(parameter_difference(g1, g2) == 0);
}

/// Each sequence of a batch: output and dx as if it were alone; the gradient is the sum over the sequences.
template <class L>
void ragged(const L& layer, int width) {
  const std::vector<int> lengths{4, 1, 33, 2};
  const Ragged<B> batch(lengths);
  const Tensor x = random(batch.rows(), width, Key(1));
  typename L::Trace trace;
  const Tensor y = layer.forward(x, batch, trace), dy = random(y.rows(), y.cols(), Key(2));
  L grad = zeros_like(layer), sum = zeros_like(layer);
  const Tensor dx = layer.backward(x, batch, trace, dy, grad);
  for (int s = 0; s < batch.sequences(); ++s) {
    const std::vector<int> length{lengths[static_cast<std::size_t>(s)]};
    const Ragged<B> alone(length);
    const auto part = [&](const Tensor& t) { return slice(t, batch.begin(s), batch.end(s)); };
    const Tensor xs = part(x), dys = part(dy);
    typename L::Trace own;
    CHECK(difference(layer.forward(xs, alone, own), part(y)) < 1e-12);
    CHECK(difference(layer.backward(xs, alone, own, dys, sum), part(dx)) < 1e-12);
  }
  CHECK(parameter_difference(grad, sum) < 1e-11);
}

/// All of it. Sequences are told apart only where nothing is dropped: what is dropped depends on the place in the batch.
template <class L>
void promises(L layer, int width) {
  static_assert(relay::Layer<L>);
  perturb(layer);
  gradient(layer, width);
  adds(layer, width);
  overwrites(layer, width);
  forward_only(layer, width);
  ragged(layer, width);
}

}  // namespace check
