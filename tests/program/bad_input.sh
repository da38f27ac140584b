# Bad input: one line that says what, where and what to do; exit code 1; no existing file harmed; never a signal.
set -u
checks=0 failures=0

tiny="--set lengths.longest=2 lengths.test_longest=4 model.width=8 model.layers=1 model.heads=2 model.positions=128 batch=4
  looped_aligned.steps=2 looped_vanilla.steps=2 ar.steps=2 ar_relay.steps=2 ar_relay.chains=5 evaluate.samples=5"

checksums() { find run other intact -type f ! -name lock -exec cksum {} + 2>/dev/null | sort; }

# wrong WORDS COMMAND...: what COMMAND says ends in one line with WORDS (before it there may be progress, of the pipeline only),
# its exit code is 1, and run/, other/ and intact/ stay as they are. Standard input is the file `input`.
wrong() {
  local words=$1 before lines
  shift
  before=$(checksums)
  timeout 120 "$@" >out 2>err <input
  local code=$?
  checks=$((checks + 1))
  lines=$(wc -l <err)
  [[ $* == *" pipeline "* ]] && lines=$(grep -vcE '^[a-z_]+: (trained already|goes on after step [0-9]+|memory [0-9]+ MiB: .*)$|^(looped_|ar).* in all$|^chains of|^evaluating' err)
  local why=
  [[ $code == 1 ]] || why="exit code $code, not 1"
  [[ $lines == 1 ]] || why="$lines lines on standard error, not 1"
  tail -n 1 err | grep -q '^relay: ' || why="no line 'relay: ...'"
  tail -n 1 err | grep -qF -- "$words" || why="does not say '$words'"
  tail -n 1 err | grep -q '[[:cntrl:]]' && why="control characters in the line"
  [[ $(tail -n 1 err | wc -c) -le 500 ]] || why="a line of more than 500 characters"
  [[ $(checksums) == "$before" ]] || why="harmed a file"
  [[ -z $why ]] && return
  failures=$((failures + 1))
  echo "FAILED: $*"
  echo "  $why:"
  head -c 2000 err | sed 's/^/  | /'
}

damaged() { rm -rf broken && cp -r run broken; }  # a copy of run/ to be damaged
same_broken() {                                   # same_broken FILE: the check before did not touch it
  cmp -s broken/"$1" kept || { failures=$((failures + 1)) && echo "FAILED: touched broken/$1"; }
}

: >input
mkdir intact && echo "a file of somebody else" >intact/file
"$RELAY" pipeline --out run --threads 1 $tiny >out 2>err || { cat err; exit 1; }
"$RELAY" pipeline --out other --threads 1 $tiny model.width=12 ar.rate=0.002 >out 2>err || { cat err; exit 1; }
relay=$RELAY

# --- Words on the command line ---
wrong "subcommand" "$relay"
wrong "unknown command 'solv'" "$relay" solv
wrong "unknown command 'two\\nlines'" "$relay" $'two\nlines'
wrong "--help" "$relay" --bogus
wrong "--out is required" "$relay" pipeline --preset demo
wrong "--run is required" "$relay" solve 1+2
wrong "--run is required" "$relay" evaluate --model ar --lengths 1..2
wrong "--model is required" "$relay" evaluate --run run --lengths 1..2
wrong "--lengths is required" "$relay" evaluate --run run --model ar
wrong "--task is required" "$relay" data --length 2
wrong "--length is required" "$relay" data --task arithmetic
wrong "--bogus" "$relay" pipeline --out new --bogus
wrong "extra" "$relay" pipeline --out new extra
wrong "--bogus" "$relay" data --task arithmetic --length 2 --bogus 3
wrong "--threads" "$relay" pipeline --out new --threads
for threads in 0 -1 1025 99999999999999999999 1.5 many ""; do
  wrong "--threads" "$relay" pipeline --out new --threads "$threads"
  wrong "--threads" "$relay" solve --run run --threads "$threads" 1+2
  wrong "--threads" "$relay" evaluate --run run --model ar --lengths 1 --threads "$threads"
