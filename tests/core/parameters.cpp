#include <relay/core/parameters.hpp>

#include <relay/backend/ops.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

struct Vec {
  std::vector<double> values;
  long size() const { return static_cast<long>(values.size()); }
};
struct Host : ComposedOps<Host> {
  static void fill(Vec& v, double value) { v.values.assign(v.values.size(), value); }
};

struct Leaf {
  using Backend = Host;
  Vec weight{{1, 2}}, bias{{3}};
  static void each(auto&& visit, auto&... leaf) {
    visit("weight", leaf.weight...);
    visit("bias", leaf.bias...);
  }
};
struct None {
  static void each(auto&&, auto&...) {}
};
struct Tree {
  using Backend = Host;
  Leaf first;
  None none;
  std::vector<Leaf> layers{Leaf(), Leaf()};
  static void each(auto&& visit, auto&... tree) {
    visit("first", tree.first...);
    visit("none", tree.none...);
    visit("layers", tree.layers...);
  }
};

}  // namespace

TEST_CASE("every parameter once, in order, under its path") {
  const Tree tree;
  std::vector<std::string> names;
  for_each_parameter([&](std::string_view name, const Vec&) { names.emplace_back(name); }, tree);
  CHECK(names == std::vector<std::string>{"first.weight", "first.bias", "layers.0.weight", "layers.0.bias",
                                          "layers.1.weight", "layers.1.bias"});
}

TEST_CASE("a zip: the same parameter of several values side by side, some const") {
  Tree sum;
  const Tree one;
  Tree two;
  two.layers[1].bias.values[0] = 10;
  int calls = 0;
  for_each_parameter(
      [&](std::string_view, Vec& to, const Vec& a, Vec& b) {
        for (std::size_t i = 0; i < to.values.size(); ++i) to.values[i] = a.values[i] + b.values[i];
        ++calls;
      },
      sum, one, two);
  CHECK(calls == 6);
  CHECK(sum.first.weight.values == std::vector<double>{2, 4});
  CHECK(sum.layers[1].bias.values == std::vector<double>{13});
}

TEST_CASE("counting, clearing, a zero of the same type") {
  Tree tree;
  CHECK(count_parameters(tree) == 9);
  CHECK(count_parameters(None()) == 0);
  const Tree zero = zeros_like(tree);
  CHECK(zero.layers[0].weight.values == std::vector<double>{0, 0});
  CHECK(tree.layers[0].weight.values == std::vector<double>{1, 2});  // and the original is as it was
  clear(tree);
  CHECK(tree.first.bias.values == std::vector<double>{0});
}

TEST_CASE("a visitor that takes no path gets none; one that takes anything gets it") {
  Tree sum;
  const Tree one;
  for_each_parameter([](Vec& to, const auto& from) { to.values[0] += from.values[0]; }, sum, one);
  CHECK(sum.layers[1].weight.values == std::vector<double>{2, 2});
  std::string names;
  for_each_parameter([&](auto&& name, auto&&) { names += std::string(name) + " "; }, one.layers[0]);
  CHECK(names == "weight bias ");
}

TEST_CASE("a visitor may keep state of its own") {
  struct Total {
    double sum = 0;
    void operator()(std::string_view, const Vec& v) {
      for (const double x : v.values) sum += x;
    }
  } total;
  const Tree tree;
  for_each_parameter(total, tree);
  CHECK(total.sum == 18);
}

TEST_CASE("a list of parameters: the same walk, each once, on any thread") {
  Tree tree;
  const Tree other;
  ParameterList<Vec, const Vec> list;
  Threads threads(3);
  for (Threads* shared : {static_cast<Threads*>(nullptr), &threads}) {
    list.assign(tree, other);
    CHECK(list.size() == 6);
    std::vector<const Vec*> first(6), second(6);
    list.visit(shared, [&](std::size_t i, Vec& a, const Vec& b) {
      first[i] = &a;
      second[i] = &b;
    });
    CHECK(first == std::vector<const Vec*>{&tree.first.weight, &tree.first.bias, &tree.layers[0].weight, &tree.layers[0].bias,
                                           &tree.layers[1].weight, &tree.layers[1].bias});
    CHECK(second[4] == &other.layers[1].weight);
  }
}
