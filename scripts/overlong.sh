#!/usr/bin/env bash
# Answers that do not stop, and DPO that teaches to: pairs of the gold answer over the model's own overlong one, after the Open FinLLM work
# (arXiv 2504.13125: beta 1; LoRA of rank 16). On the CPU, with data the project makes itself, in about five minutes on two cores. No GPU, no Python.
#
#     1  the demo's model, trained on answers of which SHARE ramble on instead of ending: it answers, and often does not stop
#     2  asked the 250 held-out questions, greedily, at most CAP tokens an answer: exact match, and the share that reached the cap
#     3  asked ASK of the training questions; where it reached the cap: one pair, gold over what it said, cut off where it was cut off
#     4  dpo_cpu on these pairs, all weights and LoRA
#     5  asked the held-out questions again
#
# Settings (environment): SHARE, CAP, ASK, OUT, STEPS of training (the demo's recipe has 500), ALPHA (NLL of the gold answer), LR and LORA_LR, and TRAINED=1: keep the
# trained model of an earlier call.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-build/overlong} share=${SHARE:-0.55} cap=${CAP:-24} ask=${ASK:-1000} alpha=${ALPHA:-0} lr=${LR:-2e-5} lora_lr=${LORA_LR:-5e-4}
run() { echo "+ $*" >&2; "$@"; }
ask() { run build/ask_cpu --model "$1" --questions "$2" --max-new "$cap" --answers "$3"; }

if [ -z "${TRAINED:-}" ]; then
    rm -rf "$out"
    mkdir -p "$out"
    run build/make_demo "$out" --rambling "$share"
    for name in reports book; do
        run build/prepare --tokenizer "$out/model" --kind cpt --max-len 512 --out "$out/shards/$name" "$out/$name.jsonl" 2>>"$out/prepare.log"
    done
    for name in questions exercises; do
        run build/prepare --tokenizer "$out/model" --kind it --template llama3 --max-len 512 --out "$out/shards/$name" "$out/$name.jsonl" 2>>"$out/prepare.log"
    done
    run build/train_findap_cpu --model "$out/model" --init random --recipe "$out/recipe.json" --out "$out/trained" --log-every 50
fi
before=$(ask "$out/trained" "$out/test.jsonl" "$out/test_before.jsonl")

# exercises stand behind questions in train.jsonl: every n-th row, so that both are asked
awk -v n="$ask" -v rows="$(wc -l <"$out/train.jsonl")" 'int(NR * n / rows) > int((NR - 1) * n / rows)' "$out/train.jsonl" >"$out/asked.jsonl"
ask "$out/trained" "$out/asked.jsonl" "$out/asked_before.jsonl" >"$out/asked_before.json"
grep '"reached_cap":true' "$out/asked_before.jsonl" >"$out/pairs.jsonl" || { echo "overlong.sh: error: no answer reached the cap of $cap tokens ---> a larger SHARE, found $share" >&2; exit 1; }
run build/prepare --tokenizer "$out/model" --kind pref --template llama3 --max-len 512 --fields chosen=completion,rejected=answer,open=reached_cap --out "$out/shards/pairs" "$out/pairs.jsonl" 2>>"$out/prepare.log"
dpo() { run build/dpo_cpu --model "$out/trained" --pairs "$out/shards/pairs" --preset openfinllm --alpha "$alpha" --seq-len 512 --micro-rows 4 --epochs 1 --dev-pairs 50 --overwrite --log-every 10 "$@"; }
dpo --lr "$lr" --out "$out/full"
dpo --lr "$lora_lr" --lora-rank 16 --merge --out "$out/lora"
full=$(ask "$out/full" "$out/test.jsonl" "$out/test_full.jsonl")
lora=$(ask "$out/lora/merged" "$out/test.jsonl" "$out/test_lora.jsonl")

# a number of a one-line JSON object, the first of that name: of all questions
number() { grep -o "\"$2\": *[0-9.eE+-]*" <<<"$1" | sed 's/.*: *//' | head -n 1; }
line() {
    printf '  %-36s' "$1"
    for j in "$before" "$full" "$lora"; do awk -v p="$(number "$j" "$2")" -v s="$(number "$j" "$2_stderr")" -v n="$(number "$j" questions)" 'BEGIN { printf "   %3.0f  %5.1f +- %.1f %%", p * n, 100 * p, 100 * s }'; done
    echo
}
echo
echo "$(number "$before" questions) held-out questions, at most $cap tokens an answer; $(wc -l <"$out/pairs.jsonl") pairs from $ask training questions"
printf '  %-36s   %-19s   %-19s   %s\n' "" "before" "DPO, all weights" "DPO, LoRA of rank 16"
line "reached the cap without an end" overlength_ratio
line "exact match" exact_match
line "begins with the right answer" begins_right
