// The main function of a test on a GPU: without one, it is skipped (exit code 77). Included by the test's file, not compiled beside it: nvcc
// takes its time for the smallest file, too.
#pragma once

#define DOCTEST_CONFIG_IMPLEMENT
#include <cstdio>

#include <relay/backend/cuda/runtime.hpp>

#include <doctest/doctest.h>

int main(int argc, char** argv) {
  if (const std::string why = relay::cuda::no_device(); !why.empty()) {
    std::printf("skipped: %s\n", why.c_str());
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
