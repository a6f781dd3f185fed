#!/usr/bin/env bash
# make compare: the CPU twin against the GPU's, in fp32 and in bf16, on small models of every kind: one forward and backward pass
# each over the same packed documents, then relative errors and cosines tensor by tensor (build/compare/*.txt); the same with adapters (LoRA); and
# some steps of dpo, whose rows have branches, by loss and gradient norm. Needs a GPU.
#
#   scripts/compare.sh prepare     only what needs none: configurations, data and the CPU's dumps, to be carried to a machine with one
set -euo pipefail
cd "$(dirname "$0")/.."
dir=build/compare
models="llama64 llama128 llama16 qwen128 qwen64"
# MODEL.lora.NAME, settings: every site with and without an adapter, some of a site's projections, every first site of a layer (nothing below it has a gradient)
adapters() {
    cat <<'LIST'
llama128.lora.all --lora-rank 16
llama64.lora.some --lora-rank 8 --lora-targets k,o,up
llama64.lora.down --lora-rank 8 --lora-targets down
llama16.lora.gate --lora-rank 64 --lora-targets gate,down
qwen128.lora.qv --lora-rank 8 --lora-alpha 8 --lora-targets q,v
qwen64.lora.rs --lora-rank 24 --lora-rslora
LIST
}

if [ ! -e $dir/done ]; then
    rm -rf $dir; mkdir -p $dir/shards
    build/make_demo $dir/demo >/dev/null
    build/prepare --tokenizer $dir/demo/model --kind cpt --max-len 700 --out $dir/shards/reports $dir/demo/reports.jsonl 2>/dev/null
    build/prepare --tokenizer $dir/demo/model --kind it --template llama3 --max-len 700 --out $dir/shards/questions $dir/demo/questions.jsonl 2>/dev/null
    # name architecture layers hidden ffn heads kv_heads head_dim tied rope_scaling
    while read -r name arch layers hidden ffn heads kv hd tied scaling; do
        mkdir -p $dir/$name
        cp $dir/demo/model/tokenizer* $dir/$name/
        cat >$dir/$name/config.json <<JSON
{"architectures": ["$arch"], "model_type": "$([ "$arch" = LlamaForCausalLM ] && echo llama || echo qwen2)", "vocab_size": 515, "hidden_size": $hidden, "intermediate_size": $ffn,
 "num_hidden_layers": $layers, "num_attention_heads": $heads, "num_key_value_heads": $kv, "head_dim": $hd, "hidden_act": "silu", "rms_norm_eps": 1e-5, "initializer_range": 0.05,
 "rope_theta": 10000.0, "rope_scaling": $scaling, "max_position_embeddings": 1024, "tie_word_embeddings": $tied, "bos_token_id": 507, "eos_token_id": 511, "torch_dtype": "float32"}
JSON
    done <<'LIST'
llama64 LlamaForCausalLM 3 256 704 8 2 64 true null
llama128 LlamaForCausalLM 3 512 1408 8 2 128 false {"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":256}
llama16 LlamaForCausalLM 2 64 176 4 4 16 false null
qwen128 Qwen2ForCausalLM 3 384 1024 6 1 128 true null
qwen64 Qwen2ForCausalLM 2 448 1216 7 1 64 false null
LIST
    # pairs: one to eight reports are the prompt, others the answers
    sed 's/^{"text": *"//; s/"}$//' $dir/demo/reports.jsonl | awk '{ t[NR] = $0 } END { for (n = 1; n + 16 <= NR && rows < 28; rows++) {
        s[1] = s[2] = s[3] = ""; size[1] = 1 + rows % 8; size[2] = 1 + rows % 3; size[3] = 1 + rows % 5
        for (k = 1; k <= 3; k++) for (i = 0; i < size[k]; i++) s[k] = s[k] t[n++] " "
        printf "{\"prompt\":\"%s\",\"chosen\":\"%s\",\"rejected\":\"%s\"}\n", s[1], s[2], s[3] } }' >$dir/pairs.jsonl
    build/prepare --tokenizer $dir/demo/model --kind pref --template llama3 --max-len 1000 --out $dir/shards/pairs $dir/pairs.jsonl 2>/dev/null
    touch $dir/done
fi
flags="--data $dir/shards/reports $dir/shards/questions --seq-len 777 --step-tokens 3108 --micro-rows 2"
random="--init random --init-seed 5"
for m in $models; do
    [ -e $dir/$m.cpu.safetensors ] || build/train_findap_cpu --model $dir/$m $random $flags --dump $dir/$m.cpu.safetensors 2>/dev/null
    # what adapters are trained beside: weights that are bf16 in both twins
    [ -e $dir/$m/base/model.safetensors ] || build/train_findap_cpu --model $dir/$m $random $flags --steps 1 --save-dtype bfloat16 --out $dir/$m/base --overwrite 2>/dev/null