done
wrong "--seed" "$relay" pipeline --out new --seed one
wrong "--seed" "$relay" data --task arithmetic --length 2 --seed 1.5
wrong "seed is 9007199254740993, but must be" "$relay" pipeline --out new --seed 9007199254740993
wrong "seed" "$relay" pipeline --out new --seed 99999999999999999999
wrong "--backend is 'gpu', but must be cpu or cuda" "$relay" pipeline --out new --backend gpu
if ! nvidia-smi -L >/dev/null 2>&1; then  # built with CUDA or without
  wrong "--backend cuda: " "$relay" pipeline --out new --backend cuda
  wrong "take the CPU backend" "$relay" solve --run run --backend cuda 1+2
fi
wrong "--out is empty" "$relay" pipeline --out ""
wrong "--run is empty" "$relay" solve --run "" 1+2
wrong "--run is empty" "$relay" evaluate --run "" --model ar --lengths 1

# --- Settings ---
wrong "unknown preset 'dmeo': there are demo, own_data, paper and small, or give the path of a file" "$relay" pipeline --out new --preset dmeo
wrong "unknown preset 'dmeo'" "$relay" pipeline --out run --preset dmeo
wrong "unknown preset 'dmeo'" "$relay" plan --preset dmeo
printf 'batch = 4\n# a comment\nbacth = 5\n' >typo.preset
for command in "pipeline --out new" plan; do
  wrong "typo.preset:3: unknown key 'bacth': did you mean 'batch'?" "$relay" $command --preset typo.preset
done
preset() { # preset TEXT WORDS
  printf "$1" >bad.preset
  wrong "bad.preset:$2" "$relay" pipeline --out new --preset bad.preset
}
preset 'batch = four\n' "1: batch must be a whole number in range, not 'four'"
preset '\nbatch\n' "2: 'batch' is not a setting: write key = value"
preset 'batch = 4\nbatch = 4\n' "2: batch is set twice"
preset 'arithmetic.longest = 4\nlengths.longest = 4\n' "2: lengths.longest is set twice"
preset 'tasks = edit_distance\ntask.modulus = 5\n' "2: unknown key 'task.modulus'"
preset 'ar.weights = 1,\n' "1: ar.weights ends in a comma"
preset '\xff\x00\x01\n' "1: "
printf 'tasks = arithmetic,sorting\n' >bad.preset
wrong "unknown task 'sorting': there are arithmetic, edit_distance and longest_increasing_subsequence" "$relay" plan --preset bad.preset
wrong "cannot read intact: Is a directory" "$relay" plan --preset intact
wrong "unknown key 'memorylimit': did you mean 'memory_limit'?" "$relay" plan --set memorylimit=8
wrong "memory_limit must be a whole number" "$relay" plan --set memory_limit=8.5
wrong "--bogus" "$relay" plan --bogus
wrong "lower the batch, or have more lanes" "$relay" plan --set batch=1048576 lanes=1
wrong "unknown preset 'a\\nb'" "$relay" pipeline --out new --preset $'a\nb'
wrong "unknown key 'modle.width': did you mean 'model.width'?" "$relay" pipeline --out new --set modle.width=8
wrong "unknown key '': did you mean" "$relay" pipeline --out new --set =8
wrong "unknown key 'a\\nb'" "$relay" pipeline --out new --set $'a\nb=8'
wrong "'batch' is not a setting: write key=value" "$relay" pipeline --out new --set batch
wrong "--set" "$relay" pipeline --out new --set
while read -r setting words; do
  wrong "${words:-${setting%%=*} must be}" "$relay" pipeline --out new --set "$setting"
