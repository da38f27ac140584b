# The paper's preset, with its real model, in pieces: interrupted, killed and ended by --minutes, each time going on in a copy of the run's
# directory. At every stop a file is at most 16 MB and the whole at most 64 MB, and the results are those of a run that never stopped.
set -u
failures=0
fail() {
  failures=$((failures + 1))
  echo "FAILED: $*"
}

# Few steps on short problems; the model, and so the size of its checkpoints, is the preset's.
settings="--set batch=8 slices=2 lanes=2 arithmetic.longest=2 arithmetic.test_shortest=2 arithmetic.test_longest=3 edit_distance.longest=2
  edit_distance.test_shortest=2 edit_distance.test_longest=3 longest_increasing_subsequence.longest=10
  longest_increasing_subsequence.test_shortest=10 longest_increasing_subsequence.test_longest=12 looped_aligned.steps=9
  looped_vanilla.steps=7 ar.steps=9 ar_relay.steps=9 checkpoint_every=2 log_every=4 evaluate.samples=2"
trainings="looped_aligned looped_vanilla ar ar_relay"

size() { # size DIR: bytes of all its files
  local total=0 bytes
  for bytes in $(find "$1" -type f -printf '%s\n'); do total=$((total + bytes)); done
  echo $total
}
largest=0 # at any stop
small() { # small DIR: as it may be kept
  [[ -z $(find "$1" -type f -size +16000000c) ]] || fail "$1 has a file of more than 16 MB: $(find "$1" -type f -size +16000000c)"
  local bytes
  bytes=$(size "$1")
  ((bytes <= 64000000)) || fail "$1 is $bytes bytes: $(find "$1" -type f -printf '%s %p; ')"
  ((bytes > largest)) && largest=$bytes
  [[ -z $(find "$1" -name '*.tmp') ]] || fail "$1 has half-written files"
  return 0
}
number=0 run=run_0
move() { # to another machine: what the directory holds, in another place
  number=$((number + 1))
  cp -r $run run_$number
  rm -rf $run run_$number/lock
  run=run_$number
}

"$RELAY" pipeline --preset paper --out whole --threads 1 $settings >out 2>err || { cat err; exit 1; }
[[ -z $(find whole/checkpoints whole/chains -type f) ]] || fail "a finished run has checkpoints or chains: $(find whole/checkpoints whole/chains)"
small whole
largest=0

parts=0
for name in $trainings; do
  for signal in TERM KILL; do
    [[ -e $run/models/$name.safetensors ]] && break
    "$RELAY" pipeline --preset paper --out $run --threads 2 $settings >out 2>err &
    pid=$!
    checkpoint=$run/checkpoints/$name.safetensors
    before=$(stat -c %i "$checkpoint" 2>/dev/null)
    while kill -0 $pid 2>/dev/null && [[ $(stat -c %i "$checkpoint" 2>/dev/null) == "$before" ]]; do sleep 0.01; done
    kill -$signal $pid 2>/dev/null
    wait $pid
    code=$?
    if [[ $signal == TERM && $code == 130 ]]; then
      small $run
      [[ -e $run/checkpoints/$name.safetensors ]] && parts=$(find $run/checkpoints -name "$name.part_*" | wc -l)
      if [[ $name == ar_relay && -e $run/checkpoints/$name.safetensors ]]; then
        ((parts >= 1)) || fail "a checkpoint of ar_relay is one file"
        echo "at a stop in ar_relay: $(size $run) bytes"
      fi
    fi
    move
  done
done

minutes=0.005
pieces=0
until "$RELAY" pipeline --preset paper --out $run --threads 2 --minutes $minutes >out 2>err; do
  code=$?
  [[ $code == 130 && $(grep -c '^relay: stopped .*; the same command goes on from there$' err) == 1 ]] || { fail "--minutes: exit code $code: $(cat err)"; break; }
  small $run
  move
  pieces=$((pieces + 1))
  minutes=$(awk "BEGIN { print $minutes * 1.3 }")
done
((pieces > 0)) || fail "the limit of minutes never ended a piece"
small $run
for file in config.json results.json diagnostics.json models/{looped_aligned,looped_vanilla,ar,ar_relay}.safetensors; do
  cmp "whole/$file" "$run/$file" || fail "$file differs"
done
lines() { sed 's/"seconds":[^,}]*//' "$1/metrics.jsonl" | sort; }
cmp <(lines whole) <(lines $run) || fail "metrics.jsonl differs"
[[ $(find $run -type f | sed "s:^$run::" | sort) == $(find whole -type f | sed 's:^whole::' | sort) ]] || fail "other files: $(find $run -type f)"

"$RELAY" pipeline --out x --minutes 0 2>err && fail "--minutes 0"
grep -q -- '--minutes' err || fail "--minutes 0: $(cat err)"
[[ ! -e x ]] || fail "--minutes 0 made a run"

echo "moved $number times, $pieces pieces ended by --minutes; at most $largest bytes at a stop; $failures failed"
((failures == 0))
