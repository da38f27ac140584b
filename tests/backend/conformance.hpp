// What every backend must compute: one suite, run for each. A backend's test is
//
//   TEST_CASE("my backend") { Conformance<My<float>>(device, 1e-5).run(); }
//
// The suite uses nothing but the interface of a backend: Tensor(rows, cols, device), upload, download, indices and the
// operations, each held against tests/backend/reference.hpp. Sizes are odd on purpose: no multiple of a vector, heads of
// 2, 6, 9, 16, 32 and 64, sequences shorter and longer than any block. Outputs start as NaN, and in a wrong shape: an operation
// overwrites them completely, or adds where its comment says so.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <relay/core/bf16.hpp>
#include <relay/core/parameters.hpp>
#include <relay/core/ragged.hpp>
#include <relay/layer/rotary.hpp>

#include <doctest/doctest.h>

#include "reference.hpp"

template <class B>
class Conformance {
 public:
  using Scalar = typename B::Scalar;
  using Tensor = typename B::Tensor;
  using Indices = typename B::Indices;
  using Device = typename B::Device;
  using Matrix = reference::Matrix;
  using Key = relay::Key;

  /// `tolerance`: of an element, relative to the largest of its tensor or to 1. `product_tolerance`: of products, where their operands are
  /// rounded first; 0: the same. What is only ever multiplied there may be less exact too: GELU, and the probabilities of attention.
  Conformance(Device device, double tolerance, double product_tolerance = 0)
      : device_(device), tolerance_(tolerance), product_(product_tolerance > 0 ? product_tolerance / tolerance : 4), rounds_(product_tolerance > 0) {}

  void run() {
    SUBCASE("transfer") { transfer(); }
    SUBCASE("products") { products(); }
    SUBCASE("prepared weights") { prepared(); }
    SUBCASE("linear") { linear(); }
    SUBCASE("elements") { elements(); }
    SUBCASE("rows") { rows(); }
    SUBCASE("gather and scatter") { gather_scatter(); }
    SUBCASE("no rows") { no_rows(); }
    SUBCASE("sum of squares") { sum_of_squares(); }
    SUBCASE("layer norm") { layer_norm(); }
    SUBCASE("gelu") { gelu(); }
    SUBCASE("gelu between products") { linear_gelu(); }
    SUBCASE("feed-forward") { feed_forward(); }
    SUBCASE("rotate") { rotate(); }
    SUBCASE("attention") { attention(); }
    SUBCASE("attention, scores far apart") { attention_extremes(); }
    SUBCASE("attention with a cache") { attention_cached(); }
    SUBCASE("attention that turns what it reads") { rotary_attention(); }
    SUBCASE("and with a cache") { rotary_attention_cached(); }
    SUBCASE("dropout") { dropout(); }
    SUBCASE("residual") { residual(); }
    SUBCASE("residual and layer norm") { residual_norm(); }
    SUBCASE("softmax cross-entropy") { softmax_cross_entropy(); }
    SUBCASE("argmax") { argmax(); }
    SUBCASE("softmax") { softmax(); }
    SUBCASE("adamw") { adamw(); }
    SUBCASE("adamw of a clipped gradient") { clipped_adamw(); }
  }
  /// What a backend may do otherwise where there are thousands of rows.
  void run_many_rows(int rows) {
    feed_forward(rows, 64, 256, 64);
    linear_residual_norm(rows, 64, 256);
  }

 private:
  static constexpr double nan = std::numeric_limits<double>::quiet_NaN();

  // --- Tools ---
  double rounded(double value) const { return static_cast<double>(static_cast<Scalar>(value)); }

  /// Normal values that the backend's scalar holds exactly.
  Matrix random(int rows, int cols, double deviation = 1, double mean = 0) {
    Matrix m(rows, cols);
    for (double& v : m.values) v = rounded(mean + deviation * random_.normal());
    return m;
  }
  /// Normal values that its products do not round either.
  Matrix random_operands(int rows, int cols, double deviation = 1) {
    if (!rounds_) return random(rows, cols, deviation);
    Matrix m(rows, cols);
    for (double& v : m.values) v = static_cast<double>(static_cast<float>(relay::bf16(static_cast<float>(deviation * random_.normal()))));
    return m;
  }
  Tensor put(const Matrix& m) const {
    Tensor t(m.rows, m.cols, device_);
    std::vector<Scalar> values;
    for (const double v : m.values) values.push_back(static_cast<Scalar>(v));
    B::upload(values, t);
    return t;
  }
  Matrix get(const Tensor& t) const {
    Matrix m(t.rows(), t.cols());
    const auto values = B::download(t);
    for (std::size_t i = 0; i < values.size(); ++i) m.values[i] = static_cast<double>(values[i]);
    return m;
  }
  /// For an output: NaNs, and one row and column too many.
  Tensor poisoned(int rows, int cols) const {
    Tensor t(rows + 1, cols + 1, device_);
    B::fill(t, nan);
    return t;
  }
  Indices indices(const std::vector<std::int32_t>& list) const { return B::indices(list, device_); }

  void expect(const std::string& what, const Tensor& actual, const Matrix& expected, double factor = 1) const {
    const Matrix a = get(actual);
    REQUIRE_MESSAGE((a.rows == expected.rows && a.cols == expected.cols), what, " is [", a.rows, ", ", a.cols,
                    "], not [", expected.rows, ", ", expected.cols, "]");
    double scale = 1, worst = 0;
    std::size_t where = 0;
    for (const double v : expected.values) scale = std::max(scale, std::abs(v));
    for (std::size_t i = 0; i < a.values.size(); ++i) {
      const double error = std::abs(a.values[i] - expected.values[i]);
      if (!(error <= worst)) worst = error, where = i;
      if (std::isnan(error)) break;
    }
    CHECK_MESSAGE(worst <= factor * tolerance_ * scale, what, "[",
                  where / static_cast<std::size_t>(std::max(a.cols, 1)), ", ",
                  where % static_cast<std::size_t>(std::max(a.cols, 1)), "] is ",
                  a.values.empty() ? 0 : a.values[where], ", not ", a.values.empty() ? 0 : expected.values[where]);
  }