done <<'END'
batch=
batch=x
batch=1.5
batch=3x
batch=0x10
batch=99999999999999999999
model.dropout=half
model.dropout=nan
model.dropout=inf
adamw.decay=1e999
loop.inject=yes
loop.inject=1
loss.over_round=max
precision=float64
batch=0 batch is 0, but must be 1 ..
batch=-3 batch is -3, but must be 1 ..
batch=1048577 batch is 1048577, but must be 1 .. 1048576
lanes=0 lanes is 0
memory_limit=-1 memory_limit is -1
memory_limit=1 but the limit is 1 MiB: lower the batch
seed=-9007199254740993 seed is -9007199254740993
task.modulus=0 modulus is 0, but must be a prime between 2 and 997
task.modulus=1 modulus is 1
task.modulus=-7 modulus is -7
task.modulus=9 modulus is 9, but must be a prime
task.modulus=1009 modulus is 1009
lengths.longest=0 lengths.longest is 0
lengths.longest=-1 lengths.longest is -1
lengths.longest=1000000 lengths.longest is 1000000
lengths.shortest=0 lengths.shortest is 0
lengths.shortest=7 lengths.shortest is 7, but must be 1 .. 6
lengths.test_longest=5 lengths.test_longest is 5, but must be 6 ..
lengths.test_longest=201 lengths.test_longest is 201
lengths.power=1e9 lengths.power is
lengths.split_from=0 lengths.split_from is 0
model.width=0 model.width is 0
model.width=65 model.width is 65, but must be a multiple of twice model.heads (4)
model.width=100000000 model.width is 100000000
model.layers=0 model.layers is 0
model.layers=1000000 model.layers is
model.heads=0 model.heads is 0
model.heads=65 model.heads is 65
model.heads_without_rotary=5 model.heads_without_rotary is 5
model.directional_heads=5 model.directional_heads is 5
model.hidden=-1 model.hidden is -1
model.dropout=1 model.dropout is 1
model.dropout=-0.1 model.dropout is -0.1
model.rotary_base=1 model.rotary_base is 1
model.query_key_bias=-1 model.query_key_bias is -1
model.positions=7 model.positions is 7
model.positions=100 model.positions is 100, but a chain of arithmetic of length 10 may have 221 tokens
loop.window=-1 loop.window is -1
loss.lambda=-1 loss.lambda is -1
loss.answer_weight=-1 loss.answer_weight is -1
adamw.beta1=1 adamw.beta1 is 1
adamw.beta2=-1 adamw.beta2 is -1
adamw.decay=-1 adamw.decay is -1
adamw.clip=-1 adamw.clip is -1
schedule.warm_up=2 schedule.warm_up is 2
schedule.final=-1 schedule.final is -1
looped_aligned.steps=0 looped_aligned.steps is 0
looped_aligned.steps=2000000000 looped_aligned.steps is 2000000000
looped_aligned.rate=0 looped_aligned.rate is 0
looped_vanilla.steps=-1 looped_vanilla.steps is -1
looped_vanilla.rate=-1 looped_vanilla.rate is -1
ar.steps=0 ar.steps is 0
ar.rate=11 ar.rate is 11
ar_relay.steps=0 ar_relay.steps is 0
ar_relay.rate=0 ar_relay.rate is 0
ar_relay.chains=0 ar_relay.chains is 0
ar_relay.chains=1000000000 ar_relay.chains is 1000000000
ar_relay.share=1.1 ar_relay.share is 1.1
evaluate.samples=0 evaluate.samples is 0
evaluate.samples=-1 evaluate.samples is -1
checkpoint_every=0 checkpoint_every is 0
tasks= tasks is empty: name at least one
tasks=sorting unknown task 'sorting': there are arithmetic, edit_distance and longest_increasing_subsequence
tasks=arithmetic,arithmetic the task arithmetic is in the mixture twice
tasks=arithmetic, tasks ends in a comma
ar.weights=1,2 ar.weights has 2 numbers, but there are 1 tasks
ar.weights=-1 ar.weights is -1
ar.weights=one
ar_self.phases=-1 ar_self.phases is -1
ar_self.chains= ar_self.chains is empty
ar_self.chains=0 ar_self.chains is 0
looped_aligned.answer=head,rounds
edit_distance.rows=both
longest_increasing_subsequence.layout=left
task.group=3 unknown key 'task.group': did you mean
END
wrong "lower model.width" "$relay" pipeline --out new --set model.width=16384 model.layers=1000
[[ -e new ]] && { failures=$((failures + 1)); echo "FAILED: bad settings made a folder"; }
wrong "was begun with seed=1, not 2: use the same settings" "$relay" pipeline --out run --seed 2
wrong "was begun with model.width=8, not 16" "$relay" pipeline --out run --set model.width=16

