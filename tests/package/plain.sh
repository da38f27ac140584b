#!/bin/sh
# plain.sh COMPILER MAIN RELAY_INCLUDE EIGEN_INCLUDE: no build system at all.
set -eu
"$1" -std=c++20 -I"$3" -I"$4" "$2" -o consumer -pthread
./consumer
