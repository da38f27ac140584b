# examples/deduction.py: the same seed gives the same files, another seed others, and no test problem is trained on.
set -eu
command -v python3 >/dev/null || exit 77
script=$(dirname "$0")/../../examples/deduction.py

python3 "$script" a
python3 "$script" b 1
python3 "$script" c 2
diff -r a b
if cmp -s a/test.jsonl c/test.jsonl; then exit 1; fi
[[ $(wc -l <a/train.jsonl) == 10000 && $(wc -l <a/test.jsonl) == 900 && $(wc -l <a/longer.jsonl) == 3000 ]]
problems() { sed 's/^{"problem": "\([^"]*\)".*/\1/' "$1" | sort -u; }
[[ -z $(comm -12 <(problems a/test.jsonl) <(problems a/train.jsonl)) ]]
[[ -z $(comm -12 <(problems a/test.jsonl) <(problems a/longer.jsonl)) ]]
[[ $(problems a/test.jsonl | wc -l) == 900 ]]

if python3 "$script" 2>err; then exit 1; fi
grep -q '^usage: ' err
if python3 "$script" a b 2>err; then exit 1; fi
grep -q '^usage: ' err
echo "deduction.py: all checks passed"
