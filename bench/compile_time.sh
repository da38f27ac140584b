#!/usr/bin/env bash
# bench/compile_time.sh [COMPILER]: how long a user waits for the compiler, at -O2, in seconds (median of 5), against
# the budgets; exit code 1 when one is exceeded. Not a test, since times depend on the machine and on what else runs there.
set -euo pipefail
export LC_ALL=C

compiler=${1:-${CXX:-c++}}
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
eigen=$(pkg-config --cflags eigen3 2>/dev/null || echo -I/usr/include/eigen3)
echo '#include <relay/relay.hpp>' >"$scratch/include_relay.cpp"

measure() {  # measure BUDGET SOURCE WHAT
  local times=() start
  for _ in 1 2 3 4 5; do
    start=$EPOCHREALTIME
    # shellcheck disable=SC2086  # the flags are words
    "$compiler" -std=c++20 -O2 -I"$root/include" $eigen -c "$2" -o "$scratch/out.o"
    times+=("$start $EPOCHREALTIME")
  done
  printf '%s\n' "${times[@]}" | awk '{print $2 - $1}' | sort -n | sed -n 3p | awk -v budget="$1" -v what="$3" \
    '{printf "%-36s %7.2f   budget %5.1f   %s\n", what, $1, budget, $1 <= budget ? "within" : "OVER"; exit $1 > budget}' ||
    over=1
}

"$compiler" --version | head -n 1
over=0
measure 2.5 "$scratch/include_relay.cpp" '#include <relay/relay.hpp>'
measure 10 "$root/bench/compile_time/train_looped.cpp" 'train a looped model, 30 lines'
exit "$over"
