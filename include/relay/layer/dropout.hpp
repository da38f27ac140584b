// Dropout (Srivastava et al. 2014): y = x * kept / (1 - rate), each element kept with probability 1 - rate.    dx likewise
//
// Which elements are dropped is a function of the rows' random key, so backward makes the mask again and the trace keeps
// none. Rows without a key (evaluation) pass unchanged: there is no mode to set.
#pragma once

#include <relay/core/concepts.hpp>

namespace relay {

template <class B>
struct Dropout {
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    Tensor y;
  };

  double rate;

  explicit Dropout(double rate_) : rate(rate_) {
    require(rate >= 0 && rate < 1, "a dropout rate must be in [0, 1), not ", rate);
  }

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&&, auto&...) {}

  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    apply(x, rows, trace.y);
    return trace.y;
  }

  Tensor backward(const Tensor&, const Rows<B>& rows, const Trace&, const Tensor& dy, Dropout&) const {
    Tensor dx;
    apply(dy, rows, dx);
    return dx;
  }

 private:
  void apply(const Tensor& x, const Rows<B>& rows, Tensor& y) const {
    if (rate > 0 && rows.dropout())
      B::dropout(x, rate, *rows.dropout(), y);
    else
      B::copy(x, y);
  }
};

}  // namespace relay
