# relay train on a user's own files, relay report, and what is said about mistakes in the files: each is one line that names file, line
# and field, and nothing else happens.
set -u
failures=0
fail() {
  failures=$((failures + 1))
  echo "FAILED: $*"
}
has() { grep -qE -- "$2" "$1" || fail "$1 has no line $2: $(head -c 1500 "$1")"; }

# A key is passed on: lengths 1..3 to train on, 4 and 5 only as problems, 1..5 to test with.
names=(ann ben carl dora eve finn gus hal)
passes() { # passes LENGTH FIRST: the problem, its rounds and its answer
  local length=$1 at=$2 i problem rounds='' next
  problem="the key is with ${names[at]} ."
  for ((i = 0; i < length; i++)); do
    next=$(((at + 3) % 8))
    problem+=" ${names[at]} gives it to ${names[next]} ."
    rounds+="${rounds:+,}\"${names[next]} has the key\""
    at=$next
  done
  if [[ ${3:-} == problem ]]; then
    echo "{\"problem\":\"$problem\",\"iterations\":$length}"
  else
    echo "{\"problem\":\"$problem\",\"rounds\":[$rounds],\"answer\":\"${names[at]}\"}"
  fi
}
for length in 1 2 3; do for first in 0 1 2 3 4; do passes $length $first; done; done >train.jsonl
for length in 1 2 3 4 5; do for first in 5 6; do passes $length $first; done; done >test.jsonl
for length in 4 5; do for first in 0 1 2; do passes $length $first problem; done; done >longer.jsonl
tiny="--set model.width=8 model.layers=1 model.heads=2 model.directional_heads=1 batch=4 looped_aligned.steps=60 looped_vanilla.steps=3 ar.steps=5 ar_relay.steps=3"

# --- A run ---
"$RELAY" train --data train.jsonl --test test.jsonl --problems longer.jsonl --out run --threads 2 $tiny >out 2>err || { cat err; exit 1; }
has out '^own_data: accuracy of the answer by length; trained on 1\.\.3, beyond the bar on none\.$'
has out '^length +1 +2 +3 \| +4 +5$'
for model in looped_aligned looped_vanilla ar ar_relay; do has out "^$model +([01]\.[0-9]{3} +){3}\|( +[01]\.[0-9]{3}){2}$"; done
has err '^chains of looped_aligned for own_data 4: 3 written, 3 kept, nobody knows how many of them right$'
[[ $(wc -l <run/chains/looped_aligned/own_data_05.jsonl) == 3 ]] || fail "three chains of length 5"
[[ $(grep -o '"samples":2,' run/results.json | wc -l) == 20 ]] || fail "two test problems of each of five lengths, four models"
cp run/results.json before
"$RELAY" train --data train.jsonl --test test.jsonl --problems longer.jsonl --out run --threads 1 $tiny >out 2>err || fail "again: $(cat err)"
[[ $(grep -c 'trained already' err) == 4 ]] || fail "a finished run trained again"
cmp before run/results.json || fail "the same command, other results"
passes 2 7 >>train.jsonl
"$RELAY" train --data train.jsonl --test test.jsonl --problems longer.jsonl --out run $tiny >out 2>err && fail "other data, the same run"
[[ $(wc -l <err) == 1 ]] && has err '^relay: run was begun with own_data\.content='
sed -i '$d' train.jsonl

# --- Its models solve problems that are recorded, and others that say how many rounds they take. ---
"$RELAY" solve --run run "the key is with finn . finn gives it to ann ." >solved 2>err || fail "solve: $(cat err)"
has solved 'the answer is ann$'
[[ $(grep -cE '^looped_aligned$|^looped_vanilla$|^ar$|^ar_relay$' solved) == 4 ]] || fail "four models: $(cat solved)"
"$RELAY" solve --run run "the key is with ann . ann gives it to ben . @1" >solved 2>err || fail "solve what is not recorded: $(cat err)"
has solved 'the answer is not known$'
has solved ' not known$'
"$RELAY" solve --run run "the key is with bob ." >solved 2>err && fail "an unknown word is no error"
has err "^relay: .*bob"
"$RELAY" evaluate --run run --model looped_aligned --lengths 1..5 --count 2 >table 2>err || fail "evaluate: $(cat err)"
[[ $(wc -l <table) == 7 ]] || fail "evaluate: $(cat table)"

# --- From another folder; and not with other files, whose tokens would have other numbers. ---
mkdir elsewhere
(cd elsewhere && "$RELAY" evaluate --run ../run --model ar --lengths 1 --count 2 >../table 2>../err) || fail "from another folder: $(cat err)"
tac train.jsonl >other.jsonl && mv train.jsonl kept.jsonl && mv other.jsonl train.jsonl
for command in "solve --run run finn" "evaluate --run run --model ar --lengths 1" "pipeline --out run"; do
  "$RELAY" $command >out 2>err && fail "$command: other data, and no error"
  [[ $(wc -l <err) == 1 ]] && has err '^relay: the run was begun with other examples '
