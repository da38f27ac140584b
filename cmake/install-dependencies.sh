#!/usr/bin/env bash
# cmake/install-dependencies.sh [tests]: installs with apt-get what this machine lacks to build the relay program, or
# with `tests` also tests, examples and benchmarks. Calls apt-get only when something is missing.
set -euo pipefail

missing=()
need_command() { command -v "$1" >/dev/null || missing+=("$2"); }                                  # COMMAND PACKAGE
need_file() {                                                                                       # PACKAGE FILE...
  local package=$1
  shift
  for file in "$@"; do [ -e "/usr/include/$file" ] || [ -e "/usr/local/include/$file" ] || continue; return 0; done
  missing+=("$package")
}

need_command "${CXX:-c++}" "${CXX:-g++}"
need_command cmake cmake
need_command ninja ninja-build
need_file libeigen3-dev eigen3/Eigen/Core
need_file libcli11-dev CLI/CLI.hpp
if [ "${1:-}" = tests ]; then
  need_command pkg-config pkg-config
  need_file doctest-dev doctest/doctest.h
  need_file libbenchmark-dev benchmark/benchmark.h
fi
[ ${#missing[@]} -gt 0 ] || exit 0

# CXX names a command; its Debian package is called alike, but for clang++.
missing=("${missing[@]/clang++/clang}")

if ! command -v apt-get >/dev/null; then
  echo "relay needs what Debian calls: ${missing[*]}. There is no apt-get here: install them and run this again." >&2
  exit 1
fi
if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  echo "relay needs: ${missing[*]}. Run this as root, or install them first: apt-get install ${missing[*]}" >&2
  exit 1
fi

echo "installing ${missing[*]}"
"${as_root[@]}" apt-get -qq update
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
