# A run that is stopped, at any moment and in any way, ends in the same bits as one that never was; so does one with another number
# of threads. Killed (SIGKILL) five times in every stage, interrupted (SIGINT) once in every training.
set -u
failures=0
fail() {
  failures=$((failures + 1))
  echo "FAILED: $*"
}

settings="--set lengths.longest=3 model.width=16 model.layers=1 model.heads=2 model.dropout=0.1 batch=16
  looped_aligned.steps=130 looped_vanilla.steps=130 ar.steps=130 ar_relay.steps=130 checkpoint_every=7
  ar_relay.chains=400 evaluate.samples=400"
trainings="looped_aligned looped_vanilla ar ar_relay"

# Every line of the log once, whatever the order of the trainings.
lines() { sed 's/"seconds":[^,}]*//' "$1/metrics.jsonl" | sort; }

# same DIR: its results are, bit for bit, those of whole/; its log has the same lines but for the seconds.
same() {
  local file
  for file in config.json results.json diagnostics.json models/{looped_aligned,looped_vanilla,ar,ar_relay}.safetensors \
    chains/looped_aligned/arithmetic_0{4,5,6,7}.jsonl evaluation/{looped_aligned,looped_vanilla,ar,ar_relay}.json; do
    cmp "whole/$file" "$1/$file" || fail "$1/$file differs"
  done
  cmp <(lines whole) <(lines "$1") || fail "$1/metrics.jsonl differs"
  [[ -z $(find "$1/checkpoints" -name '*.safetensors') ]] || fail "$1 has a checkpoint left"
}

# stage DIR: where a run is.
stage() {
  local name
  for name in looped_aligned looped_vanilla ar; do
    [[ -e $1/models/$name.safetensors ]] || { echo $name; return; }
  done
  [[ -e $1/chains/looped_aligned/arithmetic_07.jsonl ]] || { echo chains; return; }
  [[ -e $1/models/ar_relay.safetensors ]] || { echo ar_relay; return; }
  [[ -e $1/results.json ]] && echo done || echo evaluate
}

"$RELAY" pipeline --out whole --threads 1 $settings >out 2>err || { cat err; exit 1; }
[[ $(grep -c '"stage":"ar"' whole/metrics.jsonl) == 3 ]] || fail "metrics.jsonl: $(cat whole/metrics.jsonl)"

# --- Any number of threads ---
for threads in 2 3; do
  "$RELAY" pipeline --out threads_$threads --threads $threads $settings >out 2>err || { cat err; exit 1; }
  same threads_$threads
done
"$RELAY" pipeline --out whole --threads 1 >out 2>err || fail "a finished run, again"  # does nothing anew
[[ $(grep -c 'trained already' err) == 4 ]] || fail "a finished run trained again"
same whole

# --- Killed in every stage, five times ---
# In a training: once a random number of further checkpoints has been written. Elsewhere: after a random time; where the stage was
# over before the kill came, what it wrote is taken away and it starts again, and the kill comes sooner.
declare -A kills=([looped_aligned]=0 [looped_vanilla]=0 [ar]=0 [chains]=0 [ar_relay]=0 [evaluate]=0)
RANDOM=1
kill_now() { # kill_now PID
  kill -KILL "$1" 2>/dev/null
  wait "$1" 2>/dev/null
}
identity() { stat -c %i,%y "$1" 2>/dev/null; }
wait_for_change() { # wait_for_change PID FILE: until it is written (anew) or the program ends
  local before
  before=$(identity "$2")
  while kill -0 "$1" 2>/dev/null && [[ $(identity "$2") == "$before" ]]; do sleep 0.002; done
}

