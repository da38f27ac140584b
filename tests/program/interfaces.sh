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
for option in --run --task --threads; do "$RELAY" solve --help >help && has help "$option"; done
for option in --preset --out --seed --threads --set; do "$RELAY" pipeline --help >help && has help "$option"; done
for option in --run --model --task --lengths --count --seed; do "$RELAY" evaluate --help >help && has help "$option"; done
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

# data of words: the rows of the table, the answer at the end of the last.
"$RELAY" data --task edit_distance --length 6 --count 500 --seed 2 >words 2>err || fail "data of words: exit code $?"
quiet
lines words 500
round='\["[0-9]+"(,"[0-9]+")*,","\]'
line="^\\{\"task\":\"edit_distance\",\"length\":6,\"problem\":\\[(\"[a-z]\",){6}\"\\|\",(\"[a-z]\",){6,8}\"<sep>\"\\],\"rounds\":\\[$round(,$round){5}\\],\"answer\":\"[0-9]+\"\\}\$"
[[ $(grep -cE "$line" words) == 500 ]] || fail "a line of words: $(grep -vE "$line" words | head -n 1)"
sed -E 's/","/ /g; s/^.*"problem":\["(.*)"\],"rounds":\[\["(.*)"\]\],"answer":"([0-9]+)"\}$/\1;\2;\3/; s/"\],\["/;/g' words | awk -F';' '{
  n = split($1, p, " "); bar = 0
  for (i = 1; i <= n; ++i) if (p[i] == "|") bar = i
  m = n - bar - 1
  for (j = 0; j <= m; ++j) above[j] = j
  for (i = 1; i < bar; ++i) {
    row = ""; d[0] = i
    for (j = 1; j <= m; ++j) {
      d[j] = above[j - 1] + (p[i] == p[bar + j] ? 0 : 3)
      if (above[j] + 2 < d[j]) d[j] = above[j] + 2
      if (d[j - 1] + 2 < d[j]) d[j] = d[j - 1] + 2
      row = row d[j] " "
    }
    if (row "," != $(i + 1)) { print "row " i " of " NR ": " $(i + 1) ", not " row; exit bad = 1 }
    for (j = 0; j <= m; ++j) above[j] = d[j]
  }
  if (NF != bar + 1 || above[m] != $NF) { print NR ": " $0; exit bad = 1 }
} END { exit bad }' || fail "a table of words is wrong"
"$RELAY" data --task edit_distance --length 6 --count 500 --seed 2 | cmp - words || fail "words: the same seed, other bytes"
"$RELAY" data --task edit_distance --length 6 --count 50 --seed 3 | cmp -s - <(head -n 50 words) && fail "words: another seed, the same bytes"
"$RELAY" data --task edit_distance --length 6 --count 50 --seed 2 --set letters=26 | cmp - <(head -n 50 words) || fail "the default letters are 26"
"$RELAY" data --task edit_distance --length 6 --count 300 --set letters=3 >abc
[[ $(grep -oE '"[a-z]"' abc | sort -u | tr '\n' ' ') == '"a" "b" "c" ' ]] || fail "3 letters: $(grep -oE '"[a-z]"' abc | sort -u)"

