#!/usr/bin/env bash
# bench/gpu.sh [--only PART,...] [--minutes N] [--python PATH] [OUT_DIR]: all that a machine with a GPU can show, in one go.
#
# Builds what runs on a GPU (into build/gpu), tests it, the small tests under compute-sanitizer, too, measures it against PyTorch, and
# writes OUT_DIR/results.md (default build/gpu/results), beside it log.txt, all that was printed, and compare.json, all rates.
#
#   part      what                                                             seconds at most
#   build     the tests on a GPU, gpu_jobs and the relay program, all cores    300
#   tests     ctest -R ^gpu/                                                   120
#   bits      two trainings give the same bits                                 60
#   memcheck  conformance under compute-sanitizer: memory                      90
#   compare   bench/compare_gpu.py, PyTorch of --python (default: python3)     270
#   pipeline  the demo's whole pipeline, a tenth of its steps                  60
#   racecheck conformance under compute-sanitizer: races in shared memory      90
#   profile   what the kernels of a training step take, by nsys, else ncu      90
#   demo      the demo's whole pipeline; only where --only names it            600
#
# The parts come in this order, which is that of their worth: once N minutes (8) are over, the others are left out. What fails, or takes
# too long, is written down, and the next part begins. Exit code: 0, or 1 if a part failed, or 77 where there is no GPU.
#
# Nothing is installed: CMake finds what relay needs, or is told where by CMAKE_PREFIX_PATH in the environment.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

all=build,tests,bits,memcheck,compare,pipeline,racecheck,profile
only=$all minutes=8 python=python3 out=build/gpu/results
usage() {
  echo "usage: bench/gpu.sh [--only PART,...] [--minutes N] [--python PATH] [OUT_DIR]; parts: ${all//,/ } demo" >&2
  exit 2
}
given=0
while [ $# -gt 0 ]; do
  case $1 in
    --only|--minutes|--python)
      [ $# -ge 2 ] || usage
      printf -v "${1#--}" %s "$2"
      shift 2 ;;
    -*) usage ;;
    *)
      [ $given = 0 ] || usage
      given=1 out=$1
      shift ;;
  esac
done
[[ $minutes =~ ^[0-9]+$ ]] || usage
for part in ${only//,/ }; do
  [[ ,$all,demo, == *,"$part",* ]] || usage
done

build=build/gpu
mkdir -p "$out" "$build" || exit 1
out=$(cd "$out" && pwd)
rows=$build/rows.md shown=$build/shown.md
for file in "$out/log.txt" "$rows" "$shown"; do : >"$file"; done
end=$((SECONDS + 60 * minutes))
failed=0
for directory in "${CUDA_HOME:-/usr/local/cuda}" "${CUDA_PATH:-/usr/local/cuda}"; do  # where NVIDIA leaves its tools
  [ -d "$directory/bin" ] && PATH=$PATH:$directory/bin
done
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader 2>/dev/null | head -1)
capability=$(sed -n 's/.*, *\([0-9]*\)\.\([0-9]*\)$/\1\2/p' <<<"$gpu")
architecture=${capability:-90}
[ "$architecture" != 90 ] || architecture=90a  # with what only Hopper's tensor cores have

# --- How parts are run, and what is written of them ---

write_results() {
  {
    echo "# relay ${RELAY_COMMIT:-$(git describe --always --dirty 2>/dev/null || echo 'of no known revision')} on a GPU, $(date --iso-8601=seconds)"
    echo
    echo "* gpu, driver, memory, compute capability: ${gpu:-none}"
    echo "* machine: $(nproc) cores, $(awk '/^MemTotal/ {printf "%.0f GB", $2 / 1e6}' /proc/meminfo), $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)"
    echo "* nvcc: $(nvcc --version 2>/dev/null | sed -n 's/.*release //p' || true)"
    echo "* host compiler: $("${CXX:-c++}" --version 2>/dev/null | head -1)"
    echo "* torch: ${torch:-none}"
    echo
    echo "| part | outcome | seconds | command |"
    echo "| --- | --- | --- | --- |"
    cat "$rows"
    cat "$shown"
  } >"$out/results.md"
}