  // --- The operations ---
  void transfer() {
    const Matrix m = random(3, 5);
    expect("what was uploaded", put(m), m, 0);
    Tensor t(2, 3, device_);
    B::fill(t, 0.5);
    expect("filled", t, Matrix(2, 3, 0.5), 0);
    B::fill(t, -2);
    expect("filled", t, Matrix(2, 3, -2), 0);
    const Tensor copy = t;
    B::fill(t, 1);
    expect("a copy is deep", copy, Matrix(2, 3, -2), 0);
    Tensor like;
    like.resize_like(t, 4, 2);
    CHECK((like.rows() == 4 && like.cols() == 2 && like.size() == 8));
    Tensor none(0, 7, device_);
    CHECK(B::download(none).empty());
    std::vector<Scalar> values(3, Scalar(7));
    B::download_to(copy, values);
    CHECK(values == B::download(copy));
    B::download_to(none, values);
    CHECK(values.empty());
    Indices list = indices({2, 2, 2, 2});
    B::indices_to(std::vector<std::int32_t>{2, 0}, device_, list);
    Tensor rows(2, 5, device_);
    B::gather_rows(put(m), list, 0, rows);
    for (int c = 0; c < 5; ++c)
      CHECK((get(rows)(0, c) == m(2, c) && get(rows)(1, c) == m(0, c)));
  }

  void products() {
    const int shapes[][3] = {{1, 1, 1}, {1, 7, 3}, {3, 5, 7}, {33, 17, 9}, {70, 24, 31}, {40, 300, 150}};
    for (const auto& [n, inputs, outputs] : shapes) {
      const Matrix x = random(n, inputs), weight = random(outputs, inputs), dy = random(n, outputs),
                   start = random(outputs, inputs);
      Tensor y = poisoned(n, outputs), dx = poisoned(n, inputs), dweight = put(start);
      B::product(put(x), put(weight), y);
      expect("product", y, reference::product(x, reference::transposed(weight)), product_);
      B::product_backward(put(dy), put(weight), dx);
      expect("product_backward", dx, reference::product(dy, weight), product_);
      B::add_outer_product(put(dy), put(x), dweight);
      expect("add_outer_product", dweight, reference::sum(start, reference::product(reference::transposed(dy), x)), product_);
    }
  }

  /// A prepared weight gives the bits of the weight alone, whatever it held when it was prepared before.
  void prepared() {
    for (const auto& [n, inputs, outputs] : {std::array{1, 7, 3}, {33, 70, 150}, {33, 130, 150}}) {
      const Matrix x = random(n, inputs), dy = random(n, outputs), first = random(outputs, inputs), second = random(outputs, inputs);
      Tensor weight = put(first), plain, back, y, dx;
      const auto same_as = [&](const Matrix& m) {
        B::product(put(x), put(m), plain);
        B::product_backward(put(dy), put(m), back);
        B::product(put(x), weight, y);
        B::product_backward(put(dy), weight, dx);
        CHECK((B::download(y) == B::download(plain) && B::download(dx) == B::download(back)));
      };
      B::prepare(weight);
      same_as(first);
      B::copy(put(second), weight);
      same_as(second);
      B::prepare(weight);
      same_as(second);
      const Tensor copy = weight;
      B::fill(weight, 0);
      same_as(Matrix(outputs, inputs));
      weight = copy;
      same_as(second);
      B::prepare(weight);
      B::upload(B::download(put(first)), weight);
      same_as(first);
      Tensor half(inputs, outputs, device_);  // another shape in the same memory
      B::prepare(weight);
      weight.resize_like(half, outputs, inputs);
      B::copy(put(second), weight);
      same_as(second);
    }
  }

  void linear() {
    const Matrix x = random(13, 6), weight = random(11, 6), bias = random(1, 11), dy = random(13, 11), one(13, 1, 1.0);
    const Matrix dweight0 = random(11, 6), dbias0 = random(1, 11);
    Tensor y = poisoned(13, 11), dx = poisoned(13, 6), dweight = put(dweight0), dbias = put(dbias0);
    B::linear(put(x), put(weight), put(bias), y);
    expect("linear", y,
           reference::sum(reference::product(x, reference::transposed(weight)), reference::product(one, bias)), product_);
    B::linear_backward(put(x), put(weight), put(dy), dx, dweight, dbias);
    expect("linear_backward, dx", dx, reference::product(dy, weight), product_);
    expect("linear_backward, dweight", dweight,
           reference::sum(dweight0, reference::product(reference::transposed(dy), x)), product_);
    expect("linear_backward, dbias", dbias, reference::sum(dbias0, reference::column_sums(dy)), 4);
    Tensor logits = poisoned(13, 11), dx_head = poisoned(13, 6), dweight_head = put(dweight0), dbias_head = put(dbias0);
    B::logits(put(x), put(weight), put(bias), logits);
    expect("logits", logits, get(y), 2 * product_);
    B::logits_backward(put(x), put(weight), put(dy), dx_head, dweight_head, dbias_head);
    expect("logits_backward, dx", dx_head, get(dx), 2 * product_);
    expect("logits_backward, dweight", dweight_head, get(dweight), 2 * product_);
    expect("logits_backward, dbias", dbias_head, get(dbias), 4);
  }

  void elements() {
    const Matrix x = random(5, 7), y0 = random(5, 7);
    Tensor y = poisoned(5, 7);
    B::copy(put(x), y);
    expect("copy", y, x, 0);
    Tensor first = poisoned(3, 7);
    B::copy_first(put(x), 3, first);
    Matrix three(3, 7);
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 7; ++c) three(r, c) = x(r, c);
    expect("copy_first", first, three, 0);