# data of numbers: ten values a round, the last filled up; the answer is the largest.
"$RELAY" data --task longest_increasing_subsequence --length 25 --count 300 --seed 2 >numbers 2>err || fail "data of numbers: exit code $?"
quiet
lines numbers 300
round='\[("[0-9]+",){10}"<sep>"\]'
line="^\\{\"task\":\"longest_increasing_subsequence\",\"length\":25,\"problem\":\\[(\"[0-9]+\",){25}\"<sep>\"\\],\"rounds\":\\[$round,$round,$round\\],\"answer\":\"[0-9]+\"\\}\$"
[[ $(grep -cE "$line" numbers) == 300 ]] || fail "a line of numbers: $(grep -vE "$line" numbers | head -n 1)"
sed -E 's/","/ /g; s/^.*"problem":\["(.*) <sep>"\],"rounds":\[\["(.*) <sep>"\]\],"answer":"([0-9]+)"\}$/\1;\2;\3/; s/ <sep>"\],\["/ /g' numbers | awk -F';' '{
  n = split($1, p, " "); count = split($2, value, " "); most = 0
  for (i = 1; i <= n; ++i) {
    if (p[i] > 249 || p[i] < 26) { print "number " p[i] " of " NR; exit bad = 1 }
    best = 0
    for (j = 1; j < i; ++j) if (p[j] + 0 < p[i] + 0 && value[j] + 0 > best) best = value[j] + 0
    if (value[i] != best + 1) { print "value " i " of " NR ": " value[i]; exit bad = 1 }
    if (value[i] + 0 > most) most = value[i] + 0
  }
  for (i = n + 1; i <= count; ++i) if (value[i] != value[n]) { print "filled " i " of " NR; exit bad = 1 }
  if (n != 25 || count != 30 || most != $3) { print NR ": " $0; exit bad = 1 }
} END { exit bad }' || fail "a chain of numbers is wrong"
"$RELAY" data --task longest_increasing_subsequence --length 25 --count 300 --seed 2 | cmp - numbers || fail "numbers: the same seed, other bytes"
"$RELAY" data --task longest_increasing_subsequence --length 25 --count 50 --seed 3 | cmp -s - <(head -n 50 numbers) && fail "numbers: another seed"
"$RELAY" data --task longest_increasing_subsequence --length 25 --count 50 --seed 2 --set group=10 limit=250 | cmp - <(head -n 50 numbers) ||
  fail "the defaults are group=10 and limit=250"
"$RELAY" data --task longest_increasing_subsequence --length 6 --count 20 --set group=3 limit=14 >few
[[ $(grep -cE '"rounds":\[\[("[0-9]+",){3}"<sep>"\],\[("[0-9]+",){3}"<sep>"\]\]' few) == 20 ]] || fail "groups of 3: $(head -n 1 few)"

# --- A run ---
"$RELAY" pipeline --preset demo --out run --seed 3 --threads 2 --set task.modulus=5 lengths.longest=3 --set model.width=16 model.layers=1 \
  model.heads=2 batch=16 looped_aligned.steps=60 looped_vanilla.steps=20 ar.steps=60 ar_relay.steps=20 ar_relay.chains=30 \
  evaluate.samples=40 >out 2>err || { cat err; exit 1; }
has out "^arithmetic: accuracy of the answer by length; trained on 1..3, beyond the bar on none\.$"
has out "^length +1 +2 +3 \| +4 +5 +6 +7$"
for model in looped_aligned looped_vanilla ar ar_relay; do
  has out "^$model +([01]\.[0-9]{3} +){3}\|( +[01]\.[0-9]{3}){4}$"
  has err "^$model +[0-9]+/[0-9]+  loss .* samples/s"
  [[ -s run/models/$model.safetensors ]] || fail "run has no model $model"
done
grep -q $'[\r\x1b]' err && fail "progress for a terminal in a file"

lines run/config.json 1
has run/config.json '^\{"seed":3,"tasks":\["arithmetic"\],"arithmetic.modulus":5,'
for key in seed tasks arithmetic.{modulus,shortest,longest,power,test_shortest,test_longest,split_from,share} lengths.extra_columns \
  model.{width,layers,heads,hidden,dropout,rotary_base,heads_without_rotary,directional_heads,query_key_bias,distance_bias,positions,ordered_numbers} \
  loop.{inject,signal,normalise,window,recompute} loss.{lambda,answer_weight,over_round} adamw.{beta1,beta2,decay,clip} \
  schedule.{warm_up,final} batch lanes {looped_aligned,looped_vanilla,ar,ar_relay,ar_self}.{steps,rate,weights} looped_aligned.answer ar_relay.{chains,share} ar_self.{phases,chains} \
  evaluate.samples checkpoint_every memory_limit precision; do
  [[ $(grep -oF "\"$key\":" run/config.json | wc -l) == 1 ]] || fail "config.json has not one $key"
done
grep -qE '"(edit_distance|longest_increasing_subsequence)\.' run/config.json && fail "config.json has keys of other tasks"
has run/config.json '"model.width":16,.*"ar.steps":60,'

lines run/metrics.jsonl 6
has run/metrics.jsonl '^\{"stage":"looped_aligned","step":50,"samples":800,"loss":[0-9.e-]+,"value_loss":[0-9.e-]+,"structure_loss":[0-9.e-]+,"answer_loss":'
has run/metrics.jsonl '^\{"stage":"ar_relay","step":20,"samples":320,"loss":[0-9.e-]+,"value_loss":[0-9.e-]+,"structure_loss":'

