# What scripts rely on: the output of data, solve and evaluate, and the files of a run.
set -u
failures=0
fail() {
  failures=$((failures + 1))
  echo "FAILED: $*"
}
has() { grep -qE -- "$2" "$1" || { fail "$1 has no '$2':" && head -c 1500 "$1"; }; }  # has FILE PATTERN
lines() { [[ $(wc -l <"$1") == "$2" ]] || fail "$1 has $(wc -l <"$1") lines, not $2"; }
quiet() { [[ ! -s err ]] || { fail "on standard error:" && cat err; }; }

# --- --help ---
for command in "" pipeline plan solve data evaluate; do
  "$RELAY" $command --help >help 2>err || fail "relay $command --help: exit code $?"
  quiet
  has help "Usage"
done
for option in --preset --out --seed --threads --set; do "$RELAY" pipeline --help >help && has help "$option"; done
for option in --run --model --lengths --count --seed; do "$RELAY" evaluate --help >help && has help "$option"; done
for option in --task --length --count --seed --set; do "$RELAY" data --help >help && has help "$option"; done

# --- data ---
"$RELAY" data --task arithmetic --length 8 --count 1000 --seed 1 >eight 2>err || fail "data: exit code $?"
quiet
lines eight 1000
token='"([0-9]|10|[-+*/()=])"' number='"([0-9]|10)"'
tokens="\\[$token(,$token)*\\]"
line="^\\{\"task\":\"arithmetic\",\"length\":8,\"problem\":$tokens,\"rounds\":\\[$tokens(,$tokens){6},\\[$number\\]\\],\"answer\":$number\\}\$"
[[ $(grep -cE "$line" eight) == 1000 ]] || fail "a line of data: $(grep -vE "$line" eight | head -n 1)"
[[ $(grep -cE '\["("?)([0-9]|10)"\]\],"answer":"([0-9]|10)"\}$' eight) == 1000 ]] || fail "the last round of data"
[[ $(sed -E 's/.*\["([0-9]+)"\]\],"answer":"([0-9]+)"\}/\1 \2/' eight | awk '$1 != $2' | wc -l) == 0 ]] || fail "the answer is the last round"
# Nine numbers and eight operators, "=" at the end of the problem and of every round but the last.
sed -E 's/.*"problem":\[([^]]*)\].*/\1/' eight | awk -F'","' '{
  numbers = operators = 0
  for (i = 1; i <= NF; ++i) { t = $i; gsub(/"/, "", t); numbers += t ~ /^[0-9]+$/; operators += t ~ /^[-+*\/]$/ }
  t = $NF; gsub(/"/, "", t)
  if (numbers != 9 || operators != 8 || t != "=") bad++
} END { exit bad > 0 }' || fail "the problems of data"
# Every round has one operator less and still the value of the answer.
awk -v modulus=11 '
  function factor(    v) { if (t[at] == "(") { ++at; v = sum(); ++at; return v } return t[at++] }
  function product(    v, b, i) {
    for (v = factor(); t[at] == "*" || t[at] == "/";)
      if (t[at++] == "*") v = v * factor() % modulus
      else { b = factor(); for (i = 0; i < modulus && i * b % modulus != v; ++i); v = i }
    return v
  }
  function sum(    v) {
    for (v = product(); t[at] == "+" || t[at] == "-";) v = (t[at++] == "+" ? v + product() : v - product() + modulus) % modulus
    return v
  }
  {
    match($0, /"answer":"[0-9]+"/); answer = substr($0, RSTART + 10, RLENGTH - 11)
    sub(/.*"problem":\[/, ""); sub(/\]\],"answer".*/, ""); sub(/\],"rounds":\[/, ","); gsub(/"/, "")
    rounds = split($0, round, /\],\[|,\[/)
    if (rounds != 9) exit bad = 1
    for (r = 1; r <= rounds; ++r) {
      split("", t); n = split(round[r], t, ","); operators = 0
      for (i = 1; i <= n; ++i) operators += t[i] ~ /^[-+*\/]$/
      at = 1
      if (operators != 9 - r || sum() != answer || at != (r < rounds ? n : n + 1)) { print "round " r - 1 " of " NR ": " round[r]; exit bad = 1 }
    }
  }
  END { exit bad }' eight || fail "a chain of data is wrong"
"$RELAY" data --task arithmetic --length 8 --count 1000 --seed 1 | cmp - eight || fail "the same seed, other bytes"
"$RELAY" data --task arithmetic --length 8 --seed 1 | cmp - eight || fail "the default count is 1000"
"$RELAY" data --task arithmetic --length 8 --count 10 | cmp - <(head -n 10 eight) || fail "the default seed is 1; fewer are the first of more"
"$RELAY" data --task arithmetic --length 8 --count 10 --seed 2 | cmp -s - <(head -n 10 eight) && fail "another seed, the same bytes"
"$RELAY" data --task arithmetic --length 8 --count 10 --set modulus=11 | cmp - <(head -n 10 eight) || fail "the default modulus is 11"
"$RELAY" data --task arithmetic --length 3 --count 500 --set modulus=2 >two
[[ $(grep -oE '"[0-9]+"' two | sort -u | tr '\n' ' ') == '"0" "1" ' ]] || fail "modulus 2: $(grep -oE '"[0-9]+"' two | sort -u)"
"$RELAY" data --task arithmetic --length 3 --count 2000 --set modulus=13 >thirteen
[[ $(grep -oE '"[0-9]+"' thirteen | sort -u | wc -l) == 13 ]] || fail "modulus 13"
"$RELAY" data --task arithmetic --length 1 --count 20 >one
[[ $(grep -cE '"length":1,"problem":\["[0-9]+","[-+*/]","[0-9]+","="\],"rounds":\[\["[0-9]+"\]\],"answer"' one) == 20 ]] || fail "length 1"
"$RELAY" data --task arithmetic --length 1000 --count 1 >long && lines long 1

# --- A run ---
"$RELAY" pipeline --preset demo --out run --seed 3 --threads 2 --set task.modulus=5 lengths.longest=3 --set model.width=16 model.layers=1 \
  model.heads=2 batch=16 looped_aligned.steps=60 looped_vanilla.steps=20 ar.steps=60 ar_relay.steps=20 ar_relay.chains=30 \
  evaluate.samples=40 >out 2>err || { cat err; exit 1; }
has out "^length +1 +2 +3 \| +4 +5 +6 +7$"
for model in looped_aligned looped_vanilla ar ar_relay; do
  has out "^$model +([01]\.[0-9]{3} +){3}\|( +[01]\.[0-9]{3}){4}$"
  has err "^$model +[0-9]+/[0-9]+  loss .* samples/s"
  [[ -s run/models/$model.safetensors ]] || fail "run has no model $model"
done
grep -q $'[\r\x1b]' err && fail "progress for a terminal in a file"

lines run/config.json 1
has run/config.json '^\{"seed":3,"task.modulus":5,'
for key in seed task.modulus lengths.{shortest,longest,power,test_longest,split_from,extra_columns} \
  model.{width,layers,heads,hidden,dropout,rotary_base,heads_without_rotary,directional_heads,query_key_bias,positions} \
  loop.{inject,signal,normalise,window,recompute} loss.{lambda,answer_weight,over_round} adamw.{beta1,beta2,decay,clip} \
  schedule.{warm_up,final} batch lanes {looped_aligned,looped_vanilla,ar,ar_relay}.{steps,rate} ar_relay.{chains,share} \
  evaluate.samples checkpoint_every memory_limit; do
  [[ $(grep -oF "\"$key\":" run/config.json | wc -l) == 1 ]] || fail "config.json has not one $key"
done
has run/config.json '"model.width":16,.*"ar.steps":60,'

lines run/metrics.jsonl 6
has run/metrics.jsonl '^\{"stage":"looped_aligned","step":50,"samples":800,"loss":[0-9.e-]+,"value_loss":[0-9.e-]+,"structure_loss":[0-9.e-]+,"answer_loss":'
has run/metrics.jsonl '^\{"stage":"ar_relay","step":20,"samples":320,"loss":[0-9.e-]+,"value_loss":[0-9.e-]+,"structure_loss":'

for length in 4 5 6 7; do
  lines run/chains/length_0$length.jsonl 30
  has run/chains/length_0$length.jsonl "^\\{\"task\":\"arithmetic\",\"length\":$length,\"problem\":\\[.*\\],\"rounds\":\\[\\[.*\\]\\],\"answer\":\".*\"\\}$"
done
[[ $(ls run/chains | wc -l) == 4 ]] || fail "chains for $(ls run/chains)"

lines run/results.json 1
grep -qF "{\"config\":$(cat run/config.json),\"rows\":[{" run/results.json || fail "results.json does not begin with the configuration"
tr '{' '\n' <run/results.json | grep '"model"' >rows
lines rows 28 # 4 models, 1 .. longest trained + 4
ratio='(0|1|0\.[0-9]+|[0-9.]+e-[0-9]+)'
row="^\"model\":\"[a-z_]+\",\"task\":\"arithmetic\",\"length\":[1-7],\"samples\":40,\"answer_accuracy\":$ratio,\"chain_accuracy\":$ratio,\"token_accuracy\":$ratio\\}"
[[ $(grep -cE "$row" rows) == 28 ]] || fail "a row of results.json: $(grep -vE "$row" rows | head -n 1)"
for model in looped_aligned looped_vanilla ar ar_relay; do
  for length in 1 2 3 4 5 6 7; do
    [[ $(grep -cF "\"model\":\"$model\",\"task\":\"arithmetic\",\"length\":$length," rows) == 1 ]] || fail "results.json: $model at $length"
  done
done

[[ $(grep -cE '^(looped_aligned|looped_vanilla|ar|ar_relay): memory [0-9]+ MiB: parameters .*, stored$' err) == 4 ]] || fail "the memory of four trainings: $(cat err)"

# --- plan ---
"$RELAY" plan --preset demo >planned 2>err || fail "plan: exit code $?"
quiet
lines planned 5
has planned '^MiB +parameters +gradients +moments \| +stored +recomputed \| +total$'
for model in looped_aligned looped_vanilla; do has planned "^$model( +[0-9]+\.[0-9]){3} \|( +[0-9]+\.[0-9]){2} \| +[0-9]+\.[0-9] stored\$"; done
for model in ar ar_relay; do has planned "^$model( +[0-9]+\.[0-9]){3} \| +[0-9]+\.[0-9] +\| +[0-9]+\.[0-9] stored\$"; done
"$RELAY" plan | cmp - planned || fail "the default preset is demo"
"$RELAY" plan --set loop.recompute=true >planned && has planned '^looped_aligned .* recomputed$'
"$RELAY" plan --set memory_limit=1 >planned 2>err && fail "what does not fit gives exit code 0"
[[ $(grep -c ' does not fit$' planned) == 4 ]] || fail "nothing fits into 1 MiB: $(cat planned)"
has err '^relay: training looped_aligned, .* needs [0-9]+ MiB .* but the limit is 1 MiB: lower '

# --- solve ---
"$RELAY" solve --run run "(1+2)*2-1" >solved 2>err || fail "solve: exit code $?"
quiet
has solved '^\(1\+2\)\*2-1=   modulo 5, the answer is 0$'
for model in looped_aligned looped_vanilla ar ar_relay; do has solved "^$model\$"; done
# The looped model writes three rounds, and every step and answer is marked.
[[ $(sed -n '/^looped_aligned$/,/^$/p' solved | grep -cE '^ +[123]  .* (right|WRONG: .+)$') == 3 ]] || fail "three rounds: $(cat solved)"
[[ $(grep -cE '^  answer .* (right|WRONG)$' solved) == 4 ]] || fail "four answers: $(cat solved)"
[[ $(grep -cE '^ +[0-9]+  ' solved) == $(grep -cE '^ +[0-9]+  .* (right|WRONG: .+)$' solved) ]] || fail "a step without a mark"
has solved 'WRONG: expected 3\*2-1=' # a model of 60 steps is not that good
"$RELAY" solve --run run "(1+2)*2-1=" | cmp - solved || fail '"=" is optional'
"$RELAY" solve --run run " ( 1 + 2 )*2 - 1 " | cmp - solved || fail "spaces"
printf '%s\n' "(1+2)*2-1" | "$RELAY" solve --run run | cmp - solved || fail "solve from standard input"
printf '%s' "(1+2)*2-1" | "$RELAY" solve --run run --threads 3 | cmp - solved || fail "no line break at the end; threads"
"$RELAY" solve --run run 1+2 "3*(4-2)" >both
printf '1+2\n3*(4-2)\n' | "$RELAY" solve --run run | cmp - both || fail "two expressions"
has both '^3\*\(4-2\)=   modulo 5, the answer is 1$'
printf '1+2\n3*\n4+4\n' | "$RELAY" solve --run run >until 2>err && fail "a bad line gives exit code 0"
"$RELAY" solve --run run 1+2 | cmp - until || fail "the lines before a bad one are answered"
"$RELAY" solve --run run </dev/null >none 2>err || fail "nothing to solve"
[[ ! -s none ]] || fail "nothing to solve, but an answer"

# --- evaluate ---
"$RELAY" evaluate --run run --model looped_aligned --lengths 1..12 --count 30 --seed 4 >table 2>err || fail "evaluate: exit code $?"
quiet
lines table 14
[[ $(head -n 1 table) == looped_aligned ]] || fail "the name of the model"
has table '^ +length +samples +answer +chain +token$'
for length in {1..12}; do has table "^ +$length +30( +[01]\\.[0-9]{4}){3}\$"; done
"$RELAY" evaluate --run run --model looped_aligned --lengths 1..12 --count 30 --seed 4 --threads 3 | cmp - table || fail "threads change the table"
"$RELAY" evaluate --run run --model looped_aligned --lengths 5 --count 30 --seed 4 | cmp - <(sed -n '1,2p;7p' table) || fail "one length"
for model in looped_vanilla ar ar_relay; do
  "$RELAY" evaluate --run run --model $model --lengths 2..3 --count 20 >table && lines table 4
done

# --- A chain that the model's limit cuts: two steps of training do not teach a model to end one. ---
"$RELAY" pipeline --out tight --threads 1 --set lengths.longest=2 lengths.test_longest=4 model.width=8 model.layers=1 model.heads=2 \
  model.positions=41 batch=4 looped_aligned.steps=2 looped_vanilla.steps=2 ar.steps=2 ar_relay.steps=2 ar_relay.chains=5 \
  evaluate.samples=5 >out 2>err || { cat err; exit 1; }
has err '^ar_relay: [0-9]+ of 10 written chains are dropped: .* longer than 41 tokens'
"$RELAY" solve --run tight "(1+2)*(3-4)" >solved 2>err || fail "solve to the limit: exit code $?"
quiet
has solved "^ +\(cut: problem and chain came to the model's limit, model\.positions=41, before the chain ended\)\$"
"$RELAY" evaluate --run tight --model ar --lengths 3..4 --count 20 >table 2>err || fail "evaluate to the limit: exit code $?"
lines table 4
has err "^[0-9]+ of these chains were cut: problem and chain came to the model's limit, model\.positions=41\$"

# --- Products in bf16: the same bits for any number of threads, and a run keeps its precision. ---
for threads in 1 2; do
  "$RELAY" pipeline --out half$threads --threads $threads --set precision=bf16 lengths.longest=2 lengths.test_longest=3 model.width=16 \
    model.layers=1 model.heads=2 batch=8 looped_aligned.steps=20 looped_vanilla.steps=5 ar.steps=10 ar_relay.steps=5 ar_relay.chains=5 \
    evaluate.samples=5 >out 2>err || { cat err; exit 1; }
done
for file in results.json models/looped_aligned.safetensors models/ar_relay.safetensors; do
  cmp half1/$file half2/$file || fail "threads change $file in bf16"
done
"$RELAY" solve --run half1 "(1+2)*3" >solved 2>err || fail "solve in bf16: exit code $?"
quiet
"$RELAY" evaluate --run half1 --model ar --lengths 2 --count 20 >table || fail "evaluate in bf16: exit code $?"
"$RELAY" pipeline --out half1 --set precision=float32 >out 2>err && fail "another precision goes on with the run"
lines err 1

echo "$failures failed"
((failures == 0))