done
mv kept.jsonl train.jsonl

# --- What `data` writes is data, of every task ---
for task in arithmetic edit_distance longest_increasing_subsequence; do
  "$RELAY" data --task $task --length 3 --count 20 --seed 1 >written.jsonl
  "$RELAY" data --task $task --length 4 --count 5 --seed 1 >longer_written.jsonl
  "$RELAY" train --data written.jsonl --test longer_written.jsonl --out of_$task --threads 2 $tiny >out 2>err || fail "train on $task: $(cat err)"
  [[ -s of_$task/results.json ]] || fail "no results of $task"
done

# --- The report, which needs nothing but the run ---
mv train.jsonl away.jsonl
[[ -s run/report.html ]] || fail "a run ends in a report"
rm run/report.html
"$RELAY" report --run run >tables 2>err || fail "report: $(cat err)"
[[ -s run/report.html ]] || fail "report writes the page"
has tables '^own data, trained on lengths 1 to 3$'
has tables '^claims$'
mv away.jsonl train.jsonl
grep -qE 'https?://|<script' run/report.html && fail "the report loads something"
"$RELAY" report --run nowhere >out 2>err && fail "a report of nothing"
[[ $(wc -l <err) == 1 ]] && has err '^relay: nowhere holds no run'

# --- Mistakes ---
ok='{"problem":"a b","rounds":["b"],"answer":"b"}'
printf '%s\n' '{"problem":"c a","rounds":["a"],"answer":"a"}' >good.jsonl
checks=0
# wrong WORDS LINE [FILE]: with LINE as the second of the training data, the error has WORDS, and names file and line.
wrong() {
  printf '%s\n%s\n' "$ok" "$2" >bad.jsonl
  checks=$((checks + 1))
  "$RELAY" train --data bad.jsonl --test good.jsonl --out new $tiny >out 2>err
  local code=$?
  [[ $code == 1 ]] || fail "$2: exit code $code"
  [[ $(wc -l <err) == 1 ]] || fail "$2: $(wc -l <err) lines"
  grep -qF -- "relay: bad.jsonl:2" err || fail "$2: does not name file and line: $(cat err)"
  grep -qF -- "$1" err || fail "$2: does not say '$1': $(cat err)"
  [[ ! -e new && ! -s out ]] || fail "$2: something was written"
  rm -rf new
}
wrong 'a line must be one JSON object' '{"problem":"a b",'
wrong 'must be an object' '["a b"]'
wrong 'has no "problem"' '{"rounds":["b"],"answer":"b"}'
wrong '"problem" is empty' '{"problem":"  ","rounds":["b"],"answer":"b"}'
wrong '"problem" must be a string or a list of tokens' '{"problem":7,"rounds":["b"],"answer":"b"}'
wrong 'has no "rounds"' '{"problem":"b a","answer":"b"}'
wrong '"rounds" must be a list' '{"problem":"b a","rounds":"b","answer":"b"}'
wrong '"rounds" is an empty list' '{"problem":"b a","rounds":[],"answer":"b"}'
wrong '"rounds": round 2 is empty' '{"problem":"b a","rounds":["b",""],"answer":"b"}'
wrong 'has no "answer"' '{"problem":"b a","rounds":["b"]}'
wrong '"answer" is "b a", which is 2 tokens' '{"problem":"b a","rounds":["b"],"answer":"b a"}'
wrong '"iterations" is 3, but there are 1 rounds' '{"problem":"b a","rounds":["b"],"answer":"b","iterations":3}'
wrong '"length"' '{"problem":"b a","rounds":["b"],"answer":"b","length":2}'
wrong 'which is reserved' '{"problem":"b <round>","rounds":["b"],"answer":"b"}'
wrong 'has the field "lenght", which is not known: did you mean "length"?' '{"problem":"b a","rounds":["b"],"answer":"b","lenght":7}'
wrong 'did you mean "rounds"?' '{"problem":"b a","round":["b"],"answer":"b"}'
wrong 'has a control character' '{"problem":"b a\u0000","rounds":["b"],"answer":"b"}'
wrong '"problem" has 5' '{"problem":["b",5],"rounds":["b"],"answer":"b"}'
printf '%s\n' "$ok" >bad.jsonl
"$RELAY" train --data bad.jsonl --test bad.jsonl --out new $tiny >out 2>err && fail "test data are the training data"
[[ $(wc -l <err) == 1 && ! -e new ]] && has err '^relay: .*bad\.jsonl:1'
"$RELAY" train --data bad.jsonl --test nowhere.jsonl --out new $tiny >out 2>err && fail "no such file"
[[ $(wc -l <err) == 1 && ! -e new ]] && has err '^relay: .*nowhere\.jsonl'
"$RELAY" train --data bad.jsonl --test good.jsonl --preset demo --out new >out 2>err && fail "a preset for another task"
[[ $(wc -l <err) == 1 && ! -e new ]] && has err '^relay: the preset demo is for other tasks'

echo "$checks kinds of mistake, $failures failed"
((failures == 0))