for length in 4 5 6 7; do
  lines run/chains/looped_aligned/arithmetic_0$length.jsonl 30
  has run/chains/looped_aligned/arithmetic_0$length.jsonl "^\\{\"task\":\"arithmetic\",\"length\":$length,\"problem\":\\[.*\\],\"rounds\":\\[\\[.*\\]\\],\"answer\":\".*\"\\}$"
done
[[ $(ls run/chains run/chains/looped_aligned | wc -w) == 7 ]] || fail "chains for $(ls run/chains/*)"
[[ $(grep -cE '^chains of looped_aligned for arithmetic [4-7]: 30 written, 30 kept, [0-9.e-]+ of them right$' err) == 4 ]] || fail "chains: $(cat err)"
for model in looped_aligned looped_vanilla ar ar_relay; do
  has err "^evaluating $model on 40 problems of each length$"
  [[ -s run/evaluation/$model.json ]] || fail "no evaluation of $model"
done
has run/diagnostics.json '^\{"entries":\[\{"model":"looped_aligned","task":"arithmetic","length":1,"samples":40,"rounds":\[\['
has run/diagnostics.json '"gallery":\[\{"model":"looped_aligned","task":"arithmetic","length":3,"problem":"'
has run/diagnostics.json '"claims":\[\{"claim":1,"task":"arithmetic","text":"'
has run/machine.json '^\{"cpu":".*","date":"20..-..-..","seconds":\{"looped_aligned":[0-9.e-]+,'

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
"$RELAY" plan --backend cuda >planned_gpu || fail "plan --backend cuda: exit code $?"  # with a GPU and without
lines planned_gpu 5
cmp -s planned planned_gpu && fail "a GPU keeps other things than a CPU"
"$RELAY" plan --set loop.recompute=true >planned && has planned '^looped_aligned .* recomputed$'
"$RELAY" plan --set memory_limit=1 >planned 2>err && fail "what does not fit gives exit code 0"
[[ $(grep -c ' does not fit$' planned) == 4 ]] || fail "nothing fits into 1 MiB: $(cat planned)"
has err '^relay: training looped_aligned, .* needs [0-9]+ MiB .* but the limit is 1 MiB: lower '

# --- solve ---
"$RELAY" solve --run run "(1+2)*2-1" >solved 2>err || fail "solve: exit code $?"
quiet
has solved '^\(1\+2\)\*2-1=   modulus=5, the answer is 0$'
for model in looped_aligned looped_vanilla ar ar_relay; do has solved "^$model\$"; done
# The looped model writes three rounds, and every step and answer is marked.
[[ $(sed -n '/^looped_aligned$/,/^$/p' solved | grep -cE '^ +[123]  .* (right|WRONG: .+)$') == 3 ]] || fail "three rounds: $(cat solved)"
[[ $(grep -cE '^  answer .* (right|WRONG)$' solved) == 4 ]] || fail "four answers: $(cat solved)"
[[ $(grep -cE '^ +[0-9]+  ' solved) == $(grep -cE '^ +[0-9]+  .* (right|WRONG: .+)$' solved) ]] || fail "a step without a mark"
has solved 'WRONG: expected 3\*2-1=' # a model of 60 steps is not that good
"$RELAY" solve --run run --task arithmetic "(1+2)*2-1" | cmp - solved || fail "--task of the only task"
"$RELAY" solve --run run "(1+2)*2-1=" | cmp - solved || fail '"=" is optional'
"$RELAY" solve --run run " ( 1 + 2 )*2 - 1 " | cmp - solved || fail "spaces"
printf '%s\n' "(1+2)*2-1" | "$RELAY" solve --run run | cmp - solved || fail "solve from standard input"
printf '%s' "(1+2)*2-1" | "$RELAY" solve --run run --threads 3 | cmp - solved || fail "no line break at the end; threads"
"$RELAY" solve --run run 1+2 "3*(4-2)" >both
printf '1+2\n3*(4-2)\n' | "$RELAY" solve --run run | cmp - both || fail "two expressions"
has both '^3\*\(4-2\)=   modulus=5, the answer is 1$'
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

