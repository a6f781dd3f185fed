#!/usr/bin/env bash
# make gpu-check: everything that can only be shown on a GPU, with one line a check and exit status 1 when one fails:
# the twins against each other, every kernel against the CPU, compute-sanitizer on a small model, the same bits from the same
# command and from a stopped and resumed one, with LoRA too, and the bf16 loss curve against the fp32 one. About six minutes on an H200.
set -uo pipefail
cd "$(dirname "$0")/.."
export NCCL_NVLS_ENABLE=0
dir=build/gpu_check
status=0
rm -rf $dir; mkdir -p $dir
say() { printf '%-44s %s\n' "$1" "$2"; }
check() {   # name, command...: passes when the command does; shows its last line
    local name=$1; shift
    if "$@" >$dir/log 2>&1; then say "$name" "ok      $(tail -n 1 $dir/log | cut -c1-100)"; else say "$name" "FAILED  $(tail -n 3 $dir/log | tr '\n' ' ' | cut -c1-300)"; status=1; fi
}

bash scripts/compare.sh || status=1
for program in attention_check attention_forward attention_backward rmsnorm swiglu cross_entropy elementwise adamw lora decode; do
    [ -x build/dev/$program ] && check "kernels: $program" build/dev/$program check
done

# generation: test_generate.c over the GPU twin in fp32, against transformers; in bf16 the same answers whatever the batch
[ -x build/test_generate_gpu ] && check "generate: as transformers, fp32" build/test_generate_gpu
for model in qwen2.5-0.5b llama3.2-1b; do [ -x build/dev/generate ] && check "generate: $model, batches of 1, 7, 24" build/dev/generate $model --same; done

rows="--data build/compare/shards/reports build/compare/shards/questions --seq-len 333 --step-tokens 1332 --micro-rows 2"
small="--init random --init-seed 5 $rows --lr 1e-3"
if command -v compute-sanitizer >/dev/null; then
    for model in llama64 qwen128 llama16; do
        for tool in memcheck initcheck; do
            check "$tool: $model, 2 steps" compute-sanitizer --tool $tool --error-exitcode 1 build/train_findap --model build/compare/$model $small --steps 2 --out $dir/$tool --overwrite
        done
    done
    adapter="--model build/compare/llama64/base $rows --lr 1e-2 --lora-rank 16"   # and the kernels of lora_thin.cuh, at shapes that fill no tile
    for tool in memcheck initcheck; do
        check "$tool: LoRA, 2 steps" compute-sanitizer --tool $tool --error-exitcode 1 build/train_findap $adapter --steps 2 --out $dir/$tool --overwrite
        [ -x build/dev/decode ] && check "$tool: decode" compute-sanitizer --tool $tool --error-exitcode 1 build/dev/decode tiny
        [ -x build/dev/lora ] && check "$tool: lora" compute-sanitizer --tool $tool --error-exitcode 1 build/dev/lora tiny
    done
    check "racecheck: LoRA, 1 step" compute-sanitizer --tool racecheck --error-exitcode 1 build/train_findap_racecheck $adapter --steps 1 --out $dir/racecheck --overwrite
    [ -x build/dev/decode_racecheck ] && check "racecheck: decode" compute-sanitizer --tool racecheck --error-exitcode 1 build/dev/decode_racecheck tiny
    # a build whose GEMMs are plain ones: the tool stops inside the library's
    for model in llama64 qwen128; do
        check "racecheck: $model, 1 step" compute-sanitizer --tool racecheck --error-exitcode 1 build/train_findap_racecheck --model build/compare/$model $small --steps 1 --out $dir/racecheck --overwrite
    done
else say compute-sanitizer "not found: skipped"; fi

# the same bits: twice the same command; stopped after 7 steps and resumed; every kind of moments
for moments in fp32 bf16 8bit; do
    run() { build/train_findap --model build/compare/llama64 $small --steps 12 --moments $moments --save-dtype float32 --quiet "$@"; }
    check "train: $moments moments" run --out $dir/a_$moments
    check "the same command again" run --out $dir/b_$moments
    check "  gives the same bits" cmp $dir/a_$moments/model.safetensors $dir/b_$moments/model.safetensors
    run --out $dir/c_$moments --stop-after-steps 7 --checkpoint-every 5 >$dir/log 2>&1
    check "stopped after step 7 and resumed" run --out $dir/c_$moments --checkpoint-every 5 --resume
    check "  gives the same bits" cmp $dir/a_$moments/model.safetensors $dir/c_$moments/model.safetensors
