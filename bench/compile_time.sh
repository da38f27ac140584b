#!/usr/bin/env bash
# bench/compile_time.sh [COMPILER]: how long a user waits for the compiler, at -O2, in seconds (median of 5), against
# the budgets. Measures and prints; judges nothing by its exit code, since times depend on the machine.
set -euo pipefail

compiler=${1:-${CXX:-c++}}
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
eigen=$(pkg-config --cflags eigen3 2>/dev/null || echo -I/usr/include/eigen3)
echo '#include <relay/relay.hpp>' >"$scratch/include_relay.cpp"

TIMEFORMAT=%R
measure() {  # measure BUDGET SOURCE WHAT
  local times=() median verdict
  for _ in 1 2 3 4 5; do
    # shellcheck disable=SC2086  # the flags are words
    times+=("$({ time "$compiler" -std=c++20 -O2 -I"$root/include" $eigen -c "$2" -o "$scratch/out.o" >&2; } 2>"$scratch/said" \
      && tail -n 1 "$scratch/said" || { cat "$scratch/said" >&2; exit 1; })")
  done
  median=$(printf '%s\n' "${times[@]}" | sort -n | sed -n 3p)
  verdict=$(awk -v t="$median" -v b="$1" 'BEGIN {print t <= b ? "within" : "OVER"}')
  printf '%-36s %7.2f   budget %5.1f   %s\n' "$3" "$median" "$1" "$verdict"
}

"$compiler" --version | head -n 1
measure 2.5 "$scratch/include_relay.cpp" '#include <relay/relay.hpp>'
measure 10 "$root/bench/compile_time/train_looped.cpp" 'train a looped model, 30 lines'
