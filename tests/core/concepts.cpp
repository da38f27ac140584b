#include <relay/core/concepts.hpp>

#include <vector>

#include <doctest/doctest.h>

using namespace relay;

namespace {

/// The least a backend can be.
struct Host {
  struct Device {};
  using Indices = std::vector<int>;
  static Indices indices(const std::vector<int>& from, Device) { return from; }
};

template <class In, class Out>
struct Map {
  using Backend = Host;
  using Input = In;
  using Output = Out;
  struct Trace {
    Out y;
  };
  static const Out& output(const Trace& trace) { return trace.y; }
  const Out& forward(const In&, const Rows<Host>&, Trace& trace) const { return trace.y; }
  In backward(const In&, const Rows<Host>&, const Trace&, const Out&, Map&) const { return {}; }
};

struct NoTrace : Map<int, int> {
  using Trace = void;
};
struct NoBackward {
  using Backend = Host;
  using Input = int;
  using Output = int;
  struct Trace {
    int y;
  };
  static const int& output(const Trace& trace) { return trace.y; }
  const int& forward(const int&, const Rows<Host>&, Trace& trace) const { return trace.y; }
};
struct NotConst : NoBackward {
  const int& forward(const int&, const Rows<Host>&, Trace& trace) { return trace.y; }
  int backward(const int&, const Rows<Host>&, const Trace&, const int&, NotConst&) const { return 0; }
};
struct ReturnsNothing : NoBackward {
  void backward(const int&, const Rows<Host>&, const Trace&, const int&, ReturnsNothing&) const {}
};

}  // namespace

TEST_CASE("what is a layer, what a block, and what is neither") {
  static_assert(Layer<Map<int, int>> && Block<Map<int, int>>);
  static_assert(Layer<Map<int, float>> && !Block<Map<int, float>>);
  static_assert(!Layer<int>);
  static_assert(!Layer<NoTrace>);
  static_assert(!Layer<NoBackward>);
  static_assert(!Layer<NotConst>);        // a loop applies one layer many times
  static_assert(!Layer<ReturnsNothing>);  // an embedding: nothing to hand back, so it only stands first
  CHECK(true);
}