wanted() { [[ ,$only, == *,"$1",* ]]; }

note() {  # PART OUTCOME SECONDS COMMAND
  local command=${4#bash -c *set -x; }
  echo "| $1 | $2 | $3 | \`${command//|/\\|}\` |" >>"$rows"
  echo "gpu.sh: $1: $2${3:+, $3 s}"
  write_results
}

# part NAME SECONDS COMMAND...: its output goes to the log and to $build/NAME.log
part() {
  local name=$1 limit=$2 left=$((end - SECONDS)) begin=$SECONDS code
  shift 2
  wanted "$name" || return 0
  if [ $left -lt 15 ]; then
    note "$name" "left out: no time" "" "$*"
    return 1
  fi
  [ "$limit" -le $left ] || limit=$left
  timeout --kill-after=10 "$limit" "$@" >"$build/$name.log" 2>&1
  code=$?
  { echo "=== $name: $*"; tail -c 1500000 "$build/$name.log"; echo "=== $name: exit code $code"; echo; } >>"$out/log.txt"
  case $code in
    0) note "$name" ok $((SECONDS - begin)) "$*" ;;
    77) note "$name" "skipped: $(tail -n 1 "$build/$name.log")" $((SECONDS - begin)) "$*" ;;
    124|137) note "$name" "FAILED: not done after $limit s" $((SECONDS - begin)) "$*" ;;
    *) note "$name" "FAILED: exit code $code" $((SECONDS - begin)) "$*" ;;
  esac
  [ $code = 0 ] || [ $code = 77 ] || failed=1
  return $code
}

show() {  # TITLE, and on standard input what is to be shown
  { echo; echo "## $1"; echo; cat; } >>"$shown"
  write_results
}
as_text() { echo '```'; cat; echo '```'; }

# --- The parts ---

