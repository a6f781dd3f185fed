#!/usr/bin/env bash
# eval end to end on a CPU: the public test sets, converted; a small Llama from scratch through the real Llama-3 tokenizer, first on general questions (base), then
# on the training parts of five finance sets too (trained); both on every task that has data, compared, on a page, searched for overlap and scored again.
#
#   FINDAP_DATA=/path/to/unpacked/data scripts/eval_real.sh [OUT]       BASE_STEPS=160 STEPS=1200 STEP_TOKENS=1024 LIMIT=100 by default
#
# FINDAP_DATA holds one folder a set and tokenizers/llama3_tokenizer.json. OUT is kept: killed and started again, the steps that are finished are not done again, nor are answers asked for again.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${FINDAP_DATA:-}
out=${1:-build/eval_real}
base_steps=${BASE_STEPS:-160} steps=${STEPS:-1200} step_tokens=${STEP_TOKENS:-1024} limit=${LIMIT:-100} seq=512
trained=(fpb fiqasa fomc headlines sc)   # what the second stage is trained on; every other task shows what came along or was forgotten
if [ -z "$data" ] || [ ! -f "$data/tokenizers/llama3_tokenizer.json" ]; then
    echo "eval_real.sh: skipped: FINDAP_DATA does not name a directory with tokenizers/llama3_tokenizer.json"
    exit 0
fi
begun=$SECONDS
step() { echo "eval_real.sh: $((SECONDS - begun)) s: $*" >&2; }
mkdir -p "$out/model" "$out/train"
if [ ! -f "$out/data/done" ]; then
    python3 data/fineval.py convert --source "$data" --out "$out/data" --force all >"$out/convert.log" 2>&1 || { tail -n 3 "$out/convert.log" >&2; exit 1; }
    touch "$out/data/done"
fi

# Training rows in the shape of the tasks' own questions: the first of each set's training part, as many as given
python3 - "$out" <<'PY'
import json, os, sys
out = sys.argv[1]
for name, most in (("fpb", 3629), ("fiqasa", 938), ("fomc", 1984), ("headlines", 10260), ("sc", 2500), ("arc", 2500)):
    with open(f"{out}/data/{name}_train.jsonl") as f, open(f"{out}/train/{name}.jsonl", "w") as g:
        for line in [line for _, line in zip(range(most), f)]:
            row = json.loads(line)
            prompt, answer = row["query"], row["answer"]
            if name == "arc": prompt += "\n" + "\n".join(f"{'ABCDEFGH'[k]}. {c}" for k, c in enumerate(row["choices"])) + "\nAnswer:"
            g.write(json.dumps({"prompt": prompt, "completion": answer}) + "\n")
PY
cp "$data/tokenizers/llama3_tokenizer.json" "$out/model/tokenizer.json"
cp "$data/tokenizers/llama3_tokenizer_config.json" "$out/model/tokenizer_config.json"
# 4 layers of 192: 1.7 million parameters besides the 24.6 million of the (tied) embedding of 128,256 tokens
cat >"$out/model/config.json" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 192, "intermediate_size": 512,
 "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 48, "hidden_act": "silu", "rms_norm_eps": 1e-05,
 "initializer_range": 0.02, "rope_theta": 10000.0, "max_position_embeddings": 8192, "tie_word_embeddings": true,
 "bos_token_id": 128000, "eos_token_id": 128009, "torch_dtype": "float32"}
JSON
for name in "${trained[@]}" arc; do
    [ -f "$out/shards/$name.report.json" ] || build/prepare --tokenizer "$out/model" --max-len "$seq" --kind it --template llama3 --out "$out/shards/$name" "$out/train/$name.jsonl"