done
adapters | while read -r name settings; do   # B is zero at first: three steps with a high rate
    base=$dir/${name%%.*}/base
    [ -e $dir/$name/adapter_config.json ] || build/train_findap_cpu --model $base $flags $settings --lr 1e-2 --steps 3 --out $dir/$name --overwrite 2>/dev/null
    [ -e $dir/$name.cpu.safetensors ] || build/train_findap_cpu --model $base $flags --adapter $dir/$name --dump $dir/$name.cpu.safetensors 2>/dev/null
done
dpo_flags="--pairs $dir/shards/pairs --seq-len 1000 --micro-rows 2 --step-pairs 6 --steps 3 --lr 2e-4 --beta 0.1 --alpha 0.3 --schedule constant --warmup 0 --dev-pairs 4 --checkpoint-every 0 --quiet --overwrite"
dpo_models="llama64 llama128 llama16"   # whose attention is another kernel each
dpo() {   # program, directory, flags: all of dpo's runs
    local program=$1 out=$2; shift 2
    local model=${out##*/}; model=$dir/${model%%.*}/base
    [[ $out == *.lora.* ]] && set -- --lora-rank 8 "$@"
    $program --model $model $dpo_flags --out $out "$@"
}
for m in $dpo_models llama128.lora; do
    [ -e $dir/$m.dpo_cpu/log.jsonl ] || dpo build/dpo_cpu $dir/$m.dpo_cpu
done
[ "${1:-}" = prepare ] && exit 0

status=0
check() {   # name, program, reference, bounds, flags of the program
    local name=$1 program=$2 reference=$3 bounds=$4 from; shift 4
    from="--model $dir/${name%%.*} $random"
    [[ $name == *.lora.* ]] && from="--model $dir/${name%%.*}/base"
    if $program $from $flags "$@" --dump $dir/$name.safetensors 2>$dir/$name.log && build/compare_dumps $reference $dir/$name.safetensors $bounds >$dir/$name.txt; then :; else status=1; fi
    printf '%-30s %s\n' "$name" "$(tail -n 1 $dir/$name.txt 2>/dev/null || tail -n 1 $dir/$name.log)"
}
for m in $models; do check $m.fp32 build/train_findap_fp32 $dir/$m.cpu.safetensors "--most 1e-4 --loss 1e-5"; done
for m in $models; do check $m.bf16 build/train_findap $dir/$m.cpu.safetensors "--cosine 0.999 --loss 0.01"; done
# memory is not allowed to change numbers: what is recomputed gives the same bits, whatever the moments' type
for r in swiglu norm,swiglu ffn,norm qkv,norm block; do check llama128.$r build/train_findap $dir/llama128.bf16.safetensors "--most 0" --recompute $r; done
check llama128.again build/train_findap $dir/llama128.bf16.safetensors "--most 0"
for name in $(adapters | cut -d' ' -f1); do
    check $name.fp32 build/train_findap_fp32 $dir/$name.cpu.safetensors "--most 1e-4 --loss 1e-5" --adapter $dir/$name
    check $name.bf16 build/train_findap $dir/$name.cpu.safetensors "--cosine 0.999 --loss 0.01" --adapter $dir/$name
done
for r in swiglu norm,swiglu ffn,norm qkv,norm block; do check llama128.lora.all.$r build/train_findap $dir/llama128.lora.all.bf16.safetensors "--most 0" --adapter $dir/llama128.lora.all --recompute $r; done
check llama128.bf16sums build/train_findap $dir/llama128.cpu.safetensors "--cosine 0.999 --loss 0.01" --gradients bf16
# dpo: every loss and gradient norm of the log, and the loss of the pairs held out, beside the CPU's: by difference over 0.1 + the CPU's number
numbers() { grep -oE '"(loss_nats_per_pair|preference_loss|grad_norm|dev_loss_nats_per_pair|logp_[a-z]*_nats_per_answer)": *[0-9.eE+-]*' "$1/log.jsonl" | sed 's/.*: *//'; }
check_dpo() {   # model, program, bound
    local name=$1.$(basename $2) cpu
    cpu=$(numbers $dir/$1.dpo_cpu)
    if dpo $2 $dir/$name >$dir/$name.log 2>&1 && paste <(echo "$cpu") <(numbers $dir/$name) | awk -v bound=$3 '
        { d = $2 - $1; if (d < 0) d = -d; a = $1 < 0 ? -$1 : $1; d /= 0.1 + a; if (NF != 2 || !(d <= bound)) bad = 1; if (d > most) most = d }
        END { printf "%d numbers, largest difference %.1e, at most %g: %s\n", NR, most, bound, bad || NR < 15 ? "FAILED" : "ok"; exit bad || NR < 15 }' >$dir/$name.txt; then :; else status=1; fi
    printf '%-30s %s\n' "$name" "$(tail -n 1 $dir/$name.txt 2>/dev/null || tail -n 1 $dir/$name.log)"
}
for m in $dpo_models llama128.lora; do check_dpo $m build/dpo_fp32 1e-3; done
for m in $dpo_models llama128.lora; do check_dpo $m build/dpo 0.1; done   # weights that begin on bf16's grid move by whole steps of it or not at all (dev/LOG.md); 0.052 was measured, 0.05 had been put down before there was a GPU
exit $status