# --- data ---
wrong "unknown task 'sorting': there are arithmetic, edit_distance and longest_increasing_subsequence" "$relay" data --task sorting --length 3
for length in 0 -1; do
  wrong "--length is $length, but must be" "$relay" data --task edit_distance --length $length
  wrong "--length is $length, but must be" "$relay" data --task longest_increasing_subsequence --length $length
done
wrong "the longest length is 1001, but must be" "$relay" data --task edit_distance --length 1001
wrong "the longest length is 125, but must be between 1 and 124, as there are numbers below the limit of 250: raise the limit" \
  "$relay" data --task longest_increasing_subsequence --length 125
wrong "there are 27 letters" "$relay" data --task edit_distance --length 3 --set letters=27
wrong "letters must be a whole number" "$relay" data --task edit_distance --length 3 --set letters=many
wrong "the group is 0" "$relay" data --task longest_increasing_subsequence --length 3 --set group=0
wrong "the limit is 2" "$relay" data --task longest_increasing_subsequence --length 3 --set limit=2
wrong "'modulus=3' is not a setting of edit_distance: there is letters=NUMBER" "$relay" data --task edit_distance --length 3 --set modulus=3
wrong "'longest=3' is not a setting of longest_increasing_subsequence: there is group=NUMBER and limit=NUMBER" \
  "$relay" data --task longest_increasing_subsequence --length 3 --set longest=3
for length in 0 -1 1001 2000000000; do wrong "length is $length, but must be" "$relay" data --task arithmetic --length $length; done
for length in 99999999999 3.5 three; do wrong "--length" "$relay" data --task arithmetic --length "$length"; done
for count in 0 -1 1000000001; do wrong "--count is $count, but must be" "$relay" data --task arithmetic --length 3 --count $count; done
for count in 99999999999999999999 1.5 many; do wrong "--count" "$relay" data --task arithmetic --length 3 --count "$count"; done
for modulus in 0 1 4 -3 999 1000000; do
  wrong "modulus is $modulus, but must be a prime" "$relay" data --task arithmetic --length 3 --set modulus=$modulus
done
for modulus in x "" 3.5 99999999999; do
  wrong "modulus must be a whole number" "$relay" data --task arithmetic --length 3 --set modulus="$modulus"
done
wrong "'batch=3' is not a setting of arithmetic: there is modulus=PRIME" "$relay" data --task arithmetic --length 3 --set batch=3
wrong "cannot write standard output: No space left" bash -c '"$1" data --task arithmetic --length 3 >/dev/full' - "$relay"
wrong "cannot write standard output" bash -c '"$1" data --task arithmetic --length 3 >&-' - "$relay"
wrong "cannot write standard output: File too large" \
  bash -c 'ulimit -f 1; "$1" data --task arithmetic --length 3 >limited' - "$relay"

# --- solve ---
while IFS='|' read -r expression words; do
  wrong "$words" "$relay" solve --run run -- "$expression"
  printf '%s\n' "1+2" "$expression" >input
  wrong "line 2: expression" "$relay" solve --run run
  : >input