configure_and_build() {
  local targets=(bench_gpu_jobs relay_program) source name
  for source in tests/gpu/*.cpp; do
    name=$(basename "$source" .cpp)
    [ "$name" = "*" ] || targets+=("test_gpu_$name")
  done
  local generator=()
  command -v ninja >/dev/null && generator=(-G Ninja)
  cmake -S . -B $build "${generator[@]}" -DCMAKE_BUILD_TYPE=Release -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DRELAY_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES="$architecture-real" -DRELAY_BUILD_TESTS=ON -DRELAY_BUILD_EXAMPLES=ON -DRELAY_BUILD_BENCH=ON \
    -DRELAY_INSTALL=OFF || return
  local keep=()
  [ ${#generator[@]} -eq 0 ] || keep=(-- -k 0)  # what can be built is built
  cmake --build $build --parallel "${JOBS:-$(nproc)}" --target "${targets[@]}" "${keep[@]}"
}

compare() {
  local left=$((end - SECONDS))
  [ $left -lt 270 ] || left=270
  bench/compare_gpu.py --bench $build/bench/gpu_jobs --python "$python" --minutes "$(awk "BEGIN {print ($left - 8) / 60}")" --times 2 \
    --out "$out/compare"
}

pipeline() {  # ARGUMENT...
  rm -rf $build/run
  $build/examples/relay pipeline --preset demo --backend cuda --set precision=bf16 --out $build/run "$@"
}

# What the kernels of a step take: name, how often, microseconds in all.
kernels_of_step() {
  local job=$1
  if command -v nsys >/dev/null; then
    nsys profile --capture-range=cudaProfilerApi --trace=cuda --force-overwrite=true --output=$build/profile $build/bench/gpu_jobs --once "$job" &&
      nsys stats --report cuda_gpu_kern_sum --format table $build/profile.nsys-rep
  elif command -v ncu >/dev/null; then
    # Kernels one by one: what one takes without another beside it. The clocks and caches stay as they are.
    ncu --profile-from-start off --clock-control none --cache-control none --metrics gpu__time_duration.sum --csv --log-file $build/profile.csv \
      $build/bench/gpu_jobs --once "$job" && python3 - $build/profile.csv <<'PY'
import csv, re, sys
with open(sys.argv[1]) as file:
    lines = [line for line in file if line.startswith('"')]
sums, scale = {}, {"ns": 1e-3, "nsecond": 1e-3, "us": 1, "usecond": 1, "ms": 1e3, "msecond": 1e3}
for one in csv.DictReader(lines):
    if one["Metric Name"] != "gpu__time_duration.sum":
        continue
    name = re.sub(r"\(.*", "", re.sub(r"^void ", "", one["Kernel Name"]))[:110]
    calls, micro = sums.get(name, (0, 0.0))
    sums[name] = calls + 1, micro + float(one["Metric Value"].replace(",", "")) * scale[one["Metric Unit"]]
total = sum(micro for _, micro in sums.values())
print(f"{sum(calls for calls, _ in sums.values())} kernels, {total / 1e3:.2f} ms in all")
for name, (calls, micro) in sorted(sums.items(), key=lambda item: -item[1][1]):
    print(f"{micro / total:6.1%} {micro:10.0f} us {calls:6d} times {micro / calls:9.1f} us each  {name}")
PY
  else
    echo "neither nsys nor ncu is there"
    return 77
  fi
}

if wanted compare; then
  torch=$(timeout 60 "$python" -c 'import torch; print(torch.__version__)' 2>/dev/null)
fi
{ nvidia-smi 2>&1; nvcc --version 2>&1; cmake --version 2>&1 | head -1; echo "torch ${torch:-none}"; } | tee -a "$out/log.txt"
write_results

# `timeout` runs programs: a part that is a function is this script's, in a shell of its own.
export build out python architecture end
export -f configure_and_build compare pipeline kernels_of_step
# Bash counts SECONDS anew in another shell. The log shows what the function runs.
call() { printf 'SECONDS=%s; set -x; ' "$SECONDS"; printf '%q ' "$@"; }

part build 300 bash -c "$(call configure_and_build)" || tail -n 30 $build/build.log 2>/dev/null
if [ -z "$gpu" ]; then
  note "all else" "skipped: nvidia-smi shows no GPU" "" "nvidia-smi"
  [ $failed = 0 ] || exit 1
  exit 77
fi

part tests 120 ctest --test-dir $build -R '^gpu/' --output-on-failure --no-tests=error --timeout 100
wanted tests && [ -s $build/tests.log ] && tail -n 25 $build/tests.log | as_text | show "Tests"
part bits 60 $build/tests/test_gpu_cuda --test-case='*same bits*' --no-skip
sanitizer() {  # TOOL
  if command -v compute-sanitizer >/dev/null; then
    part "$1" 90 compute-sanitizer --tool "$1" --error-exitcode 1 $build/tests/test_gpu_cuda --test-case='*conforms*'
  elif wanted "$1"; then
    note "$1" "skipped: no compute-sanitizer" "" compute-sanitizer
  fi
}
sanitizer memcheck
part compare 270 bash -c "$(call compare)"
wanted compare && [ -s "$out/compare.md" ] && sed 's/^# /### /' "$out/compare.md" | show "Rates"
tenth=(--set looped_aligned.steps=1000 --set looped_vanilla.steps=100 --set ar.steps=250 --set ar_relay.steps=140 --set ar_relay.chains=250
  --set evaluate.samples=100)
part pipeline 60 bash -c "$(call pipeline "${tenth[@]}")"
wanted pipeline && [ -s $build/pipeline.log ] && tail -n 30 $build/pipeline.log | as_text | show "The demo's pipeline, a tenth of its steps"
sanitizer racecheck
step=paper/looped_training/bf16/slices:1
part profile 90 bash -c "$(call kernels_of_step $step)"
wanted profile && [ -s $build/profile.log ] && tail -n 45 $build/profile.log | as_text | show "The kernels of one step: $step"
part demo 600 bash -c "$(call pipeline)"
wanted demo && [ -s $build/demo.log ] && tail -n 30 $build/demo.log | as_text | show "The demo's pipeline"
echo "gpu.sh: $out/results.md"
exit $failed
