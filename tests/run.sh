#!/usr/bin/env bash
# tests/run.sh [PRESET...]: installs what is missing, then builds and runs all tests; default `release`, others `dev`,
# `asan`, `tsan`. CXX=clang++-14 tests/run.sh builds beside it, in build/<preset>-clang++-14.
set -euo pipefail
cd "$(dirname "$0")/.."

cmake/install-dependencies.sh tests

# The default is the release build, with warnings as errors: one build on which everything is tested, fast enough for the tests that train,
# and on which no warning gets past CI either. The CPU's kernels and all programs are in it as users run them; the other tests are
# compiled with -O1 (tests/CMakeLists.txt). What only `dev` adds, the assertions of Eigen and the standard library, the asan preset has as well.
jobs=$(nproc)
for preset in "${@:-release}"; do
  build=build/$preset${CXX:+-$(basename "$CXX")}
  cmake --preset "$preset" -B "$build" -DCMAKE_COMPILE_WARNING_AS_ERROR=ON
  cmake --build "$build" --parallel "$jobs" -- -k 0  # all errors, not only the first

  # g++ 12's ThreadSanitizer cannot start where the kernel randomises addresses by more than 28 bits.
  without_aslr=()
  if [ "$preset" = tsan ] && [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)" -gt 28 ]; then
    without_aslr=(setarch "$(uname -m)" --addr-no-randomize)
  fi
  "${without_aslr[@]}" ctest --test-dir "$build" --output-on-failure --no-tests=error --parallel "$jobs"
done