done

# the same with an adapter on a bf16 model, which also gives what the model with the adapter merged in gives
lora="build/compare/llama64/base $rows --lr 1e-2 --steps 12 --quiet --merge --save-dtype float32 --lora-rank 16"
for program in train_findap_fp32 train_findap; do
    bound=2e-3; [ $program = train_findap_fp32 ] && bound=1e-5
    for way in "" "--lora-targets q,v --recompute block"; do
        run() { build/$program --model $lora $way "$@"; }
        rm -rf $dir/lora_?
        check "LoRA: $program $way" run --out $dir/lora_a
        check "the same command again" run --out $dir/lora_b
        check "  gives the same bits" cmp $dir/lora_a/adapter_model.safetensors $dir/lora_b/adapter_model.safetensors
        run --out $dir/lora_c --stop-after-steps 7 --checkpoint-every 5 >$dir/log 2>&1
        check "stopped after step 7 and resumed" run --out $dir/lora_c --checkpoint-every 5 --resume
        check "  gives the same bits" cmp $dir/lora_a/adapter_model.safetensors $dir/lora_c/adapter_model.safetensors
        check "  its loss" build/$program --model build/compare/llama64/base $rows --adapter $dir/lora_a --dump $dir/apart.safetensors
        check "  the merged model's, a fresh adapter on it" build/$program --model $dir/lora_a/merged $rows --lora-rank 16 ${way%% --recompute*} --dump $dir/merged.safetensors
        check "  are equal within $bound" build/compare_dumps $dir/merged.safetensors $dir/apart.safetensors --loss $bound
    done
done
# and the CPU twin goes on from the GPU's adapter, and the GPU twin from its
check "CPU twin reads the GPU's adapter" build/train_findap_cpu --model build/compare/llama64/base $rows --adapter $dir/lora_a --dump $dir/cpu.safetensors
check "  and gets its loss within $bound" build/compare_dumps $dir/cpu.safetensors $dir/apart.safetensors --loss $bound

# 50 steps: bf16 with fp32 master weights against fp32 throughout, on real text when scripts/packed.sh has made some
data="build/compare/shards/reports build/compare/shards/questions" model=build/compare/llama64
[ -e build/packed/small/config.json ] && data="build/packed/shards/text build/packed/shards/gsm8k build/packed/shards/finqa" model=build/packed/small
curve="--model $model --init random --init-seed 3 --data $data --seq-len 1024 --step-tokens 16384 --micro-rows 4 --steps 50 --lr 1e-3 --schedule cosine --quiet --overwrite"
losses() { grep -o '"loss_nats_per_target": *[0-9.eE+-]*' "$1/log.jsonl" | sed 's/.*: *//'; }
for p in train_findap_fp32 train_findap; do check "50 steps: $p" build/$p $curve --out $dir/$p; done
for memory in "--moments bf16" "--moments 8bit" "--moments bf16 --gradients bf16"; do check "50 steps: $memory" build/train_findap $curve $memory --out "$dir/train_findap${memory// /_}"; done
# Moments and sums that are rounded stochastically: two runs of the same settings that only split a step's rows differently part by up to 1.0 % in single
# steps of real text (dev/LOG.md), so those are compared by means over five steps
for p in train_findap train_findap--moments_bf16 train_findap--moments_8bit train_findap--moments_bf16_--gradients_bf16; do
    over=1; [ $p = train_findap ] || over=5
    paste <(losses $dir/train_findap_fp32) <(losses $dir/$p) | awk -v name="$p" -v over=$over '
        { a[NR] = $1; b[NR] = $2; x = y = 0; for (i = NR - over + 1; i <= NR && NR >= over; i++) { x += a[i]; y += b[i] }
          d = x > 0 ? (y - x) / x : 0; if (d < 0) d = -d; if (d > most) { most = d; at = NR } }
        END { ok = NR >= 50 && most < 0.01; printf "%-44s %s  fp32 loss %.4f -> %.4f, this one %.4f; largest difference%s %.3f %% at step %d\n", "curve: " name, ok ? "ok    " : "FAILED", a[1], a[NR], b[NR],
          (over > 1 ? " (five-step means)" : ""), 100 * most, at; exit !ok }' || status=1
done
[ $status -eq 0 ] && echo "gpu-check: all ok" || echo "gpu-check: FAILED"
exit $status
