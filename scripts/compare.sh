#!/usr/bin/env bash
# make compare: the CPU twin against the GPU's, in fp32 and in bf16, on small models of every kind: one forward and backward pass
# each over the same packed documents, then relative errors and cosines tensor by tensor (build/compare/*.txt); the same with adapters (LoRA); and
# some steps of dpo, whose rows have branches, by losses, rewards, gradient norms and, tensor by tensor, AdamW's moments. Needs a GPU.
#
#   scripts/compare.sh prepare     only what needs none: configurations, data and the CPU's dumps, to be carried to a machine with one
#   scripts/compare.sh models      of that only configurations, data and small models: what gpu_ranks.sh wants, made in seconds
set -euo pipefail
cd "$(dirname "$0")/.."
dir=build/compare
quiet() { "$@" 2>$dir/errors || { echo "compare.sh: error: $1 failed: $(tail -n 1 $dir/errors)" >&2; exit 1; }; }
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
    quiet build/prepare --tokenizer $dir/demo/model --kind cpt --max-len 700 --out $dir/shards/reports $dir/demo/reports.jsonl
    quiet build/prepare --tokenizer $dir/demo/model --kind it --template llama3 --max-len 700 --out $dir/shards/questions $dir/demo/questions.jsonl
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
    quiet build/prepare --tokenizer $dir/demo/model --kind pref --template llama3 --max-len 1000 --out $dir/shards/pairs $dir/pairs.jsonl
    touch $dir/done
fi
flags="--data $dir/shards/reports $dir/shards/questions --seq-len 777 --step-tokens 3108 --micro-rows 2"
random="--init random --init-seed 5"
for m in $models; do   # what adapters are trained beside: weights that are bf16 in both twins
    [ -e $dir/$m/base/model.safetensors ] || quiet build/train_findap_cpu --model $dir/$m $random $flags --steps 1 --save-dtype bfloat16 --out $dir/$m/base --overwrite
done
[ "${1:-}" = models ] && exit 0
for m in $models; do
    [ -e $dir/$m.cpu.safetensors ] || quiet build/train_findap_cpu --model $dir/$m $random $flags --dump $dir/$m.cpu.safetensors
done
adapters | while read -r name settings; do   # B is zero at first: three steps with a high rate
    base=$dir/${name%%.*}/base
    [ -e $dir/$name/adapter_config.json ] || quiet build/train_findap_cpu --model $base $flags $settings --lr 1e-2 --steps 3 --out $dir/$name --overwrite
    [ -e $dir/$name.cpu.safetensors ] || quiet build/train_findap_cpu --model $base $flags --adapter $dir/$name --dump $dir/$name.cpu.safetensors
done
dpo_flags="--pairs $dir/shards/pairs --seq-len 1000 --micro-rows 2 --step-pairs 6 --steps 3 --lr 2e-4 --beta 0.1 --alpha 0.3 --schedule constant --warmup 0 --dev-pairs 4 --checkpoint-every 0 --quiet --overwrite"
dpo_models="llama64 llama128 llama16"   # whose attention is another kernel each
# Where dpo starts is chosen such that bf16's own error stays far below the bound (dev/LOG.md, 2026-11-21). All weights: from ones that are not bf16's. Those that are move by
# whole steps of bf16 or not at all, by 0.90 and 1.09 of what the first and second update ask for. LoRA: from an adapter that was trained. B = 0 moves by +-lr at first, whatever
# a gradient's size, so that the 0.6 % of signs that 2 % of noise turn are 16 % of noise in B, and so in A's gradient.
for m in $dpo_models; do
    [ -e $dir/$m/exact/model.safetensors ] || quiet build/train_findap_cpu --model $dir/$m $random $flags --steps 1 --save-dtype float32 --out $dir/$m/exact --overwrite
done
dpo() {   # program, directory, flags: all of dpo's runs
    local program=$1 out=$2 model; shift 2
    model=$dir/$(basename ${out%%.*})
    [[ $out == *.lora.* ]] && set -- --adapter $model.lora.all "$@" && model=$model/base || model=$model/exact
    $program --model $model $dpo_flags --out $out "$@"
}
for m in $dpo_models llama128.lora; do
    [ -e $dir/$m.dpo.cpu/log.jsonl ] || dpo build/dpo_cpu $dir/$m.dpo.cpu
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
# dpo beside the CPU's: every loss, reward and gradient norm of the log by difference over 0.1 + the CPU's number (rewards: their largest, as all are equally uncertain
# and a mean of rewards may be near zero); AdamW's moments after the last step, the gradients' means, and the weights tensor by tensor
numbers() { grep -oE '"(dev_)?(loss_nats_per_pair|preference_loss|grad_norm|reward_chosen|reward_rejected|logp_[a-z]*_nats_per_answer)": *[0-9.eE+-]*' "$1/log.jsonl" | tr '":' ' '; }
check_dpo() {   # model, program, bound of numbers, bounds of tensors
    local name=$1.$(basename $2) reference=$dir/$1.dpo.cpu
    rm -rf $dir/$name{,.txt,.state.txt}   # the log-probs of an earlier reference would serve again
    if dpo $2 $dir/$name >$dir/$name.log 2>&1 && paste -d ' ' <(numbers $reference) <(numbers $dir/$name) | awk -v bound=$3 '
        function size(x) { return x < 0 ? -x : x }
        { name[NR] = $1; a[NR] = size($2); d[NR] = size($4 - $2); if (NF != 4 || $1 != $3) bad = 1; if ($1 ~ /reward/ && a[NR] > reward) reward = a[NR] }
        END {
            for (i = 1; i <= NR; i++) {
                x = d[i] / (0.1 + (name[i] ~ /reward/ ? reward : a[i]))
                if (!(x <= bound)) bad = 1
                if (x > most) { most = x; where = name[i] }
            }
            bad = bad || NR != 33 || reward < 0.3   # less: nothing was moved that could be compared
            printf "%d numbers, largest difference %.1e (%s), at most %g: %s\n", NR, most, where, bound, bad ? "FAILED" : "ok"; exit bad
        }' >$dir/$name.txt &&
        build/compare_dumps {$reference,$dir/$name}/checkpoints/step_00000003/state.safetensors $4 >$dir/$name.state.txt 2>&1; then :; else status=1; fi
    printf '%-30s %s; %s\n' "$name" "$(tail -n 1 $dir/$name.txt 2>/dev/null || tail -n 1 $dir/$name.log)" "$(tail -n 1 $dir/$name.state.txt 2>/dev/null || echo FAILED)"
}
for m in $dpo_models llama128.lora; do check_dpo $m build/dpo_fp32 1e-3 "--most 1e-3"; done
for m in $dpo_models llama128.lora; do check_dpo $m build/dpo 0.03 "--cosine 0.998 --norm 0.02"; done
exit $status