done <<'END'
1+&|column 3 ('&'): expected a number 0..4 or '('
1+x|column 3 ('x')
1 2|expected an operator
(1+2|column 5 (end): expected ')'
1+2)|column 4 (')')
()|column 2 (')')
1+|column 3 (end)
+1|column 1 ('+')
-1+2|there is no minus sign
1++2|column 3 ('+')
1+5|column 3 ('5'): the number is too large: expected 0..4 (modulus 5)
1+99999999999999999999|the number is too large
1+2=3|column 5 ('3'): expected nothing after '='
1+2==|expected nothing after '='
=|column 1 ('=')
|the expression is empty
  |the expression is empty
4|expected at least one operator
(4)|expected at least one operator
1/0|column 2 ('/'): step 1 divides by zero: 1/0=
2+3/(1-1)|step 2 divides by zero
1.5+2|column 2 ('.')
１+2|column 1
END
wrong 'column 4' "$relay" solve --run run $'1+\n\x1b[2J'
wrong 'expression' "$relay" solve --run run 1+2 $'1+\xff'
wrong "more than 1000 operators" "$relay" solve --run run "$(printf '1+%.0s' {1..2000})1"
wrong "brackets" "$relay" solve --run run "$(printf '(%.0s' {1..5000})1+1"
wrong "limit" "$relay" solve --run run "$(printf '1+%.0s' {1..100})1"
wrong "line 1" bash -c 'head -c 100000 /dev/zero | "$1" solve --run run' - "$relay"
wrong "cannot read standard input" bash -c '"$1" solve --run run <.' - "$relay"
wrong "cannot write standard output: No space left" bash -c '"$1" solve --run run 1+2 >/dev/full' - "$relay"
wrong "holds no run" "$relay" solve --run nowhere 1+2
wrong "holds no run" "$relay" solve --run intact 1+2
wrong "holds no run" "$relay" solve --run intact/file 1+2
wrong "unknown task 'sorting': there is arithmetic" "$relay" solve --run run --task sorting 1+2
wrong "unknown task 'edit_distance': there is arithmetic" "$relay" evaluate --run run --task edit_distance --model ar --lengths 1

# Several tasks: which one must be said, and each reads its own.
"$relay" pipeline --out mixed --threads 1 --set tasks=arithmetic,edit_distance arithmetic.longest=2 arithmetic.test_longest=3 edit_distance.longest=2 \
  edit_distance.test_longest=3 edit_distance.letters=3 model.width=8 model.layers=1 model.heads=2 batch=4 looped_aligned.steps=2 \
  looped_vanilla.steps=2 ar.steps=2 ar_relay.steps=2 ar_relay.chains=5 evaluate.samples=5 >out 2>err || { cat err; exit 1; }
wrong "mixed has several tasks: say which, --task arithmetic or edit_distance" "$relay" solve --run mixed 1+2
wrong "mixed has several tasks: say which, --task arithmetic or edit_distance" "$relay" evaluate --run mixed --model ar --lengths 1
for command in "solve --run mixed" "evaluate --run mixed --model ar --lengths 1"; do
  wrong "unknown task 'longest_increasing_subsequence': there are arithmetic and edit_distance" "$relay" $command --task longest_increasing_subsequence
done
while IFS='|' read -r problem words; do
  wrong "$words" "$relay" solve --run mixed --task edit_distance -- "$problem"
done <<'END'
1+2|column 1 ('1'): expected a letter a..c
ab|column 3 (end): expected a second word
ab ad|column 5 ('d'): expected a letter a..c
abca abcab|column 4 ('a'): the word is too long
|there are no words
END
wrong "expected a number" "$relay" solve --run mixed --task arithmetic "ab bc"
wrong "the length is 4, but must be" "$relay" evaluate --run mixed --model ar --task edit_distance --lengths 4

mkdir -p begun && cp run/config.json begun
wrong "no trained model yet" "$relay" solve --run begun 1+2