done
# In minutes a model from random weights learns the form of the answers and the most frequent one of each set, not what the texts say: this shows that everything runs and is counted right.
recipe() {   # NAME STEPS LR STREAM...
    local name=$1 n=$2 lr=$3 streams=""
    shift 3
    for s in "$@"; do streams+="${streams:+, }{\"name\": \"${s%:*}\", \"kind\": \"it\", \"shards\": [\"shards/${s%:*}\"], \"weight\": ${s#*:}}"; done
    cat >"$out/$name.json" <<JSON
{"name": "$name", "seed": 42, "seq_len": $seq, "step_tokens": $step_tokens, "micro_rows": 2, "dev": {"dev_rows": 60, "every": 100},
 "optimizer": {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
 "stages": [{"name": "$name", "steps": $n, "lr": $lr, "warmup": 0.1, "schedule": "cosine", "floor": 0.1, "streams": [$streams]}]}
JSON
}
recipe base "$base_steps" 1e-3 arc:1
recipe finance "$steps" 1.5e-3 headlines:1.5 fpb:1.5 fiqasa:2 fomc:0.5 sc:0.3 arc:0.2
if [ ! -f "$out/base/model.safetensors" ]; then
    step "the base: $base_steps steps on general questions"
    build/train_findap_cpu --model "$out/model" --init random --recipe "$out/base.json" --out "$out/base" --overwrite --log-every 100
fi
if [ ! -f "$out/finance/model.safetensors" ]; then
    step "on top of it: $steps steps on ${trained[*]}"
    build/train_findap_cpu --model "$out/base" --recipe "$out/finance.json" --out "$out/finance" --overwrite --log-every 100
fi
mapfile -t tasks < <(build/eval_cpu tasks --data "$out/data" | awk 'NR > 1 && $2 ~ /^[0-9]+$/ { print $1 }')
evaluate() {   # DIR LABEL
    step "eval of $2: $limit rows each of ${#tasks[@]} tasks"
    build/eval_cpu --model "$out/$1" --tasks "${tasks[@]}" --data "$out/data" --out "$out/eval_$1" --label "$2" --mode direct --max-new 24 --context 2048 --limit "$limit" 2> >(tee -a "$out/eval_$1.log" >&2) >"$out/eval_$1.txt"
    cat "$out/eval_$1.txt"
}
evaluate base base
evaluate finance "base + finance"
step "compare, report, overlap"
build/eval_cpu compare "$out/eval_base" "$out/eval_finance" | tee "$out/compare.txt"
build/eval_cpu report "$out/eval_base" "$out/eval_finance" --log "$out/finance/log.jsonl" --out "$out/report.html"
build/eval_cpu overlap --train "$out"/train/*.jsonl --test $(printf "$out/data/%s.jsonl " "${trained[@]}" arc) --show 1 | tee "$out/overlap.txt"
step "the answers scored again, and counted here"
python3 - "$out" "${trained[@]}" arc <<'PY'
import json, subprocess, sys
out, bad = sys.argv[1], 0
for run in ("eval_base", "eval_finance"):
    results = json.load(open(f"{out}/{run}/results.json"))["tasks"]
    for name in sys.argv[2:]:
        samples = f"{out}/{run}/samples_{name}.jsonl"
        again = json.loads(subprocess.run(["build/eval_cpu", "score", "--task", name, "--predictions", samples], check=True, capture_output=True, text=True).stdout)
        rows = {str(r["id"]): r for r in map(json.loads, open(f"{out}/data/{name}.jsonl"))}
        said = [json.loads(line) for line in open(samples)]
        right = lambda r: "ABCDEFGH"[r["gold"]] if name == "arc" else r["choices"][r["gold"]]   # of the row, not of what eval made of it
        mine = sum(s["output"].strip(" .").lower() == right(rows[str(s["id"])]).lower() for s in said) / len(said)
        here = {k: m["value"] for k, m in results[name]["metrics"].items()}
        off = [k for k in here if k in again and abs(again[k] - here[k]) > 1e-12] + (["acc counted here"] if abs(mine - here["acc"]) > 1e-12 else [])
        bad += len(off)
        print(f"{run:13} {name:10} {len(said)} answers, acc {here['acc']:.4f}, counted {mine:.4f}, {len([k for k in here if k in again])} scores again: {'the same' if not off else 'differ: ' + ', '.join(off)}")
sys.exit(bad > 0)
PY
step "done; the page is $out/report.html"