    Tensor sum = put(y0);
    B::add(put(x), sum);
    expect("add", sum, reference::sum(x, y0));
    sum = put(y0);
    B::add(first, sum);  // fewer rows than the sum has
    Matrix padded(5, 7);
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 7; ++c) padded(r, c) = x(r, c);
    expect("add of a prefix", sum, reference::sum(padded, y0));
    Tensor small = put(three);
    B::add(put(x), small);  // more rows than the sum has
    expect("add to a prefix", small, reference::sum(three, three));
    B::add(Tensor(), small);  // no rows at all
    expect("add of nothing", small, reference::sum(three, three));
  }

  void rows() {
    for (const int width : {1, 7, 8, 19}) {
      const Matrix y0 = random(6, width), row = random(1, width), total0 = random(1, width);
      Tensor y = put(y0);
      B::add_row(put(row), y);
      expect("add_row", y, reference::sum(y0, reference::product(Matrix(6, 1, 1.0), row)));
      Tensor total = put(total0);
      B::add_column_sums(put(y0), total);
      expect("add_column_sums", total, reference::sum(total0, reference::column_sums(y0)), 4);
      y = put(y0);
      B::clear_rows(y, 2, 5);
      Matrix cleared = y0;
      for (int r = 2; r < 5; ++r)
        for (int c = 0; c < width; ++c) cleared(r, c) = 0;
      expect("clear_rows", y, cleared, 0);
      B::clear_rows(y, 3, 3);
      expect("clear_rows of none", y, cleared, 0);
    }
  }

  void gather_scatter() {
    const Matrix x = random(6, 5), y0 = random(7, 5);
    const std::vector<std::int32_t> which{4, 0, 4, 5};
    Tensor y = put(y0);
    B::gather_rows(put(x), indices(which), 2, y);
    Matrix gathered = y0;
    for (int i = 0; i < 4; ++i)
      for (int c = 0; c < 5; ++c) gathered(2 + i, c) = x(which[static_cast<std::size_t>(i)], c);
    expect("gather_rows", y, gathered, 0);
    Tensor sum = put(x);
    B::scatter_rows(put(y0), 2, indices(which), sum);
    Matrix scattered = x;
    for (int i = 0; i < 4; ++i)
      for (int c = 0; c < 5; ++c) scattered(which[static_cast<std::size_t>(i)], c) += y0(2 + i, c);
    expect("scatter_rows, one row twice", sum, scattered, 4);
    B::make_room(put(x), 4, y);
    B::gather_rows(put(x), indices(which), 0, y);
    Matrix rows(4, 5);
    for (int i = 0; i < 4; ++i)
      for (int c = 0; c < 5; ++c) rows(i, c) = x(which[static_cast<std::size_t>(i)], c);
    expect("gather_rows to room that was made", y, rows, 0);

    for (const int width : {5, 8, 132})
      for (const std::vector<std::int32_t>& list : {std::vector<std::int32_t>{0, 3, 4, 8}, {8, 0, 5}, {7}, {}}) {
        const Matrix from = random(6, width);
        Matrix expected(9, width);
        for (std::size_t i = 0; i < list.size(); ++i)
          for (int c = 0; c < width; ++c) expected(list[i], c) = from(2 + static_cast<int>(i), c);
        Tensor to = poisoned(3, 2);
        B::spread_rows(put(from), 2, indices(list), 9, to);
        expect("spread_rows", to, expected, 0);
      }
  }

  /// Tensors without rows pass through everything that is a matter of rows, and add nothing.
  void no_rows() {
    const Tensor x = put(Matrix(0, 5)), dy = put(Matrix(0, 3)), weight = put(random(3, 5)), bias = put(random(1, 3));
    const Tensor wide_x = put(Matrix(0, 300)), wide_dy = put(Matrix(0, 200)), wide = put(random(200, 300));
    const Tensor scale = put(random(1, 5)), table = put(random(4, 5));
    const Matrix dweight0 = random(3, 5), dbias0 = random(1, 3), sum0 = random(4, 5);
    Tensor dweight = put(dweight0), dbias = put(dbias0), sum = put(sum0);
    const auto none = [&](const std::string& what, int cols, auto&& op) {
      Tensor y = poisoned(2, cols);
      op(y);
      expect(what, y, Matrix(0, cols), 0);
    };
    none("product", 3, [&](Tensor& y) { B::product(x, weight, y); });
    none("product_backward", 5, [&](Tensor& y) { B::product_backward(dy, weight, y); });
    none("product, wide", 200, [&](Tensor& y) { B::product(wide_x, wide, y); });
    none("product_backward, wide", 300, [&](Tensor& y) { B::product_backward(wide_dy, wide, y); });
    none("linear", 3, [&](Tensor& y) { B::linear(x, weight, bias, y); });
    none("linear_backward", 5, [&](Tensor& y) { B::linear_backward(x, weight, dy, y, dweight, dbias); });
    none("copy", 5, [&](Tensor& y) { B::copy(x, y); });
    none("copy_first", 5, [&](Tensor& y) { B::copy_first(table, 0, y); });
    none("gelu", 5, [&](Tensor& y) { B::gelu(x, y); });
    none("gelu_backward", 5, [&](Tensor& y) {
      Tensor dx = poisoned(2, 5);
      B::gelu_backward(x, x, dx, y);
      expect("gelu_backward", dx, Matrix(0, 5), 0);
    });
    none("linear_gelu", 3, [&](Tensor& y) {
      Tensor before = poisoned(2, 3);
      B::linear_gelu(x, weight, bias, before, y);
      expect("linear_gelu", before, Matrix(0, 3), 0);
    });
    none("gelu_linear_backward", 5, [&](Tensor& y) { B::gelu_linear_backward(x, x, weight, dy, y, dweight, dbias); });
    const Matrix sums0 = random(1, 5), weights0 = random(5, 3);
    const relay::detail::Affine<B> up{weight, bias}, down{put(random(5, 3)), put(random(1, 5))};
    relay::detail::Affine<B> dup{put(dweight0), put(dbias0)}, ddown{put(weights0), put(sums0)};
    Tensor hidden = poisoned(2, 3), activated = poisoned(2, 3);
    none("feed_forward", 5, [&](Tensor& y) { B::feed_forward(x, up, down, false, hidden, activated, y); });
    none("feed_forward_backward", 5, [&](Tensor& y) { B::feed_forward_backward(x, hidden, activated, up, down, x, y, dup, ddown); });
    expect("feed_forward_backward, weight of up", dup.weight, dweight0, 0);
    expect("feed_forward_backward, bias of up", dup.bias, dbias0, 0);
    expect("feed_forward_backward, weight of down", ddown.weight, weights0, 0);
    expect("feed_forward_backward, bias of down", ddown.bias, sums0, 0);
    none("dropout", 5, [&](Tensor& y) { B::dropout(x, 0.5, Key(1), y); });
    none("residual", 5, [&](Tensor& y) { B::residual(x, x, 0, std::nullopt, y); });
    Tensor statistics = poisoned(1, 1);
    none("layer_norm", 5, [&](Tensor& y) { B::layer_norm(x, scale, scale, 1e-5, y, statistics); });
    Tensor gathered = put(Matrix(0, 5));
    B::gather_rows(table, indices({}), 0, gathered);
    B::scatter_rows(x, 0, indices({}), sum);
    B::add(x, sum);
    B::add(Tensor(), sum);
    B::add_outer_product(dy, x, dweight);
    B::add_column_sums(dy, dbias);
    expect("scatter_rows and add", sum, sum0, 0);
    expect("add_outer_product", dweight, dweight0, 0);
    expect("add_column_sums", dbias, dbias0, 0);
    CHECK(B::sum_of_squares(x) == 0);
  }

  void sum_of_squares() {
    for (const int n : {1, 7, 64, 1237}) {
      const Matrix x = random(1, n);
      double expected = 0;
      for (const double v : x.values) expected += v * v;
      CHECK(B::sum_of_squares(put(x)) == doctest::Approx(expected).epsilon(8 * tolerance_));
    }
  }

  void layer_norm() {
    const double eps = 1e-5;
    for (const int width : {2, 3, 8, 13, 64}) {
      CAPTURE(width);
      const Matrix x = random(5, width, 2, 0.5), scale = random(1, width), shift = random(1, width),
                   dy = random(5, width);
      const Matrix dscale0 = random(1, width), dshift0 = random(1, width);
      Tensor y = poisoned(5, width), statistics = poisoned(5, 2), dx = poisoned(5, width), dscale = put(dscale0),
             dshift = put(dshift0);
      B::layer_norm(put(x), put(scale), put(shift), eps, y, statistics);
      const auto expected = reference::layer_norm(x, scale, shift, eps);
      expect("layer_norm", y, expected.y, 4);
      expect("layer_norm's statistics", statistics, expected.statistics, 4);
      B::layer_norm_backward(put(x), statistics, put(scale), put(dy), dx, dscale, dshift);
      const auto gradient = reference::layer_norm_backward(x, scale, dy, eps);
      expect("layer_norm_backward, dx", dx, gradient.dx, 16);
      expect("layer_norm_backward, dscale", dscale, reference::sum(dscale0, gradient.dscale), 8);
      expect("layer_norm_backward, dshift", dshift, reference::sum(dshift0, gradient.dshift), 4);
    }
    // Rows far from zero: the variance is taken around the mean. Rounding x itself to the scalar costs nothing here.
    for (const int width : {9, 15, 16}) {
      CAPTURE(width);
      const Matrix x = random(4, width, 0.25, 4096), one(1, width, 1.0), zero(1, width);
      Tensor y = poisoned(4, width), statistics = poisoned(4, 2);
      B::layer_norm(put(x), put(one), put(zero), eps, y, statistics);
      expect("layer_norm far from zero", y, reference::layer_norm(x, one, zero, eps).y, 4096);
    }
  }

  void gelu() {
    for (const auto& [width, far] : {std::pair{1, 0.0}, {7, 0.0}, {61, 0.0}, {5, 12.0}, {5, 40.0}}) {
      Matrix x = random(3, width, 2), y(3, width), dx(3, width);
      const Matrix dy = random(3, width);
      const double special[] = {0, -0.0, 1e-6, 1, -1, 2, -2, far, -far};
      for (std::size_t i = 0; width > 1 && i < 9; ++i) x.values[i] = rounded(special[i]);
      for (std::size_t i = 0; i < x.values.size(); ++i) {
        y.values[i] = reference::gelu(x.values[i]);
        dx.values[i] = dy.values[i] * reference::gelu_slope(x.values[i]);
      }
      Tensor out = poisoned(3, width), back = poisoned(3, width), in_place = put(dy);
      B::gelu(put(x), out);
      const double factor = rounds_ ? product_ / 64 : 1;
      expect("gelu", out, y, factor);
      Tensor out_in_place = put(x), again = poisoned(2, width);
      B::gelu(out_in_place, out_in_place);
      expect("gelu in place", out_in_place, y, factor);
      B::gelu_backward(put(x), put(dy), back, again);
      expect("gelu_backward", back, dx, 2 * factor);
      CHECK(B::download(again) == B::download(out));
      B::gelu_backward(put(x), in_place, in_place, again);
      expect("gelu_backward in place", in_place, dx, 2 * factor);
    }
  }

  void linear_gelu() {
    for (const auto& [n, inputs, hidden, outputs] : {std::array{5, 7, 24, 9}, {13, 16, 5, 3}, {70, 8, 40, 16}}) {
      const Matrix x = random(n, inputs), up = random(hidden, inputs), bias = random(1, hidden), down = random(outputs, hidden), dy = random(n, outputs);
      const Matrix dweight0 = random(outputs, hidden), dbias0 = random(1, outputs), one(n, 1, 1.0);
      Matrix before = reference::sum(reference::product(x, reference::transposed(up)), reference::product(one, bias)), after = before;
      Matrix dx = reference::product(dy, down);
      for (std::size_t i = 0; i < after.values.size(); ++i) {
        after.values[i] = reference::gelu(before.values[i]);
        dx.values[i] *= reference::gelu_slope(before.values[i]);
      }
      Tensor kept = poisoned(n, hidden), y = poisoned(n, hidden), in_place = poisoned(n, hidden);
      B::linear_gelu(put(x), put(up), put(bias), kept, y);
      expect("linear_gelu, before", kept, before, product_);
      expect("linear_gelu", y, after, product_);
      B::linear_gelu(put(x), put(up), put(bias), in_place, in_place);
      expect("linear_gelu in place", in_place, after, product_);
      Tensor back = poisoned(n, hidden), dweight = put(dweight0), dbias = put(dbias0);
      B::gelu_linear_backward(kept, B::keeps_activated ? y : Tensor(), put(down), put(dy), back, dweight, dbias);
      expect("gelu_linear_backward, dx", back, dx, 2 * product_);
      expect("gelu_linear_backward, dweight", dweight, reference::sum(dweight0, reference::product(reference::transposed(dy), after)), product_);
      expect("gelu_linear_backward, dbias", dbias, reference::sum(dbias0, reference::column_sums(dy)), 4);
      Tensor first, dup = put(random(hidden, inputs, 0)), dbias_up = put(random(1, hidden, 0));
      B::linear_backward(put(x), put(up), back, first, dup, dbias_up);
      expect("the bias before gelu", dbias_up, reference::column_sums(dx), 4 * product_);
    }
  }

  void feed_forward() {
    for (const auto& [n, inputs, hidden, outputs] : {std::array{3, 8, 64, 5}, {13, 7, 50, 3}, {70, 40, 192, 72}, {300, 16, 128, 16}})
      feed_forward(n, inputs, hidden, outputs);
  }
  void feed_forward(int n, int inputs, int hidden, int outputs) {
    const Matrix x = random(n, inputs), wu = random(hidden, inputs), bu = random(1, hidden), wd = random(outputs, hidden), bd = random(1, outputs);
    const Matrix dy = random(n, outputs), dwu = random(hidden, inputs), dbu = random(1, hidden);
    const Matrix dwd = random(outputs, hidden), dbd = random(1, outputs);
    const Matrix before = reference::sum(reference::product(x, reference::transposed(wu)), reference::product(Matrix(n, 1, 1.0), bu));
    Matrix after = before, dh = reference::product(dy, wd);
    for (std::size_t i = 0; i < after.values.size(); ++i) {
      after.values[i] = reference::gelu(before.values[i]);
      dh.values[i] *= reference::gelu_slope(before.values[i]);
    }
    const Matrix y = reference::sum(reference::product(after, reference::transposed(wd)), reference::product(Matrix(n, 1, 1.0), bd));
    for (const bool prepared : {false, true}) {
      relay::detail::Affine<B> up{put(wu), put(bu)}, down{put(wd), put(bd)}, dup{put(dwu), put(dbu)}, ddown{put(dwd), put(dbd)};
      if (prepared) {
        B::prepare(up.weight);
        B::prepare(down.weight);
      }
      Tensor room = poisoned(n, hidden), hidden_values = poisoned(n, hidden), activated = poisoned(n, hidden);
      Tensor out = poisoned(n, outputs), dx = poisoned(n, inputs);
      B::feed_forward(put(x), up, down, true, room, activated, out);
      expect("feed_forward, forward only", out, y, 2 * product_);
      out = poisoned(n, outputs);
      B::feed_forward(put(x), up, down, false, hidden_values, activated, out);
      expect("feed_forward", out, y, 2 * product_);
      B::feed_forward_backward(put(x), hidden_values, activated, up, down, put(dy), dx, dup, ddown);
      expect("feed_forward_backward, dx", dx, reference::product(dh, wu), 4 * product_);
      expect("feed_forward_backward, weight of up", dup.weight, reference::sum(dwu, reference::product(reference::transposed(dh), x)), 4 * product_);
      expect("feed_forward_backward, bias of up", dup.bias, reference::sum(dbu, reference::column_sums(dh)), 4 * product_);
      expect("feed_forward_backward, weight of down", ddown.weight, reference::sum(dwd, reference::product(reference::transposed(dy), after)),
             2 * product_);
      expect("feed_forward_backward, bias of down", ddown.bias, reference::sum(dbd, reference::column_sums(dy)), 4);
    }
  }

  void rotate() {
    const double base = 100;
    for (const auto& [heads, size] : {std::pair{1, 2}, {3, 6}, {2, 16}}) {
      const std::vector<int> lengths{5, 1, 33};
      const relay::Ragged<B> batch(lengths, device_);
      const relay::Rotary<B> rotary(size, 64, base, device_);
      const int width = heads * size;
      for (int rotated = 0; rotated <= heads; ++rotated)
        for (const std::vector<int>& starts : {std::vector<int>{}, {7, 0, 30}})
          for (const int direction : {1, -1})
            for (const int sequences : {3, 2}) {
              const auto prefix = relay::Rows<B>(batch).first(sequences);
              const reference::Offsets offsets(batch.offsets().begin(), batch.offsets().begin() + sequences + 1);
              const Matrix qkv = random(prefix.count(), 3 * width);
              Tensor y = put(qkv);
              B::rotate(y, prefix, heads, rotated, rotary.table(), direction,
                        starts.empty() ? Indices{} : indices(starts));
              expect("rotate", y, reference::rotate(qkv, offsets, heads, rotated, base, direction, starts), 4);
            }
    }
  }

  void attention() {
    for (const auto& shape : {std::pair{1, 2}, {3, 6}, {2, 16}, {1, 9}, {1, 64}})
      for (const auto& kind : {std::pair{relay::Mask::none, 0}, {relay::Mask::causal, 0}, {relay::Mask::anticausal, 0},
                               {relay::Mask::none, 1}, {relay::Mask::none, 3}})
        for (const int sequences : {5, 2}) {
          CAPTURE(shape.first);
          CAPTURE(shape.second);
          CAPTURE(static_cast<int>(kind.first));
          CAPTURE(kind.second);
          const auto [count, size] = shape;
          const relay::Heads heads{count, kind.first, std::min(kind.second, count)};
          const std::vector<int> lengths{33, 1, 70, 3, 8};  // with 2 sequences: a prefix, the longest not in it
          const relay::Ragged<B> batch(lengths, device_);
          const auto prefix = relay::Rows<B>(batch).first(sequences);
          const reference::Offsets offsets(batch.offsets().begin(), batch.offsets().begin() + sequences + 1);
          const int n = prefix.count(), width = count * size;
          const Matrix qkv = random_operands(n, 3 * width), dout = random_operands(n, width);
          const auto expected = reference::attention(qkv, offsets, heads, dout);
          Tensor out = poisoned(n, width), lse = poisoned(n, count), dqkv = poisoned(n, 3 * width);
          B::attention(put(qkv), prefix, heads, out, lse);
          expect("attention", out, expected.out, rounds_ ? product_ / 4 : 8);
          expect("attention's log-sum-exp", lse, expected.lse, rounds_ ? product_ / 100 : 8);
          B::attention_backward(put(qkv), out, lse, put(dout), prefix, heads, dqkv);
          expect("attention_backward", dqkv, expected.dqkv, rounds_ ? product_ / 2 : 16);
        }
  }

  void attention_extremes() {
    const std::vector<int> lengths{19};
    const relay::Ragged<B> batch(lengths, device_);
    const relay::Heads one{1, relay::Mask::causal};
    const Matrix qkv = random_operands(19, 3 * 6, 20), dout = random_operands(19, 6);  // scores of some hundreds: softmax is one-hot
    const auto expected = reference::attention(qkv, {0, 19}, one, dout);
    Tensor out = poisoned(19, 6), lse = poisoned(19, 1), dqkv = poisoned(19, 18);
    B::attention(put(qkv), relay::Rows<B>(batch), one, out, lse);
    expect("attention", out, expected.out, std::max(1000.0, product_));
    B::attention_backward(put(qkv), out, lse, put(dout), relay::Rows<B>(batch), one, dqkv);
    expect("attention_backward", dqkv, expected.dqkv, std::max(10000.0, product_));
  }

  /// Two sequences in slots 2 and 0 of a cache, continued in pieces: as if each had been run at once.
  void attention_cached() {
    for (const auto& [heads, size] : {std::pair{1, 2}, {3, 6}, {2, 16}}) {
      const int width = heads * size, slots = 3;
      Tensor keys, values;
      B::make_cache(slots, 190, width, heads, device_, keys, values);
      B::fill(keys, nan);  // whatever an earlier sequence left there
      B::fill(values, nan);
      const Matrix a = random(190, 3 * width), b = random(9, 3 * width);
      const Matrix all_a = reference::attention(a, {0, 190}, {heads, relay::Mask::causal}, Matrix(190, width)).out;
      const Matrix all_b = reference::attention(b, {0, 9}, {heads, relay::Mask::causal}, Matrix(9, width)).out;
      int done_a = 0, done_b = 0;
      for (const auto& [n, m] : {std::pair{5, 3}, {1, 1}, {1, 5}, {40, 0}, {1, 0}, {2, 0}, {139, 0}, {1, 0}}) {
        std::vector<int> lengths{n};
        std::vector<std::int32_t> slot{2}, start{done_a};
        if (m > 0) lengths.push_back(m), slot.push_back(0), start.push_back(done_b);
        Matrix qkv(n + m, 3 * width), expected(n + m, width);
        for (int r = 0; r < n + m; ++r) {
          for (int c = 0; c < 3 * width; ++c) qkv(r, c) = r < n ? a(done_a + r, c) : b(done_b + r - n, c);
          for (int c = 0; c < width; ++c) expected(r, c) = r < n ? all_a(done_a + r, c) : all_b(done_b + r - n, c);
        }
        const relay::Ragged<B> batch(lengths, device_);
        Tensor out = poisoned(n + m, width);
        B::attention_cached(put(qkv), relay::Rows<B>(batch), indices(slot), indices(start), heads, keys, values, out);
        expect("attention_cached", out, expected, std::max(8.0, product_));
        done_a += n;
        done_b += m;
      }
      // Back to an earlier position, which is written again with what follows it.
      const relay::Ragged<B> two(std::vector<int>{2}, device_);
      Matrix qkv(2, 3 * width), expected(2, width);
      for (int r = 0; r < 2; ++r) {
        for (int c = 0; c < 3 * width; ++c) qkv(r, c) = a(101 + r, c);
        for (int c = 0; c < width; ++c) expected(r, c) = all_a(101 + r, c);
      }
      qkv(0, 2 * width) += 1;  // the first call's value is another
      Tensor out = poisoned(2, width);
      B::attention_cached(put(qkv), relay::Rows<B>(two), indices({2}), indices({101}), heads, keys, values, out);
      qkv(0, 2 * width) -= 1;
      B::attention_cached(put(qkv), relay::Rows<B>(two), indices({2}), indices({101}), heads, keys, values, out);
      expect("attention_cached, from an earlier position", out, expected, std::max(8.0, product_));
    }
  }

  /// The first heads turned, short sequences and long: as if queries and keys had been turned before, and their gradients after.
  void rotary_attention() {
    const double base = 100;
    for (const auto& shape : {std::pair{3, 6}, {2, 16}, {1, 32}, {2, 64}})
      for (const auto& kind : {std::pair{relay::Mask::none, 1}, {relay::Mask::causal, 0}})
        for (const std::vector<int>& lengths : {std::vector<int>{33, 1, 40, 8}, {70, 3}, {100, 17}, {140, 5}, {131, 260}}) {
          const int count = shape.first, size = shape.second;
          CAPTURE(size);
          CAPTURE(lengths[0]);
          const relay::Heads heads{count, kind.first, std::min(kind.second, count - 1)};
          const int rotated = std::max(1, count - 1), width = count * size;
          const relay::Ragged<B> batch(lengths, device_);
          const relay::Rotary<B> rotary(size, 260, base, device_);
          const auto rows = relay::Rows<B>(batch);
          const reference::Offsets offsets(batch.offsets().begin(), batch.offsets().end());
          const Matrix qkv = random(rows.count(), 3 * width), dout = random(rows.count(), width);
          const auto expected = reference::attention(reference::rotate(qkv, offsets, count, rotated, base, +1, {}), offsets, heads, dout);
          Tensor left = put(qkv), out = poisoned(rows.count(), width), lse = poisoned(rows.count(), count), dqkv = poisoned(rows.count(), 3 * width);
          B::rotary_attention(left, rows, heads, rotated, rotary.table(), out, lse);
          expect("rotary_attention", out, expected.out, std::max(8.0, product_));
          expect("rotary_attention's log-sum-exp", lse, expected.lse, std::max(8.0, product_));
          B::rotary_attention_backward(left, out, lse, put(dout), rows, heads, rotated, rotary.table(), dqkv);
          expect("rotary_attention_backward", dqkv, reference::rotate(expected.dqkv, offsets, count, rotated, base, -1, {}), std::max(16.0, product_));
        }
  }

  /// A sequence, its first rows at once and the others step by step, alone or beside another's prompt, which changes no bit.
  void rotary_attention_cached() {
    const double base = 100;
    for (const auto& [heads, size] : {std::pair{3, 6}, {2, 16}, {1, 64}}) {
      const int n = 20, width = heads * size, rotated = std::max(1, heads - 1), first = 14;
      const relay::Rotary<B> rotary(size, 64, base, device_);
      const Matrix all = random(n, 3 * width);
      const Matrix turned = reference::rotate(all, {0, n}, heads, rotated, base, +1, {});
      const Matrix expected = reference::attention(turned, {0, n}, {heads, relay::Mask::causal}, Matrix(n, width)).out;
      Matrix identity(3 * width, 3 * width);
      for (int i = 0; i < 3 * width; ++i) identity(i, i) = 1;
      std::vector<std::vector<Scalar>> bits;
      for (const bool beside : {false, true}) {
        Tensor keys, values;
        B::make_cache(2, n, width, heads, device_, keys, values);
        for (int done = 0; done < n;) {
          const int now = done == 0 ? first : 1, other = beside && done > 0 ? 2 : 0;
          Matrix qkv(now + other, 3 * width), out(now, width);
          for (int r = 0; r < now; ++r) {
            for (int c = 0; c < 3 * width; ++c) qkv(r, c) = all(done + r, c);
            for (int c = 0; c < width; ++c) out(r, c) = expected(done + r, c);
          }
          std::vector<int> lengths{now};
          if (other > 0) lengths.push_back(other);
          const relay::Ragged<B> batch(lengths, device_);
          Tensor left, y = poisoned(now + other, width), own;
          B::product(put(qkv), put(identity), left);  // with elements as the backend's products have them
          B::rotary_attention_cached(left, relay::Rows<B>(batch), indices(other > 0 ? std::vector{1, 0} : std::vector{1}),
                                     indices(other > 0 ? std::vector{done, 0} : std::vector{done}), heads, rotated, rotary.table(), keys, values, y);
          B::copy_first(y, now, own);
          expect("rotary_attention_cached", own, out, std::max(8.0, product_));
          if (beside)
            CHECK(bits[static_cast<std::size_t>(done)] == B::download(own));
          else
            bits.resize(static_cast<std::size_t>(done + 1)), bits.back() = B::download(own);
          done += now;
        }
      }
    }
  }

  void dropout() {
    for (const double rate : {0.1, 0.5, 0.9}) {
      const Matrix x = random(7, 13);
      const Key key = Key(5).fold(static_cast<std::uint64_t>(100 * rate));
      Tensor y = poisoned(7, 13), in_place = put(x);
      B::dropout(put(x), rate, key, y);
      expect("dropout", y, reference::dropout(x, rate, key));
      B::dropout(in_place, rate, key, in_place);
      expect("dropout in place", in_place, reference::dropout(x, rate, key));
    }
  }

  void residual() {
    const Matrix x = random(5, 11), branch = random(5, 11);
    const Key key(9);
    for (const std::optional<Key>& dropout : {std::optional<Key>{}, std::optional<Key>{key}})
      for (const double rate : {0.0, 0.3}) {
        Tensor y = poisoned(5, 11);
        B::residual(put(x), put(branch), rate, dropout, y);
        expect("residual", y, reference::sum(x, dropout ? reference::dropout(branch, rate, key) : branch), 2);
      }
  }

  /// With a norm behind or beside it.
  void residual_norm() {
    const double eps = 1e-5;
    const Key key(9);
    for (const int width : {7, 12, 128, 256, 300, 512, 1100})
      for (const double rate : {0.0, 0.3}) {
        const Matrix x = random(5, width), branch = random(5, width), scale = random(1, width), shift = random(1, width), dy = random(5, width);
        const Matrix dscale0 = random(1, width), dshift0 = random(1, width);
        Tensor y = poisoned(5, width), normal = poisoned(5, width), statistics = poisoned(5, 2);
        const std::optional<Key> dropout = rate > 0 ? std::optional(key) : std::nullopt;
        B::residual_norm(put(x), put(branch), rate, dropout, put(scale), put(shift), eps, y, normal, statistics);
        const Matrix sum = reference::sum(x, rate > 0 ? reference::dropout(branch, rate, key) : branch);
        const auto expected = reference::layer_norm(sum, scale, shift, eps);
        expect("residual_norm's sum", y, sum, 2);
        expect("residual_norm", normal, expected.y, 8);
        expect("residual_norm's statistics", statistics, expected.statistics, 8);
        Tensor dx = poisoned(5, width), dscale = put(dscale0), dshift = put(dshift0);
        B::layer_norm_backward_add(y, statistics, put(scale), put(dy), put(branch), dx, dscale, dshift);
        const auto gradient = reference::layer_norm_backward(sum, scale, dy, eps);
        expect("layer_norm_backward_add, dx", dx, reference::sum(gradient.dx, branch), 16);
        expect("layer_norm_backward_add, dscale", dscale, reference::sum(dscale0, gradient.dscale), 8);
        expect("layer_norm_backward_add, dshift", dshift, reference::sum(dshift0, gradient.dshift), 4);
      }
    linear_residual_norm(5, 7, 12);
    linear_residual_norm(5, 9, 7);
    linear_residual_norm(6, 64, 256);
    linear_residual_norm(0, 64, 256);
    // What goes around it ends before the others, and dropout comes next, and a linear layer.
    for (const int width : {12, 128, 256, 512, 600})
      for (const int around : {0, 3, 40})
        for (const std::optional<relay::Dropping>& next :
             {std::optional<relay::Dropping>{}, std::optional(relay::Dropping{0.3, key}), std::optional(relay::Dropping{0.3, std::nullopt})}) {
          const Matrix x = random(40, width), scale = random(1, width), dy = random(40, width), skip = random(around, width), zero = random(1, width, 0);
          Tensor y, statistics, dx = poisoned(40, width), dscale = put(zero), dshift = put(zero), dropped = poisoned(40, width);
          B::layer_norm(put(x), put(scale), put(zero), eps, y, statistics);
          B::layer_norm_backward_add_first(put(x), statistics, put(scale), put(dy), put(skip), dx, dscale, dshift, next);
          auto gradient = reference::layer_norm_backward(x, scale, dy, eps);
          for (std::size_t i = 0; i < skip.values.size(); ++i) gradient.dx.values[i] += skip.values[i];
          expect("layer_norm_backward_add_first, dx", dx, gradient.dx, 16);
          expect("layer_norm_backward_add_first, dscale", dscale, gradient.dscale, 16);
          expect("layer_norm_backward_add_first, dshift", dshift, gradient.dshift, 16);
          Matrix left = gradient.dx;
          const Tensor* from = &dx;
          if (next && next->key) {
            left = reference::dropout(left, next->rate, *next->key);
            B::dropout(dx, next->rate, *next->key, dropped);
            expect("and dropout", dropped, left, 16);
            from = &dropped;
          }
          Tensor back, dweight = put(random(width, 8, 0)), dbias = put(zero);
          B::linear_backward(put(random(40, 8)), put(random(width, 8)), *from, back, dweight, dbias);
          expect("and the bias of what comes next", dbias, reference::column_sums(left), std::max(32.0, product_));
        }
  }

  void linear_residual_norm(int rows, int depth, int width) {
    const double eps = 1e-5;
    const Key key(9);
    for (const double rate : {0.0, 0.3}) {
      const Matrix x = random_operands(rows, depth, 0.3), weight = random_operands(width, depth), bias = random_operands(1, width);
      const Matrix base = random(rows, width), scale = random(1, width), shift = random(1, width);
      Tensor room, y = poisoned(2, width), normal = poisoned(2, width), statistics = poisoned(2, 2);
      B::linear_residual_norm(put(x), put(weight), put(bias), put(base), rate, rate > 0 ? std::optional(key) : std::nullopt, put(scale), put(shift), eps, room,
                              y, normal, statistics);
      const Matrix branch = reference::sum(reference::product(x, reference::transposed(weight)), reference::product(Matrix(rows, 1, 1.0), bias));
      const Matrix sum = reference::sum(base, rate > 0 ? reference::dropout(branch, rate, key) : branch);
      const auto expected = reference::layer_norm(sum, scale, shift, eps);
      expect("linear_residual_norm's sum", y, sum, product_);
      expect("linear_residual_norm", normal, expected.y, 2 * product_);
      expect("linear_residual_norm's statistics", statistics, expected.statistics, 2 * product_);
    }
  }

  void softmax_cross_entropy() {
    for (const int classes : {1, 2, 5, 8, 21, 40, 64, 70, 130, 150, 256, 300}) {
      Matrix logits = random(6, classes, 3);
      for (int c = 0; c < classes; ++c) logits(4, c) = rounded(c % 2 == 0 ? 300 : -300), logits(5, c) = 0.25;
      const std::vector<std::int32_t> targets{0, classes - 1, classes / 2, 0, 0, classes - 1};
      const std::vector<double> weights{1, 0.5, 0, 0.125, 2, 1};
      const auto expected = reference::softmax_cross_entropy(logits, targets, weights);
      Tensor gradient = put(logits), losses = poisoned(6, 2);
      B::softmax_cross_entropy(gradient, indices(targets), weights, losses);
      expect("softmax_cross_entropy's gradient", gradient, expected.gradient, 4);
      expect("softmax_cross_entropy's losses", losses, expected.losses, 4);
    }
  }

  void argmax() {
    for (const int classes : {1, 3, 8, 21, 70}) {
      Matrix logits = random(4, classes);
      for (int c = 0; c < classes; ++c) logits(3, c) = c >= classes / 2 ? 1 : 0;  // equals: the first of them
      std::vector<std::int32_t> best(9, -1);
      std::vector<double> probability(9, nan);
      B::argmax(put(logits), best, probability);
      REQUIRE(best.size() == 4);
      REQUIRE(probability.size() == 4);
      for (int r = 0; r < 4; ++r) {
        int top = 0;
        double total = 0;
        for (int c = 0; c < classes; ++c) top = logits(r, c) > logits(r, top) ? c : top;
        for (int c = 0; c < classes; ++c) total += std::exp(logits(r, c) - logits(r, top));
        CHECK(best[static_cast<std::size_t>(r)] == top);
        CHECK(probability[static_cast<std::size_t>(r)] == doctest::Approx(1 / total).epsilon(4 * tolerance_));
      }
    }
  }

  void softmax() {
    for (const int classes : {1, 3, 8, 21, 70}) {
      const Matrix logits = random(4, classes, 3), dy = random(4, classes);
      Tensor y = put(logits), d = put(dy);
      B::softmax(y);
      const Matrix got = get(y);
      B::softmax_backward(y, d);
      const Matrix gradient = get(d);
      for (int r = 0; r < 4; ++r) {
        double total = 0, mean = 0;
        for (int c = 0; c < classes; ++c) total += std::exp(logits(r, c));
        for (int c = 0; c < classes; ++c) mean += std::exp(logits(r, c)) / total * dy(r, c);
        for (int c = 0; c < classes; ++c) {
          const double p = std::exp(logits(r, c)) / total;
          CHECK(got(r, c) == doctest::Approx(p).epsilon(16 * tolerance_));
          CHECK(std::abs(gradient(r, c) - p * (dy(r, c) - mean)) < 16 * tolerance_);
        }
      }
    }
  }

  void adamw() {
    for (const double decay : {0.0, 0.1}) {
      Matrix weight = random(3, 7), first(3, 7), second(3, 7);
      Tensor w = put(weight), m = put(first), v = put(second);
      for (int step = 1; step <= 3; ++step) {
        const Matrix gradient = random(3, 7);
        const relay::AdamWStep s{.rate = 0.05,
                                 .beta1 = 0.9,
                                 .beta2 = 0.98,
                                 .epsilon = 1e-8,
                                 .decay = decay,
                                 .correction1 = 1 - std::pow(0.9, step),
                                 .correction2 = 1 - std::pow(0.98, step),
                                 .gradient_scale = 0.25};
        B::adamw(w, put(gradient), m, v, s);
        for (std::size_t i = 0; i < weight.values.size(); ++i) {
          const double g = 0.25 * gradient.values[i];
          first.values[i] = 0.9 * first.values[i] + 0.1 * g;
          second.values[i] = 0.98 * second.values[i] + 0.02 * g * g;
          weight.values[i] -= 0.05 * decay * weight.values[i];
          weight.values[i] -=
              0.05 * (first.values[i] / s.correction1) / (std::sqrt(second.values[i] / s.correction2) + 1e-8);
        }
      }
      expect("adamw's weight", w, weight, 4);
      expect("adamw's first moment", m, first, 4);
      expect("adamw's second moment", v, second, 4);
    }
  }

  struct Two {  // parameters, of which the first decays
    Tensor matrix, row;
    static void each(auto&& visit, auto&... two) {
      visit("matrix", two.matrix...);
      visit("row", two.row...);
    }
  };
  void clipped_adamw() {
    using Parameters = relay::ParameterList<Tensor, const Tensor, Tensor, Tensor>;
    const auto two = [&](const Matrix& matrix, const Matrix& row) { return Two{put(matrix), put(row)}; };
    constexpr int rows = 61, cols = 150;  // more than a block's share
    const Matrix zero(rows, cols), zero_row(1, cols);
    const Matrix weight = random(rows, cols), bias = random(1, cols);
    Two w = two(weight, bias), m = two(zero, zero_row), v = two(zero, zero_row);
    const auto all = [](const Two& x) {
      auto values = B::download(x.matrix);
      const auto row = B::download(x.row);
      values.insert(values.end(), row.begin(), row.end());
      return values;
    };
    std::vector<double> weights(weight.values), moments(weights.size() + bias.values.size(), 0.0), squares = moments;
    weights.insert(weights.end(), bias.values.begin(), bias.values.end());
    typename B::Updating kept;
    int taken = 0;
    for (const double clip : {0.0, 3.0, 1e6, -1.0, 5.0}) {  // -1: a gradient that is not finite
      Matrix gradient = random(rows, cols), bias_gradient = random(1, cols);
      if (clip < 0) bias_gradient.values[7] = taken % 2 == 0 ? nan : std::numeric_limits<double>::infinity();
      Two g = two(gradient, bias_gradient);
      const int step = taken + 1;
      const relay::AdamWStep s{.rate = 0.05,
                               .beta1 = 0.9,
                               .beta2 = 0.98,
                               .epsilon = 1e-8,
                               .decay = 0.1,
                               .correction1 = 1 - std::pow(0.9, step),
                               .correction2 = 1 - std::pow(0.98, step),
                               .gradient_scale = 1};
      Parameters parameters;
      const Two& read = g;
      parameters.assign(w, read, m, v);
      const auto w_before = all(w), m_before = all(m), v_before = all(v);
      const double norm = B::clipped_adamw_all(kept, parameters, nullptr, s, clip, [](const Tensor& x) { return x.rows() > 1; });
      if (clip < 0) {
        CHECK_FALSE(std::isfinite(norm));
        CHECK(all(w) == w_before);
        CHECK(all(m) == m_before);
        CHECK(all(v) == v_before);
        continue;
      }
      taken = step;
      std::vector<double> gradients(gradient.values);
      gradients.insert(gradients.end(), bias_gradient.values.begin(), bias_gradient.values.end());
      double sum = 0;
      for (const double x : gradients) sum += x * x;
      CHECK(norm == doctest::Approx(std::sqrt(sum)).epsilon(8 * tolerance_));
      const double scale = clip > 0 && norm > clip ? clip / norm : 1;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const double x = scale * gradients[i];
        moments[i] = 0.9 * moments[i] + 0.1 * x;
        squares[i] = 0.98 * squares[i] + 0.02 * x * x;
        if (i < weight.values.size()) weights[i] -= 0.05 * 0.1 * weights[i];
        weights[i] -= 0.05 * (moments[i] / s.correction1) / (std::sqrt(squares[i] / s.correction2) + 1e-8);
      }
      const auto expect_all = [&](const Two& got, const std::vector<double>& expected) {
        Matrix matrix(rows, cols), row(1, cols);
        std::copy_n(expected.begin(), matrix.values.size(), matrix.values.begin());
        std::copy_n(expected.end() - cols, cols, row.values.begin());
        expect("clipped adamw of a matrix", got.matrix, matrix, 8);
        expect("clipped adamw of a row", got.row, row, 8);
      };
      expect_all(w, weights);
      expect_all(m, moments);
      expect_all(v, squares);
    }
    // And what products read of the weights is what they are now.
    Tensor y;
    const Matrix x = random(3, cols);
    B::product(put(x), w.matrix, y);
    Tensor again;
    B::product(put(x), Tensor(w.matrix), again);
    CHECK(B::download(y) == B::download(again));
  }

  Device device_;
  double tolerance_, product_;
  bool rounds_;
  relay::Random random_{Key(2024)};
};