# --- evaluate ---
wrong "unknown model 'arr': there are looped_aligned" "$relay" evaluate --run run --model arr --lengths 1..2
wrong "unknown model '../models/ar'" "$relay" evaluate --run run --model ../models/ar --lengths 1..2
for lengths in 0..2 2..1 1..1001 1...3 1..2..3 .. 1.. ..2 a..b -1..2 1-3 "" 1..99999999999 1.5 "1 .. 2"; do
  wrong "--lengths" "$relay" evaluate --run run --model ar --lengths "$lengths"
done
for count in 0 -1 1000001; do
  wrong "--count is $count, but must be" "$relay" evaluate --run run --model ar --lengths 1 --count $count
done
wrong "--count" "$relay" evaluate --run run --model ar --lengths 1 --count many
wrong "holds no run" "$relay" evaluate --run intact --model ar --lengths 1
wrong "has no model 'ar' yet" "$relay" evaluate --run begun --model ar --lengths 1
for model in looped_aligned ar; do
  wrong "limit" "$relay" evaluate --run run --model $model --lengths 200 --count 2
done
wrong "cannot write standard output: No space left" \
  bash -c '"$1" evaluate --run run --model ar --lengths 1 --count 2 >/dev/full' - "$relay"

# --- Folders and disks ---
wrong "is a file: choose another path" "$relay" pipeline --out intact/file $tiny
wrong "is a file: choose another path" "$relay" pipeline --out intact/file/deeper $tiny
wrong "/proc" "$relay" pipeline --out /proc/run $tiny
wrong "File name too long" "$relay" pipeline --out "$(printf 'x%.0s' {1..300})" $tiny
mkdir locked && chmod 555 locked
if [[ ! -w locked ]]; then
  wrong "Permission denied" "$relay" pipeline --out locked/run $tiny
elif setpriv --reuid=65534 --regid=65534 --clear-groups true 2>/dev/null; then  # root may write anywhere: as nobody, in a folder nobody can enter
  mkdir -m 755 /tmp/relay_locked.$$
  cp "$relay" /tmp/relay_locked.$$/relay
  wrong "Permission denied" setpriv --reuid=65534 --regid=65534 --clear-groups /tmp/relay_locked.$$/relay pipeline \
    --out /tmp/relay_locked.$$/run $tiny
  rm -r /tmp/relay_locked.$$
else
  echo "skipped: a folder that nobody may write to"
fi
# A disk that is really full, where this machine lets us mount one.
mkdir disk
trap 'umount -l disk 2>/dev/null' EXIT
if mount -t tmpfs -o size=12k tmpfs disk 2>/dev/null; then
  wrong "No space left" "$relay" pipeline --out disk/run --threads 1 $tiny
  broken() { failures=$((failures + 1)) && echo "FAILED: full disk: $1"; }
  [[ -s disk/run/config.json ]] || broken "config.json is gone"
  find disk/run -name '*.tmp*' | grep -q . && broken "something half-written is left"
  mount -o remount,size=16m disk
  "$relay" pipeline --out disk/run --threads 1 >out 2>err || { broken "with room again it does not go on"; cat err; }
  cmp disk/run/results.json run/results.json || broken "with room again it ends in other results"
  umount disk
else
  echo "skipped: a full disk"
fi
mkdir -p taken/models/ar.safetensors && cp run/config.json taken
wrong "cannot read taken/models/ar.safetensors: Is a directory" "$relay" pipeline --out taken --threads 1
wrong "File too large" bash -c 'ulimit -f 4; "$1" pipeline --out full --threads 1 $2' - "$relay" "$tiny"
if ! grep -q __tsan_init "$relay"; then  # whose own start writes a file, and is killed for it
  wrong "File too large" bash -c '(ulimit -f 0 && exec "$1" pipeline --out full0 --threads 1 $2 2>&1) | cat >&2; exit ${PIPESTATUS[0]}' - "$relay" "$tiny"
fi
"$relay" pipeline --out full --threads 1 >out 2>err || { failures=$((failures + 1)); cat err; }
cmp full/results.json run/results.json || failures=$((failures + 1))  # with room again it goes on

