#!/usr/bin/env bash
# make demo: the main job end to end on the CPU twin, with data the project makes itself. Everything goes to build/demo.
set -euo pipefail
cd "$(dirname "$0")/.."
demo=build/demo
run() { echo "+ $*" >&2; "$@"; }

rm -rf "$demo"
mkdir -p "$demo"
run build/make_demo "$demo"
for name in reports book; do
    run build/prepare --tokenizer "$demo/model" --kind cpt --max-len 512 --out "$demo/shards/$name" "$demo/$name.jsonl" 2>>"$demo/prepare.log"
done
for name in questions exercises; do
    run build/prepare --tokenizer "$demo/model" --kind it --template llama3 --max-len 512 --out "$demo/shards/$name" "$demo/$name.jsonl" 2>>"$demo/prepare.log"
done
before=$(run build/ask_cpu --model "$demo/model" --init random --questions "$demo/test.jsonl")
run build/train_findap_cpu --model "$demo/model" --init random --recipe "$demo/recipe.json" --out "$demo/out" --log-every 25
after=$(run build/ask_cpu --model "$demo/out" --questions "$demo/test.jsonl" --show 1)

# the first and the last value of a number in a one-line JSON object or in log.jsonl, without needing jq
number() { grep -o "\"$1\": *[0-9.eE+-]*" | sed 's/.*: *//'; }
field() { sed "s/.*\"$2\": *{\([^}]*\)}.*/\1/" <<<"$1" | number "$3" | head -n 1; }
percent() { awk -v x="${1:-0}" 'BEGIN { printf "%5.1f %%", 100 * x }'; }
echo
echo "dev loss, nats a target        first      last"
for stream in reports book questions exercises; do
    values=$(number "dev_loss_${stream}[a-z_]*" <"$demo/out/log.jsonl")
    printf '  %-24s %10.4f %9.4f\n' "$stream" "$(head -n 1 <<<"$values")" "$(tail -n 1 <<<"$values")"
done
echo
# the third column is what always giving the most frequent answer would score: a type that is not above it was not learned
echo "held-out questions, exact match   untrained    trained   always the most frequent answer"
line() { printf '  %-30s %9s  %9s  %9s\n' "$1" "$(percent "$2")" "$(percent "$3")" "$(percent "$4")"; }
for type in sentiment direction profit term knowledge; do
    line $type "$(field "$before" $type exact_match)" "$(field "$after" $type exact_match)" "$(field "$after" $type most_frequent_answer)"
done
first() { number "$1" <<<"$2" | head -n 1; }
line all "$(first exact_match "$before")" "$(first exact_match "$after")" "$(first most_frequent_answer "$after")"
echo "  ($(first questions "$after") questions; answers that reached the cap without ending: $(first reached_cap "$before") untrained, $(first reached_cap "$after") trained)"
echo "  (last column: each type's own most frequent answer; \"Majority\" in the tables below: the one most frequent answer to all of them)"

# the same questions through eval: scores with errors, the difference tested row by row, all on one page. It reads models from directories, so the untrained one is written into one:
# a step at a learning rate of next to nothing
run build/train_findap_cpu --model "$demo/model" --init random --data "$demo/shards/questions" --steps 1 --seq-len 512 --step-tokens 512 --lr 1e-12 --out "$demo/untrained" --quiet
run build/eval_cpu --model "$demo/untrained" --label untrained --tasks data/demo_task.json --data "$demo" --out "$demo/eval_untrained" --quiet >/dev/null
run build/eval_cpu --model "$demo/out" --label trained --tasks data/demo_task.json --data "$demo" --out "$demo/eval_trained" --quiet
run build/eval_cpu compare "$demo/eval_untrained" "$demo/eval_trained"
run build/eval_cpu report "$demo/eval_untrained" "$demo/eval_trained" --log "$demo/out/log.jsonl" --out "$demo/report.html"

echo
echo "The adapted model is a Hugging Face directory: $demo/out  (log: $demo/out/log.jsonl; a page about it: $demo/report.html)"
