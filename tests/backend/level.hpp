// Tests that are included once for every level of the instruction set (backend/cpu/each_level.hpp): each begins with
//
//   TEST_CASE("what it checks" * at_level(Level::RELAY_CPU_LEVEL))
//
// which adds the level to the name, since doctest drops a second test of the same name and line, and skips it where this machine
// lacks the level.
#pragma once

#include <relay/backend/cpu/levels.hpp>

#include <deque>
#include <string>

#include <doctest/doctest.h>

inline const char* name_of(relay::cpu::Level level) {
  static constexpr const char* names[] = {"base", "avx2", "avx512", "avx512_bf16", "amx_bf16"};
  return names[static_cast<int>(level)];
}

/// A decorator of doctest's.
struct at_level {
  relay::cpu::Level level;

  explicit constexpr at_level(relay::cpu::Level l) : level(l) {}

  void fill(doctest::detail::TestCase& test) const {
    static std::deque<std::string> names;  // doctest keeps pointers
    test.m_name = names.emplace_back(std::string(test.m_name) + " [" + name_of(level) + "]").c_str();
    test.m_skip = test.m_skip || level > relay::cpu::machine_level();
  }
};