# --- A mixture of all tasks, from a preset in a file ---
cat >mixed.preset <<'END'
# Small enough for a test.
tasks = arithmetic,edit_distance,longest_increasing_subsequence
arithmetic.longest = 2
arithmetic.test_longest = 3
edit_distance.longest = 3   # letters
edit_distance.letters = 4
edit_distance.rows = differences
edit_distance.test_longest = 4
longest_increasing_subsequence.longest = 5
longest_increasing_subsequence.test_longest = 6
longest_increasing_subsequence.group = 3
longest_increasing_subsequence.limit = 30
longest_increasing_subsequence.layout = in_place
model.width = 16
model.layers = 1
model.heads = 2
model.ordered_numbers = true
looped_aligned.answer = rounds
batch = 16
looped_aligned.steps = 20
looped_vanilla.steps = 5
ar.steps = 20
ar_relay.steps = 5
ar_relay.chains = 10
ar_self.phases = 1
ar_self.steps = 5
ar_self.chains = 10
evaluate.samples = 10
END
"$RELAY" pipeline --preset mixed.preset --out mixed --threads 2 --set ar.steps=10 >out 2>err || { cat err; exit 1; }
has mixed/config.json '^\{"seed":1,"tasks":\["arithmetic","edit_distance","longest_increasing_subsequence"\],"arithmetic.modulus":5,.*"ar.steps":10,'
[[ $(grep -cE '^[a-z_]+: accuracy of the answer by length; trained on ' out) == 3 ]] || fail "a table of each task: $(cat out)"
has out "^length +1 +2 \| +3$"
has out "^length +1 +2 +3 \| +4$"
has out "^length +3 +4 +5 \| +6$"
for model in looped_aligned looped_vanilla ar ar_relay ar_self_loop ar_self_truth; do
  [[ $(grep -cE "^$model( +[01]\.[0-9]{3})+ \| +[01]\.[0-9]{3}$" out) == 3 ]] || fail "$model is not in three tables: $(cat out)"
done
for file in arithmetic_03 edit_distance_04 longest_increasing_subsequence_06; do
  lines mixed/chains/looped_aligned/$file.jsonl 10
  [[ -e mixed/chains/ar_self_loop/$file.jsonl && -e mixed/chains/ar_self_truth/$file.jsonl ]] || fail "own chains: $(ls mixed/chains/*)"
done
has mixed/chains/looped_aligned/edit_distance_04.jsonl '^\{"task":"edit_distance","length":4,"problem":\["[a-d]","[a-d]","[a-d]","[a-d]","\|",'
"$RELAY" pipeline --preset mixed.preset --out mixed >out 2>err || fail "a finished mixture, again"
"$RELAY" plan --preset mixed.preset >planned 2>err || fail "plan of a mixture: exit code $?"
lines planned 5

"$RELAY" solve --run mixed --task edit_distance "ab cab" >solved 2>err || fail "solve of words: exit code $?"
quiet
has solved '^ab\|cab <sep>   letters=4,rows=differences, the answer is 1$'
[[ $(sed -n '/^looped_aligned$/,/^$/p' solved | grep -cE '^ +[12]  .* (right|WRONG: .+)$') == 2 ]] || fail "two rounds: $(cat solved)"
[[ $(grep -cE '^  answer .* (right|WRONG)$' solved) == 6 ]] || fail "six answers: $(cat solved)"
printf 'ab cab\n' | "$RELAY" solve --run mixed --task edit_distance | cmp - solved || fail "words from standard input"
"$RELAY" solve --run mixed --task longest_increasing_subsequence "3 1 4 1 5" >solved 2>err || fail "solve of numbers: exit code $?"
has solved '^3 1 4 1 5 <sep>   group=3,limit=30,layout=in_place, the answer is 3$'
"$RELAY" solve --run mixed --task arithmetic "1+2" >solved 2>err || fail "solve of a sum: exit code $?"
has solved '^1\+2=   modulus=5, the answer is 3$'
"$RELAY" evaluate --run mixed --model looped_aligned --task longest_increasing_subsequence --lengths 1..6 --count 10 >table 2>err || fail "evaluate a mixture"
lines table 8
for threads in 1 3; do
  "$RELAY" evaluate --run mixed --model ar_self_loop --task edit_distance --lengths 4 --count 10 --threads $threads >table_$threads || fail "evaluate words"
done
cmp table_1 table_3 || fail "threads change the table of words"

echo "$failures failed"
((failures == 0))
