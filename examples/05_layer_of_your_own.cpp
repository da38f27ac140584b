// A layer of one's own: every row looks at the row before it in its sequence.
//
//   y_i = x_i + a * x_{i-1}      dx_i = dy_i + a * dy_{i+1}      da += sum of dy_i * x_{i-1}      (a [1, width], by element)
//
// It is then checked, composed with layers of the library, looped, and made the body of a model.
#include <cstdio>

#include <relay/relay.hpp>

using namespace relay;

template <class B>
struct Lookback {
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    Tensor y;  // [rows, width]; backward needs only x, which the caller has
  };

  Tensor weight;  // a

  explicit Lookback(int width, Key key) : weight(1, width) { initialise_normal<B>(weight, 0.5, key); }

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) { visit("weight", layer.weight...); }  // training, saving, checking: all of it

  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    B::copy(x, trace.y);
    each_pair(rows, x.cols(), [&](int now, int before, int c) { trace.y.row(now)[c] += weight.data()[c] * x.row(before)[c]; });
    return trace.y;
  }

  Tensor backward(const Tensor& x, const Rows<B>& rows, const Trace&, const Tensor& dy, Lookback& grad) const {
    Tensor dx = dy;
    each_pair(rows, x.cols(), [&](int now, int before, int c) {
      dx.row(before)[c] += weight.data()[c] * dy.row(now)[c];
      grad.weight.data()[c] += dy.row(now)[c] * x.row(before)[c];  // add, never assign
    });
    return dx;
  }

 private:
  static void each_pair(const Rows<B>& rows, int width, auto&& visit) {
    for (int s = 0; s < rows.sequences(); ++s)
      for (int i = rows.begin(s) + 1; i < rows.end(s); ++i)
        for (int c = 0; c < width; ++c) visit(i, i - 1, c);
  }
};

using Backend = Cpu<double>;
static_assert(Block<Lookback<Backend>>);  // a Layer whose output may be its next input

int main() {
  const Ragged<Backend> batch(std::vector<int>{4, 1, 3});
  const Rows<Backend> rows(batch);
  Backend::Tensor x(rows.count(), 6);
  initialise_normal<Backend>(x, 1, Key(1));

  Lookback<Backend> layer(6, Key(2));
  const GradientReport one = check_layer(layer, x, rows);
  std::printf("alone:       %s\n", one.text().c_str());

  // Followed by layers of the library; three times around, which makes a layer again.
  const auto body = chain(layer, Residual(FeedForward<Backend>(6, 12, Key(3))));
  Looped<Chain<Lookback<Backend>, Residual<FeedForward<Backend>>>, 3> loop(body, 6);
  const GradientReport looped = check_layer(loop, x, rows);
  std::printf("three times: %s\n", looped.text().c_str());

  // The body of a model without attention, with embedding and heads: what every training and solving function takes.
  const LoopedTransformer<Backend, std::remove_const_t<decltype(body)>> model(body, 6, {.normalise = true}, 10, Seed{1});
  std::printf("a model of %ld parameters:", count_parameters(model));
  for_each_parameter([](std::string_view name, const auto&) { std::printf(" %s", std::string(name).c_str()); }, model);
  std::printf("\n");
  return one.within(1e-8) && looped.within(1e-6) ? 0 : 1;
}
