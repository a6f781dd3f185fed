#!/usr/bin/env bash
# Real input on a CPU, without Python: continual pre-training text (Federal Reserve minutes, two books) and instruction data
# (GSM8K, FinQA conversations, XBRL formulas) through the real Llama-3 tokenizer into a small Llama trained from scratch.
#
#   FINDAP_DATA=/path/to/unpacked/data scripts/real_cpu.sh [OUT]       STEPS=300 SEQ=512 STEP_TOKENS=1024 by default
#
# FINDAP_DATA holds folders cpt_fed, cpt_books, gsm8k, finqa, xbrl_formula and tokenizers/llama3_tokenizer.json.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${FINDAP_DATA:-}
out=${1:-build/real}
steps=${STEPS:-300} seq=${SEQ:-512} step_tokens=${STEP_TOKENS:-1024}
if [ -z "$data" ] || [ ! -f "$data/tokenizers/llama3_tokenizer.json" ]; then
    echo "real_cpu.sh: skipped: FINDAP_DATA does not name a directory with tokenizers/llama3_tokenizer.json"
    exit 0
fi
rm -rf "$out"
mkdir -p "$out/model" "$out/text"
cp "$data/tokenizers/llama3_tokenizer.json" "$out/model/tokenizer.json"
cp "$data/tokenizers/llama3_tokenizer_config.json" "$out/model/tokenizer_config.json"
# 8 layers of 256: 5.9 million parameters besides the 32.8 million of the (tied) embedding of 128,256 tokens
cat >"$out/model/config.json" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": 256, "intermediate_size": 704,
 "num_hidden_layers": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-05,
 "initializer_range": 0.02, "rope_theta": 500000.0, "max_position_embeddings": 2048, "tie_word_embeddings": true,
 "bos_token_id": 128000, "eos_token_id": 128009, "torch_dtype": "float32"}
JSON
find "$data/cpt_fed" "$data/cpt_books" -name '*.txt' ! -name 'LICENSE*' ! -name 'README*' | sort >"$out/text/files"
tar -tzf "$data"/cpt_fed/fomc_minutes*.tar.gz >/dev/null 2>&1 && tar -xzf "$data"/cpt_fed/fomc_minutes*.tar.gz -C "$out/text" \
    && find "$out/text" -name '*.txt' | sort >>"$out/text/files"
mapfile -t texts <"$out/text/files"
echo "real_cpu.sh: ${#texts[@]} text files"
prepare() { build/prepare --tokenizer "$out/model" --max-len "$seq" "$@"; }
prepare --kind cpt --out "$out/shards/text" "${texts[@]}"
prepare --kind it --template llama3 --fields prompt=question,completion=answer --out "$out/shards/gsm8k" "$data/gsm8k/train.jsonl"
prepare --kind it --template llama3 --out "$out/shards/finqa" "$data/finqa/flare_finqa_valid.jsonl"
prepare --kind it --template llama3 --fields prompt=context,completion=target --out "$out/shards/formula" "$data/xbrl_formula/finlora_formula_train.jsonl"
cat >"$out/recipe.json" <<JSON
{"name": "real-cpu", "seed": 42, "seq_len": $seq, "step_tokens": $step_tokens, "micro_rows": 2, "dev": {"dev_rows": 20, "every": 50},
 "optimizer": {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
 "stages": [{"name": "joint", "balance": "tokens", "steps": $steps, "lr": 2e-3, "warmup": 0.1, "schedule": "cosine", "floor": 0.1,
   "streams": [{"name": "text", "kind": "cpt", "shards": ["shards/text"]}, {"name": "gsm8k", "kind": "it", "shards": ["shards/gsm8k"]},
               {"name": "finqa", "kind": "it", "shards": ["shards/finqa"]}, {"name": "formula", "kind": "it", "shards": ["shards/formula"]}]}]}
JSON
build/train_findap_cpu --model "$out/model" --init random --recipe "$out/recipe.json" --out "$out/out" --log-every 10
echo "real_cpu.sh: the model is in $out/out, its log in $out/out/log.jsonl"
