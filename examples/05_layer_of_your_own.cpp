// A layer of one's own: every row looks at the row before it in its sequence.
//
//   y_i = x_i + W x_{i-1}      dx_i = dy_i + W^T dy_{i+1}      dW += sum of dy_i x_{i-1}^T      (W [width, width])
//
// It is written in the functions of a backend (backend/backend.hpp), so it runs on any: no element is touched from here.
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
    Tensor before, seen, y;  // x_{i-1} and W x_{i-1} of the rows that have one before them; y [rows, width]
  };

  Tensor weight;  // W

  explicit Lookback(int width, Key key) : weight(width, width) { initialise_normal<B>(weight, 0.5, key); }

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) { visit("weight", layer.weight...); }  // training, saving, checking: all of it

  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    const auto now = followers(rows, 0), before = followers(rows, -1);
    trace.before.resize_like(x, count(rows), x.cols());
    B::gather_rows(x, before, 0, trace.before);
    B::product(trace.before, weight, trace.seen);
    B::copy(x, trace.y);
    B::scatter_rows(trace.seen, 0, now, trace.y);
    return trace.y;
  }

  Tensor backward(const Tensor&, const Rows<B>& rows, const Trace& trace, const Tensor& dy, Lookback& grad) const {
    const auto now = followers(rows, 0), before = followers(rows, -1);
    Tensor dseen, dbefore, dx = dy;
    dseen.resize_like(dy, count(rows), dy.cols());
    B::gather_rows(dy, now, 0, dseen);
    B::add_outer_product(dseen, trace.before, grad.weight);  // add, never assign
    B::product_backward(dseen, weight, dbefore);
    B::scatter_rows(dbefore, 0, before, dx);
    return dx;
  }

 private:
  /// The rows that have one before them in their sequence, or, with offset -1, the rows before them.
  static typename B::Indices followers(const Rows<B>& rows, int offset) {
    std::vector<std::int32_t> list;
    for (int s = 0; s < rows.sequences(); ++s)
      for (int i = rows.begin(s) + 1; i < rows.end(s); ++i) list.push_back(i + offset);
    return B::indices(list, rows.batch().device());
  }
  static int count(const Rows<B>& rows) { return rows.count() - rows.sequences(); }  // all but the first of each
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