# --- Files of a run, damaged; the damaged file must stay as it is, too ---
damage() { # damage FILE WORDS COMMAND...: with broken/FILE as `broken_file` left it
  local file=$1 words=$2
  shift 2
  cp broken/"$file" kept
  wrong "$words" "$@"
  same_broken "$file"
}
solve="$relay solve --run broken 1+2"
go_on="$relay pipeline --out broken --threads 1"
model=models/ar.safetensors
for size in 0 7 8 100 1000 $(($(stat -c %s run/$model) - 1)); do
  damaged && truncate -s "$size" broken/$model
  damage $model "broken/$model" $solve
  damage $model "broken/$model" "$relay" evaluate --run broken --model ar --lengths 1
  rm broken/results.json broken/models/ar_relay.safetensors
  damage $model "broken/$model" $go_on
done
damaged && echo "and more" >>broken/$model && damage $model "belong to no tensor" $solve
damaged && head -c 3000 /dev/urandom >broken/$model && damage $model "broken/$model" $solve
damaged && printf '\xff\xff\xff\xff\xff\xff\xff\xff' | dd of=broken/$model conv=notrunc status=none && damage $model "broken/$model" $solve
damaged && printf '\xff' | dd of=broken/$model bs=1 seek=30 conv=notrunc status=none && damage $model "broken/$model" $solve
damaged && sed -i 's/"F32"/"F33"/' broken/$model && damage $model 'dtype "F33"' $solve
damaged && sed -i 's/head\.weight/hood.weight/' broken/$model && damage $model 'there is no tensor "head.weight"' $solve
damaged && cp other/$model broken/$model && damage $model "of another model or configuration" $solve
damaged && cp run/models/looped_aligned.safetensors broken/$model && damage $model "of another model or configuration" $solve
damaged && cp run/$model broken/models/looped_aligned.safetensors &&
  damage models/looped_aligned.safetensors "of another model or configuration" $go_on

# The right shape, but another model.
damaged && cp run/models/looped_vanilla.safetensors broken/models/looped_aligned.safetensors &&
  damage models/looped_aligned.safetensors "its model is looped_vanilla, not looped_aligned" $solve

# Weights of any bits: whatever the answer, no crash.
damaged && head -c 500 /dev/zero | tr '\0' '\377' | dd of=broken/$model bs=1 seek=$(($(stat -c %s run/$model) - 500)) conv=notrunc status=none
$solve >out 2>err || { failures=$((failures + 1)); echo "FAILED: weights that are not numbers"; cat err; }

config() { damaged && sed -i "$1" broken/config.json && damage config.json "$2" $solve && damage config.json "$2" $go_on; }
config 's/.*//' "broken/config.json"
config 's/"batch":4/"batch":four/' "broken/config.json: line 1"
config 's/"batch":4/"batch":"four"/' "broken/config.json: batch must be a whole number"
config 's/"batch":4/"batch":4.5/' "broken/config.json: batch must be a whole number"
config 's/"batch":4/"batch":[4]/' "broken/config.json: batch must be a whole number"
config 's/"batch":4/"batch":-4/' "batch is -4"
config 's/"batch":4/"batsh":4/' "broken/config.json: unknown key 'batsh': did you mean 'batch'?"
config 's/"batch":4,//' '"batch"'
config 's/"batch":4,/"batch":4,"batch":4,/' "stands twice"
config 's/^/[/;s/$/]/' "broken/config.json must be an object"
config 's/}$//' "broken/config.json"
config 's/"arithmetic.modulus":5/"arithmetic.modulus":6/' "modulus is 6"
config 's/"model.width":8/"model.width":12/' "broken/models/looped_aligned.safetensors"
damaged && truncate -s 0 broken/config.json && damage config.json "broken/config.json" $go_on
damaged && rm broken/config.json && mkdir broken/config.json && wrong "cannot read broken/config.json: Is a directory" $go_on