run() {
  "$RELAY" pipeline --out killed --threads 2 $settings >out 2>err &
  pid=$!
}
for name in $trainings; do
  while ((kills[$name] < 5)); do
    run
    while kill -0 $pid 2>/dev/null && [[ $(stage killed) != "$name" ]]; do sleep 0.002; done
    for ((i = RANDOM % 3; i >= 0; --i)); do wait_for_change $pid killed/checkpoints/$name.safetensors; done
    sleep 0.0$((RANDOM % 10))
    kill_now $pid
    if [[ $(stage killed) == "$name" ]]; then
      kills[$name]=$((kills[$name] + 1))
    else # too late: this training once more
      rm -f killed/models/$name.safetensors
      [[ $name == ar ]] && rm -f killed/chains/*/* killed/models/ar_relay.safetensors
      rm -f killed/results.json killed/evaluation/*
    fi
  done
  if [[ $name == ar ]]; then
    pause=200
    while ((kills[chains] < 5)); do # the files that are there stay there
      run
      while kill -0 $pid 2>/dev/null && [[ $(stage killed) != chains ]]; do sleep 0.002; done
      sleep "$(printf '0.%03d' $((RANDOM % pause)))"
      kill_now $pid
      if [[ $(stage killed) == chains ]]; then
        kills[chains]=$((kills[chains] + 1))
      else
        rm -f killed/chains/*/* killed/models/ar_relay.safetensors killed/checkpoints/ar_relay.safetensors
        pause=$((pause * 2 / 3 + 1))
      fi
    done
  fi
done
pause=400
while ((kills[evaluate] < 5)); do
  run
  while kill -0 $pid 2>/dev/null && ! grep -q '^evaluating' err; do sleep 0.002; done
  [[ $(stage killed) == evaluate ]] && sleep "$(printf '0.%03d' $((RANDOM % pause)))"
  kill_now $pid
  if [[ $(stage killed) == evaluate ]]; then
    kills[evaluate]=$((kills[evaluate] + 1))
  else
    rm -f killed/results.json killed/evaluation/*
    pause=$((pause * 2 / 3 + 1))
  fi
done
"$RELAY" pipeline --out killed --threads 1 >out 2>err || { cat err; fail "resumed after kills"; }
same killed

# --- Interrupted in every training, and while it writes chains or evaluates ---
interrupted=0
for name in $trainings; do
  "$RELAY" pipeline --out stopped --threads 1 $settings >out 2>err &
  pid=$!
  while kill -0 $pid 2>/dev/null && [[ ! -e stopped/checkpoints/$name.safetensors ]]; do sleep 0.002; done
  kill -INT $pid
  wait $pid
  code=$?
  if [[ -e stopped/models/$name.safetensors && $code != 0 ]]; then # it was at its end: then in what follows
    [[ $code == 130 ]] || fail "exit code $code after SIGINT, not 130"
    continue
  fi
  [[ $code == 130 ]] || fail "exit code $code after SIGINT in $name, not 130"
  [[ $(grep -c '^relay: ' err) == 1 ]] || fail "not one line after SIGINT: $(cat err)"
  grep -qE "^relay: stopped $name after step [0-9]+ of 130; the same command goes on from there$" err || fail "SIGINT: $(cat err)"
  [[ -e stopped/checkpoints/$name.safetensors ]] || fail "no checkpoint after SIGINT in $name"
  interrupted=$((interrupted + 1))
done
((interrupted >= 2)) || fail "interrupted in $interrupted trainings only"
for ((i = 0; i < 20; ++i)); do
  "$RELAY" pipeline --out stopped --threads 1 $settings >out 2>err &
  pid=$!
  sleep "$(printf '0.%03d' $((RANDOM % 500)))"
  kill -TERM $pid 2>/dev/null
  wait $pid
  code=$?
  [[ $code == 0 ]] && break
  [[ $code == 143 ]] && continue  # before the program was at work
  [[ $code == 130 && $(grep -c '^relay: stopped .*; the same command goes on from there$' err) == 1 ]] || fail "SIGTERM: exit code $code: $(cat err)"
done
"$RELAY" pipeline --out stopped --threads 3 >out 2>err || { cat err; fail "resumed after interrupts"; }
same stopped

echo "killed: ${!kills[*]}: ${kills[*]} times; interrupted in $interrupted trainings; $failures failed"
((failures == 0))
