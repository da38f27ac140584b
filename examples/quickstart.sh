#!/usr/bin/env bash
# examples/quickstart.sh EXPRESSION: from a fresh clone to the whole pipeline and a solved expression. Installs what is
# missing, builds the relay program, runs its pipeline into runs/demo (a second time it goes on where it stopped, or
# only solves), and solves EXPRESSION with every model.
set -euo pipefail

if [ $# -ne 1 ]; then
  echo "usage: examples/quickstart.sh EXPRESSION, e.g. examples/quickstart.sh \"(1+2)*2-1\"" >&2
  exit 2
fi
cd "$(dirname "$0")/.."

cmake/install-dependencies.sh
cmake --preset release -DRELAY_BUILD_TESTS=OFF -DRELAY_BUILD_BENCH=OFF
cmake --build --preset release --target relay_program
build/release/examples/relay pipeline --preset demo --out runs/demo
build/release/examples/relay solve --run runs/demo "$1"
