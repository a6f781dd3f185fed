#!/usr/bin/env bash
# make demo-align: the generative reward model end to end on the CPU twin, with data the project makes itself. No GPU, no Python, no network. Everything goes to build/demo_align.
#
#     1  a tiny model learns sums in two steps, of which SHARE ramble on instead of ending, and to name and correct the first wrong step of such a sum
#     2  asked the held-out questions, greedily: the share that is right and ended, and the overlength ratio
#     3  sample -> judge -> correct -> pairs: N answers to each of ASK other questions, none of them trained on; FAP, SCP and overlong pairs of them
#     4  prepare, dpo
#     5  asked the held-out questions again
#
# Who judges is the verifier (judge --mode verify): these answers can be checked, and so tiny a model is no judge of sums that it gets wrong itself. Corrections are the model's
# own: it is shown the reference, and genrm believes only what it finds in the answer again.
#
# Settings (environment): SEED, SHARE, CAP (tokens of an answer), ASK, N, LR, EPOCHS of DPO, OUT, and TRAINED=1: keep the trained model of an earlier call.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-build/demo_align} share=${SHARE:-0.3} cap=${CAP:-44} asked=${ASK:-250} n=${N:-6} lr=${LR:-2e-4} epochs=${EPOCHS:-4}
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}   # where other programs run too, threads that spin at barriers cost several times their work
run() { echo "+ $*" >&2; "$@"; }
number() { grep -o "\"$2\": *[0-9.eE+-]*" "$1" | sed 's/.*: *//' | head -n 1; }   # a number of a one-line JSON object, the first of that name
genrm() { run build/genrm_cpu "$@"; }

if [ -z "${TRAINED:-}" ]; then
    rm -rf "$out"
    mkdir -p "$out"
    run build/make_demo "$out" --steps --rambling "$share" --seed "${SEED:-1}"
    for name in steps corrections; do
        run build/prepare --tokenizer "$out/model" --kind it --template llama3 --max-len 512 --out "$out/shards/$name" "$out/$name.jsonl" 2>>"$out/prepare.log"
    done
    run build/train_findap_cpu --model "$out/model" --init random --recipe "$out/recipe.json" --out "$out/trained" --log-every 50
fi
rm -f "$out"/*.answers.jsonl* "$out"/judged*.jsonl* "$out"/corrected.jsonl* "$out"/*.summary.json
test_of() {   # MODEL, NAME: greedy answers to the held-out questions, checked
    genrm sample --model "$1" --prompts "$out/ask_test.jsonl" --temperature 0 --max-new "$cap" --out "$out/$2.answers.jsonl" --quiet >"$out/$2.summary.json"
    genrm judge --mode verify --answers "$out/$2.answers.jsonl" --out "$out/judged_$2.jsonl" >"$out/judged_$2.summary.json"
}
test_of "$out/trained" before
head -n "$asked" "$out/ask.jsonl" >"$out/asked.jsonl"
genrm sample --model "$out/trained" --prompts "$out/asked.jsonl" --n "$n" --max-new "$cap" --out "$out/asked.answers.jsonl" >"$out/asked.summary.json"
genrm judge --mode verify --answers "$out/asked.answers.jsonl" --out "$out/judged.jsonl" >"$out/judged.summary.json"
genrm correct --model "$out/trained" --prompt "$out/correct.txt" --answers "$out/judged.jsonl" --max-new 128 --out "$out/corrected.jsonl" >"$out/corrected.summary.json"
genrm pairs --fap "$out/judged.jsonl" --scp "$out/corrected.jsonl" --overlong "$out/judged.jsonl" --per-prompt 2 --out "$out/pairs.jsonl" >"$out/pairs.summary.json"
run build/prepare --tokenizer "$out/model" --kind pref --template llama3 --max-len 512 --out "$out/shards/pairs" "$out/pairs.jsonl" 2>>"$out/prepare.log"
run build/dpo_cpu --model "$out/trained" --pairs "$out/shards/pairs" --preset findap --lr "$lr" --epochs "$epochs" --seq-len 512 --micro-rows 4 --dev-pairs 40 --overwrite --log-every 10 --out "$out/aligned"
test_of "$out/aligned" after

line() {   # NAME, FILE, KEY
    printf '  %-44s' "$1"
    for when in before after; do
        awk -v p="$(number "$out/judged_$when.summary.json" "$2")" -v s="$(number "$out/judged_$when.summary.json" "$2_stderr")" 'BEGIN { printf "   %5.1f +- %.1f %%", 100 * p, 100 * s }'
    done
    echo
}
echo
echo "$(number "$out/asked.summary.json" answers) answers to $(number "$out/asked.summary.json" prompts) questions, judged by the verifier: $(number "$out/judged.summary.json" right) right, $(number "$out/judged.summary.json" wrong) wrong;" \
     "of $(number "$out/corrected.summary.json" asked) corrections, the model's own, $(number "$out/corrected.summary.json" good) hold"
echo "pairs: $(grep -c '"kind":"fap"' "$out/pairs.jsonl" || true) of right over wrong answers (FAP), $(grep -c '"kind":"scp"' "$out/pairs.jsonl" || true) of corrected over wrong steps (SCP), $(grep -c '"kind":"overlong"' "$out/pairs.jsonl" || true) of gold over overlong answers"
printf '%s\n' "$(number "$out/judged_after.summary.json" answers) held-out questions, at most $cap tokens an answer"
printf '  %-44s   %-15s  %s\n' "" "before" "after DPO"
line "right, and ended by itself" right_share
line "no end by the cap (overlength ratio)" overlength_ratio
echo "The aligned model is a Hugging Face directory: $out/aligned; talk to it: ./genrm_cpu chat --model $out/aligned"
