#!/usr/bin/env bash
# make gpu-ranks: what can only be shown on a host with several GPUs, one line a check, exit status 1 when one fails: 1, 2 and all GPUs give
# the same losses in every ZeRO stage (fp32 build, to the printed digits), the same command gives the same bits (bf16), every type of moments trains, and a
# run goes on with another number of GPUs. With four GPUs the same in two groups of two that share the state (--shard-ranks 2), and with a copy on each
# (--shard-ranks 1); each with adapters too; each of these runs compares its replicas, weights and moments, before its last checkpoint, and fails where
# they differ. What small models move by NCCL goes by copy engines too (--links copies). Some eight minutes on four H200s.
set -uo pipefail
cd "$(dirname "$0")/.."
export NCCL_NVLS_ENABLE=0 OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
[ "$(id -u)" = 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
bash scripts/compare.sh models || exit 1
gpus=${1:-$(nvidia-smi -L | wc -l)}
[ "$gpus" -ge 2 ] || { echo "gpu-ranks: there is one GPU here, two are needed"; exit 1; }
dir=build/gpu_ranks
status=0
rm -rf $dir; mkdir -p $dir
flags="--init random --init-seed 5 --data build/compare/shards/reports build/compare/shards/questions --seq-len 333 --step-tokens 2664 --micro-rows 2 --lr 1e-3 --steps 20 --checkpoint-every 0 --save-dtype float32"
run() {   # log, ranks, program, flags...
    local log=$dir/$1.log ranks=$2; shift 2
    if [ "$ranks" = 1 ]; then "$@" >"$log" 2>&1; else timeout 300 mpirun --bind-to none -np "$ranks" "$@" >"$log" 2>&1; fi
}
steps() { cat "${@/#/$dir/}" | grep '^step' | grep -o 'loss *[0-9.]*\|norm *[0-9.]*'; }
say() { printf '%-66s %s\n' "$1" "$2"; [ "$2" = ok ] || { status=1; [ -n "${3:-}" ] && { grep -m 1 'error: ' "$dir/$3.log" || tail -n 2 "$dir/$3.log"; }; }; }
same() { [ -n "$(steps "$1")" ] && [ "$(steps "$1")" = "$(steps "${@:2}")" ] && echo ok || echo DIFFERENT; }
counts=2; [ "$gpus" -gt 2 ] && counts="2 $gpus"
groups=(); [ "$gpus" -ge 4 ] && groups=("--shard-ranks 2 --zero 1" "--shard-ranks 2 --zero 2" "--shard-ranks 2 --zero 3" "--shard-ranks 1" "--shard-ranks 2 --zero 1 --links copies")

if [ -x build/dev/links ]; then
    for n in $counts; do say "build/dev/links check, $n GPUs" "$(run links.$n "$n" build/dev/links check && echo ok || echo FAILED)" links.$n; done
fi
for model in qwen64 llama128; do
    run $model.1 1 build/train_findap_fp32 --model build/compare/$model $flags --out $dir/1 --overwrite
    for n in $counts; do for zero in 1 2 3; do
        run $model.$n.$zero "$n" build/train_findap_fp32 --model build/compare/$model $flags --zero $zero --out $dir/many --overwrite
        say "$model, fp32, $n GPUs, ZeRO-$zero: 20 losses and norms as with one" "$(same $model.1.log $model.$n.$zero.log)" $model.$n.$zero
    done; done
    for zero in 1 2 3; do   # what is small too by copy engines
        run $model.copies.$zero "$gpus" build/train_findap_fp32 --model build/compare/$model $flags --zero $zero --links copies --out $dir/many --overwrite
        say "$model, fp32, $gpus GPUs, ZeRO-$zero, --links copies: as with one" "$(same $model.1.log $model.copies.$zero.log)" $model.copies.$zero
    done
    [ "$gpus" -ge 4 ] && run $model.wide 1 build/train_findap_fp32 --model build/compare/$model ${flags/2664/5328} --out $dir/1 --overwrite
    for way in "${groups[@]}"; do   # of each GPU two micro-batches: the replicas' sum comes once a step
        run "$model.$way" 4 build/train_findap_fp32 --model build/compare/$model ${flags/2664/5328} $way --out $dir/many --overwrite
        say "$model, fp32, 4 GPUs, $way: as with one" "$(same $model.wide.log "$model.$way.log")" "$model.$way"
        for twice in a b; do run "$model.$twice" 4 build/train_findap --model build/compare/$model ${flags/2664/5328} $way --out $dir/$twice --overwrite; done
        say "$model, bf16, 4 GPUs, $way: the same bits twice" "$(cmp -s $dir/a/model.safetensors $dir/b/model.safetensors && echo ok || echo DIFFERENT)" $model.b
    done
    for links in nccl copies; do
        for twice in a b; do run $model.$twice "$gpus" build/train_findap --model build/compare/$model $flags --zero 2 --links $links --out $dir/$twice --overwrite; done
        say "$model, bf16, $gpus GPUs, --links $links: the same bits twice" "$(cmp -s $dir/a/model.safetensors $dir/b/model.safetensors && echo ok || echo DIFFERENT)" $model.b
    done
done
# an adapter: what is frozen is whole on every GPU but with ZeRO-3
lora="--model build/compare/qwen64/base ${flags#--init random --init-seed 5 } --lora-rank 8 --merge"
run lora.1 1 build/train_findap_fp32 $lora --out $dir/1 --overwrite
for n in $counts; do for zero in 1 2 3; do
    run lora.$n.$zero "$n" build/train_findap_fp32 $lora --zero $zero --out $dir/many --overwrite
    say "LoRA, fp32, $n GPUs, ZeRO-$zero: 20 losses and norms as with one" "$(same lora.1.log lora.$n.$zero.log)" lora.$n.$zero
done; done
[ "$gpus" -ge 4 ] && run lora.wide 1 build/train_findap_fp32 ${lora/2664/5328} --out $dir/1 --overwrite
for way in "${groups[@]}"; do
    run "lora.$way" 4 build/train_findap_fp32 ${lora/2664/5328} $way --out $dir/many --overwrite
    say "LoRA, fp32, 4 GPUs, $way: as with one" "$(same lora.wide.log "lora.$way.log")" "lora.$way"
done
for twice in a b; do run lora.$twice "$gpus" build/train_findap $lora --zero 2 --out $dir/$twice --overwrite; done
say "LoRA, bf16, $gpus GPUs: the same bits twice" "$(cmp -s $dir/a/adapter_model.safetensors $dir/b/adapter_model.safetensors && echo ok || echo DIFFERENT)" lora.b
for moments in bf16 8bit; do for zero in 1 2 3; do
    say "moments $moments, $gpus GPUs, ZeRO-$zero" "$(run m "$gpus" build/train_findap --model build/compare/llama128 $flags --zero $zero --moments $moments --out $dir/m --overwrite && echo ok || echo FAILED)" m
done; done
for moments in bf16 8bit; do for way in "${groups[@]}"; do   # rounded stochastically: replicas must draw the same noise
    say "moments $moments, 4 GPUs, $way" "$(run m 4 build/train_findap --model build/compare/llama128 $flags $way --moments $moments --out $dir/m --overwrite && echo ok || echo FAILED)" m
done; done
for twice in a b; do run m.$twice "$gpus" build/train_findap --model build/compare/llama128 $flags --gradients bf16 --links copies --out $dir/$twice --overwrite; done
say "gradients bf16, $gpus GPUs, --links copies: the same bits twice" "$(cmp -s $dir/a/model.safetensors $dir/b/model.safetensors && echo ok || echo DIFFERENT)" m.b
[ "$gpus" -ge 4 ] && say "gradients bf16, 4 GPUs, --shard-ranks 2" "$(run m 4 build/train_findap --model build/compare/llama128 $flags --shard-ranks 2 --gradients bf16 --moments 8bit --out $dir/m --overwrite && echo ok || echo FAILED)" m
run r1 "$gpus" build/train_findap_fp32 --model build/compare/qwen64 $flags --out $dir/r --stop-after-steps 7
run r2 1 build/train_findap_fp32 --model build/compare/qwen64 $flags --out $dir/r --stop-after-steps 6 --resume
run r3 "$gpus" build/train_findap_fp32 --model build/compare/qwen64 $flags --out $dir/r --zero 3 --resume
say "stopped with $gpus GPUs, on with 1, on with $gpus" "$(same qwen64.1.log r1.log r2.log r3.log)" r3
if [ "$gpus" -ge 4 ]; then
    run g1 4 build/train_findap_fp32 --model build/compare/qwen64 $flags --out $dir/g --stop-after-steps 7 --shard-ranks 2 --zero 2
    run g2 1 build/train_findap_fp32 --model build/compare/qwen64 $flags --out $dir/g --stop-after-steps 4 --resume
    run g3 4 build/train_findap_fp32 --model build/compare/qwen64 $flags --out $dir/g --stop-after-steps 4 --shard-ranks 2 --zero 3 --resume
    run g4 3 build/train_findap_fp32 --model build/compare/qwen64 $flags --out $dir/g --resume
    say "stopped with 4 GPUs in two groups, on with 1, with two groups, with 3" "$(same qwen64.1.log g1.log g2.log g3.log g4.log)" g4
fi
[ $status -eq 0 ] && echo "gpu-ranks: all ok" || echo "gpu-ranks: FAILED"
exit $status
