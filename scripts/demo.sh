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
field() { sed "s/.*\"$2\": *{\([^}]*\)}.*/\1/" <<<"$1" | number exact_match | head -n 1; }
percent() { awk -v x="${1:-0}" 'BEGIN { printf "%5.1f %%", 100 * x }'; }
echo
echo "dev loss, nats a target        first      last"
for stream in reports book questions exercises; do
    values=$(number "dev_loss_${stream}[a-z_]*" <"$demo/out/log.jsonl")
    printf '  %-24s %10.4f %9.4f\n' "$stream" "$(head -n 1 <<<"$values")" "$(tail -n 1 <<<"$values")"
done
echo
echo "held-out questions, exact match    untrained   trained"
for type in sentiment direction profit term knowledge; do
    printf '  %-30s %10s %10s\n' "$type" "$(percent "$(field "$before" $type)")" "$(percent "$(field "$after" $type)")"
done
printf '  %-30s %10s %10s   (of %s; answers that never ended: %s)\n' all "$(percent "$(number exact_match <<<"$before" | head -n 1)")" \
    "$(percent "$(number exact_match <<<"$after" | head -n 1)")" "$(number questions <<<"$after" | head -n 1)" "$(number reached_cap <<<"$after")"
echo
echo "The adapted model is a Hugging Face directory: $demo/out  (log: $demo/out/log.jsonl)"
