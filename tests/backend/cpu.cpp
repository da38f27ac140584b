#include <relay/backend/cpu.hpp>

#include <cstring>
#include <vector>

#include <doctest/doctest.h>

#include "conformance.hpp"
#include "level.hpp"

using namespace relay;

template <cpu::Level level>
using At = std::integral_constant<cpu::Level, level>;

/// Where the level is there; else it is not even compiled.
template <class B, cpu::Level level>
void conforms(double tolerance, double product_tolerance = 0) {
  if constexpr (cpu::compiled<level>)
    if (level <= cpu::machine_level()) return Conformance<B>({}, tolerance, product_tolerance).run();
  MESSAGE(name_of(level), " is not there");
}

#ifdef RELAY_TEST_LOWEST  // this test is built with several flags
static_assert(cpu::lowest == cpu::Level::RELAY_TEST_LOWEST);
#endif

// float: exp and erf within a few ulp and sums in any order. double: the standard library's functions.
TEST_CASE_TEMPLATE("Cpu<float> conforms at every level", L, At<cpu::Level::base>, At<cpu::Level::avx2>,
                   At<cpu::Level::avx512>, At<cpu::Level::amx_bf16>) {
  conforms<Cpu<float, L::value>, L::value>(1e-6);
}
TEST_CASE_TEMPLATE("Cpu<bf16> conforms: operands of products keep 8 bits, where there are such products", L, At<cpu::Level::avx2>,
                   At<cpu::Level::avx512>, At<cpu::Level::avx512_bf16>, At<cpu::Level::amx_bf16>) {
  conforms<Cpu<bf16, L::value>, L::value>(1e-6, L::value >= cpu::Level::avx512_bf16 ? 2e-2 : 0);
}
TEST_CASE("Cpu<double> conforms") { Conformance<Cpu<double>>({}, 1e-14).run(); }

TEST_CASE("and with its own memory, and with threads that share an operation") {
  cpu::Memory memory;
  Conformance<Cpu<float>>({&memory}, 1e-6).run();
  Threads threads(2);
  Conformance<Cpu<float>>({&memory, &threads}, 1e-6).run();
}

/// Memory whose free blocks hold what is not a number, as float32 and as bf16: whoever reads what it has not written shows it.
void spoil(cpu::Memory& memory) {
  std::vector<cpu::Tensor<float>> blocks;
  for (int elements = 64; elements <= 1 << 18; elements += elements / 4)
    for (int i = 0; i < 8; ++i) {
      blocks.emplace_back(1, elements, cpu::Device{&memory});
      std::memset(blocks.back().data(), 0xff, static_cast<std::size_t>(elements) * sizeof(float));
    }
}

TEST_CASE_TEMPLATE("and whatever its memory holds", S, float, bf16) {
  const double product_tolerance = std::is_same_v<S, bf16> && cpu::machine_level() >= cpu::Level::avx512_bf16 ? 2e-2 : 0;
  cpu::Memory alone, shared;
  spoil(alone), spoil(shared);
  Conformance<Cpu<S>>({&alone}, 1e-6, product_tolerance).run();
  Threads threads(2);
  Conformance<Cpu<S>>({&shared, &threads}, 1e-6, product_tolerance).run();
}

TEST_CASE("a weight that another backend has prepared is multiplied with all the same") {
  const int rows = 5, inputs = 70, outputs = 90;
  cpu::Tensor<float> x(rows, inputs), weight(outputs, inputs), plain, y;
  initialise_normal<Cpu<float>>(x, 1, Key(1));
  initialise_normal<Cpu<float>>(weight, 1, Key(2));
  Cpu<float>::product(x, weight, plain);
  const auto same = [&] {
    Cpu<float>::product(x, weight, y);
    return Cpu<float>::download(y) == Cpu<float>::download(plain);
  };
  Cpu<bf16>::prepare(weight);
  CHECK(same());
  Cpu<float, cpu::lowest>::prepare(weight);
  CHECK(same());
  Cpu<float>::prepare(weight);
  CHECK(same());
}
