#!/usr/bin/env bash
# Real data for the measurements on a GPU, made on a CPU: build/packed/shards (FOMC minutes, two books, GSM8K, FinQA, XBRL formulas through the real Llama-3
# tokenizer, documents of up to 8,192 tokens), build/packed/causal (the texts as one, so that every row is one document), build/packed/small (a model for the loss curves of gpu_check.sh), build/packed/mix.safetensors (eight
# rows of 8,192 as training packs them, for `build/dev/step llama3-8b --batch`) and it.safetensors (the same of instruction data alone).
#
#   FINDAP_DATA=/path/to/unpacked/data scripts/packed.sh
set -euo pipefail
cd "$(dirname "$0")/.."
data=${FINDAP_DATA:-} out=build/packed
if [ -z "$data" ] || [ ! -f "$data/tokenizers/llama3_tokenizer.json" ]; then
    echo "packed.sh: skipped: FINDAP_DATA does not name a directory with tokenizers/llama3_tokenizer.json"
    exit 0
fi
rm -rf "$out"
mkdir -p "$out/model" "$out/text" "$out/small" "$out/tiny"
cp "$data/tokenizers/llama3_tokenizer.json" "$out/model/tokenizer.json"
cp "$data/tokenizers/llama3_tokenizer_config.json" "$out/model/tokenizer_config.json"
config() {   # directory, hidden, ffn, layers, heads, kv heads, head_dim, positions
    cat >"$1/config.json" <<JSON
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128256, "hidden_size": $2, "intermediate_size": $3,
 "num_hidden_layers": $4, "num_attention_heads": $5, "num_key_value_heads": $6, "head_dim": $7, "hidden_act": "silu", "rms_norm_eps": 1e-05,
 "initializer_range": 0.02, "rope_theta": 500000.0, "max_position_embeddings": $8, "tie_word_embeddings": true,
 "bos_token_id": 128000, "eos_token_id": 128009, "torch_dtype": "float32"}
JSON
}
config "$out/model" 512 1408 8 8 2 64 8192
config "$out/small" 512 1408 8 8 2 64 2048
config "$out/tiny" 16 32 1 2 1 8 8192
for d in small tiny; do for f in tokenizer.json tokenizer_config.json; do ln -s "../model/$f" "$out/$d/$f"; done; done
find "$data/cpt_fed" "$data/cpt_books" -name '*.txt' ! -name 'LICENSE*' ! -name 'README*' | sort >"$out/text/files"
tar -tzf "$data"/cpt_fed/fomc_minutes*.tar.gz >/dev/null 2>&1 && tar -xzf "$data"/cpt_fed/fomc_minutes*.tar.gz -C "$out/text" \
    && find "$out/text" -name '*.txt' | sort >>"$out/text/files"
mapfile -t texts <"$out/text/files"
mkdir "$out/text/utf8"   # some books are older than UTF-8, which prepare insists on
for i in "${!texts[@]}"; do
    iconv -f UTF-8 -t UTF-8 "${texts[i]}" >/dev/null 2>&1 && continue
    iconv -f WINDOWS-1252 -t UTF-8 "${texts[i]}" >"$out/text/utf8/$(basename "${texts[i]}")"
    texts[i]="$out/text/utf8/$(basename "${texts[i]}")"
done
prepare() { build/prepare --tokenizer "$out/model" --max-len 8192 "$@"; }
prepare --kind cpt --out "$out/shards/text" "${texts[@]}"
cat "${texts[@]}" >"$out/text/all.txt"
prepare --kind cpt --out "$out/causal/text" "$out/text/all.txt"
prepare --kind it --template llama3 --fields prompt=question,completion=answer --out "$out/shards/gsm8k" "$data/gsm8k/train.jsonl"
prepare --kind it --template llama3 --out "$out/shards/finqa" "$data/finqa/flare_finqa_valid.jsonl"
prepare --kind it --template llama3 --fields prompt=context,completion=target --out "$out/shards/formula" "$data/xbrl_formula/finlora_formula_train.jsonl"
rm -rf "$out/text"
pack() {   # file, shards: only the rows of the dump are of use, not the tiny model's gradients
    local file=$1; shift
    build/train_findap_cpu --model "$out/tiny" --init random --data "$@" --seq-len 8192 --step-tokens 65536 --micro-rows 1 --dump "$out/$file"
}
pack mix.safetensors "$out/shards/text" "$out/shards/gsm8k" "$out/shards/finqa" "$out/shards/formula"
pack it.safetensors "$out/shards/gsm8k" "$out/shards/finqa" "$out/shards/formula"
rm -rf "$out/tiny"
echo "packed.sh: $(du -sh "$out" | cut -f1) in $out"
