#!/usr/bin/env bash
# Answers that do not stop, and DPO that teaches to: pairs of the gold answer over the model's own overlong one, after the Open FinLLM work
# (arXiv 2504.13125: beta 1; LoRA of rank 16). On the CPU, with data the project makes itself, in about five minutes on two cores. No GPU, no Python.
#
#     1  the demo's model, trained twice as long on answers of which SHARE ramble on instead of ending: it answers, and often does not stop
#     2  asked the 250 held-out questions, greedily, at most CAP tokens an answer: exact match, and the share that reached the cap
#     3  asked ASK of the training questions; where it reached the cap: one pair, gold over what it said, cut off where it was cut off
#     4  dpo_cpu on these pairs, all weights and LoRA, as the preset has it but for the learning rate (alpha 0) and with the gold answer's NLL added (alpha 1)
#     5  asked the held-out questions again
#
# Settings (environment): SEED (another world), SHARE, CAP, ASK, LR, LORA_LR, EPOCHS of DPO, OUT, and TRAINED=1: keep the trained model of an earlier call.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-build/overlong} share=${SHARE:-0.4} cap=${CAP:-16} ask=${ASK:-1000} lr=${LR:-5e-5} lora_lr=${LORA_LR:-3e-4} epochs=${EPOCHS:-3}
run() { echo "+ $*" >&2; "$@"; }
ask() { run build/ask_cpu --model "$1" --questions "$2" --max-new "$cap" --answers "$3"; }

if [ -z "${TRAINED:-}" ]; then
    rm -rf "$out"
    mkdir -p "$out"
    run build/make_demo "$out" --seed "${SEED:-1}" --rambling "$share"
    # most of what is trained of the answers is rambling: twice the demo's 180 and 320 steps, or fewer of them are right than the demo's
    sed -i 's/"steps": 180/"steps": 360/; s/"steps": 320/"steps": 640/' "$out/recipe.json"
    for name in reports book; do
        run build/prepare --tokenizer "$out/model" --kind cpt --max-len 512 --out "$out/shards/$name" "$out/$name.jsonl" 2>>"$out/prepare.log"
    done
    for name in questions exercises; do
        run build/prepare --tokenizer "$out/model" --kind it --template llama3 --max-len 512 --out "$out/shards/$name" "$out/$name.jsonl" 2>>"$out/prepare.log"
    done
    run build/train_findap_cpu --model "$out/model" --init random --recipe "$out/recipe.json" --out "$out/trained" --log-every 50
fi
ask "$out/trained" "$out/test.jsonl" "$out/test_before.jsonl" >"$out/test_before.json"

# exercises stand behind questions in train.jsonl: every n-th row, so that both are asked
awk -v n="$ask" -v rows="$(wc -l <"$out/train.jsonl")" 'int(NR * n / rows) > int((NR - 1) * n / rows)' "$out/train.jsonl" >"$out/asked.jsonl"
ask "$out/trained" "$out/asked.jsonl" "$out/asked_before.jsonl" >"$out/asked_before.json"
grep '"reached_cap":true' "$out/asked_before.jsonl" >"$out/pairs.jsonl" || { echo "overlong.sh: error: no answer reached the cap of $cap tokens ---> a larger SHARE, found $share" >&2; exit 1; }
run build/prepare --tokenizer "$out/model" --kind pref --template llama3 --max-len 512 --fields chosen=completion,rejected=answer,open=reached_cap --out "$out/shards/pairs" "$out/pairs.jsonl" 2>>"$out/prepare.log"
dpo() {   # NAME, flags
    local name=$1 model=$out/$1
    shift
    run build/dpo_cpu --model "$out/trained" --pairs "$out/shards/pairs" --preset openfinllm --epochs "$epochs" --seq-len 512 --micro-rows 4 --dev-pairs 50 --overwrite --log-every 10 --out "$model" "$@"
    [ -d "$model/merged" ] && model=$model/merged
    ask "$model" "$out/test.jsonl" "$out/test_$name.jsonl" >"$out/test_$name.json"
}
for alpha in 0 1; do
    dpo "full_alpha$alpha" --lr "$lr" --alpha "$alpha"
    dpo "lora_alpha$alpha" --lr "$lora_lr" --alpha "$alpha" --lora-rank 16 --merge
done

# a number of a one-line JSON object, the first of that name: of all questions
number() { grep -o "\"$2\": *[0-9.eE+-]*" "$1" | sed 's/.*: *//' | head -n 1; }
line() {
    printf '  %-30s' "$2"
    for what in overlength_ratio exact_match begins_right; do
        awk -v p="$(number "$1" $what)" -v s="$(number "$1" ${what}_stderr)" 'BEGIN { printf "   %5.1f +- %.1f %%", 100 * p, 100 * s }'
    done
    echo
}
echo
echo "$(number "$out/test_before.json" questions) held-out questions, at most $cap tokens an answer; $(wc -l <"$out/pairs.jsonl") pairs from $(wc -l <"$out/asked.jsonl") training questions"
printf '  %-30s   %-15s  %-15s  %s\n' "" "no end by the cap" "exact match" "begins with the right answer"
line "$out/test_before.json" "before"
for alpha in 0 1; do
    line "$out/test_full_alpha$alpha.json" "DPO, all weights, alpha $alpha"
    line "$out/test_lora_alpha$alpha.json" "DPO, LoRA of rank 16, alpha $alpha"
done