chain=chains/looped_aligned/arithmetic_03.jsonl
chains() { # chains SED-SCRIPT WORDS: needed only where ar_relay is still to be trained
  damaged && rm broken/models/ar_relay.safetensors broken/results.json && sed -i "$1" broken/$chain && damage $chain "$2" $go_on
}
chains '3s/.\{20\}$//' "broken/$chain:3"
chains '2s/"arithmetic"/"sorting"/' "broken/$chain:2"
chains '2s/"problem":\["./"problem":["x/' "broken/$chain:2"
chains '2s/"length":3/"length":0/' "broken/$chain:2"
chains '2s/"length":3/"length":"3"/' "broken/$chain:2"
chains '4s/"answer":/"anser":/' "broken/$chain:4"
chains '1s/.*/\xff/' "broken/$chain:1"

damaged && rm broken/models/ar_relay.safetensors broken/results.json && sed -i '1s/.\{5\}$//' broken/metrics.jsonl &&
  damage metrics.jsonl "broken/metrics.jsonl" $go_on
damaged && rm broken/models/ar_relay.safetensors broken/results.json && sed -i '1s/"stage"/"stooge"/' broken/metrics.jsonl &&
  damage metrics.jsonl "broken/metrics.jsonl" $go_on

# A checkpoint of a training under way.
long="$tiny checkpoint_every=1 looped_aligned.steps=1000000"
"$relay" pipeline --out under_way --threads 1 $long >out 2>under_way.err &
first=$!
for ((i = 0; i < 600; ++i)); do [[ -e under_way/checkpoints/looped_aligned.safetensors ]] && break; sleep 0.1; done
wrong "another relay is at work in under_way: wait for it" "$relay" pipeline --out under_way --threads 1
wrong "another relay is at work in under_way" "$relay" pipeline --out under_way --threads 1 $tiny
kill -KILL $first
wait $first 2>/dev/null
checkpoint=checkpoints/looped_aligned.safetensors
under_way() { rm -rf broken && cp -r under_way broken; }
for size in 0 5 500 $(($(stat -c %s under_way/$checkpoint) - 1)); do
  under_way && truncate -s "$size" broken/$checkpoint && damage $checkpoint "broken/$checkpoint" $go_on
done
under_way && cp other/models/looped_aligned.safetensors broken/$checkpoint &&
  damage $checkpoint "of another model or configuration" $go_on
under_way && cp run/models/looped_aligned.safetensors broken/$checkpoint &&
  damage $checkpoint "holds a model without its optimiser" $go_on
under_way && sed -i 's/"step":"[0-9]/"step":"x/' broken/$checkpoint && damage $checkpoint '"step"' $go_on
under_way && sed -i 's/"meter":"\[/"meter":"{/' broken/$checkpoint && damage $checkpoint '"meter"' $go_on
under_way && sed -i 's/"looped_aligned.steps":1000000/"looped_aligned.steps":1/' broken/config.json &&
  damage $checkpoint "remove the checkpoint" $go_on

# --- A training that goes astray; memory that is not there (the sanitizers need too much of it themselves) ---
wrong "training ar: the gradient is not finite" "$relay" pipeline --out astray --threads 1 $tiny ar.rate=10 adamw.decay=10 \
  adamw.clip=0 ar.steps=100
if ! grep -q -e __asan_init -e __tsan_init "$relay"; then
  # Besides what its libraries take, which is half a gigabyte where it can compute on a GPU.
  libraries=$(ldd "$relay" | awk '$3 ~ "/" {print $3}' | xargs -r stat -Lc %s | awk '{sum += $1} END {print int(sum / 1024)}')
  wrong "not enough memory" bash -c 'ulimit -v "$3"; "$1" pipeline --out memory --threads 1 $2 batch=1000000' - "$relay" "$tiny" $((300000 + libraries))
fi

echo "$checks checks, $failures failed"
((failures == 0))
