#!/usr/bin/env bash
# gpu_figures.sh WHAT...: the README's speeds of Llama-3-8B's shape on this machine's GPUs, a line each; some take minutes. Random weights.
#
#   train         one GPU: the training step, all weights and packed real documents
#   generate      one GPU: batch 1, 256 at a context of 1,024, the judge's shape (778 in, 128 out)
#   ranks         all GPUs: steps of 16,384 tokens a GPU, two micro-batches each, and where their time goes (dev/trace.py)
#   scaling       1, 2, 4, ... GPUs, the same rows: steps of 16,384 tokens for each of all GPUs, and each number's share of so many times one; then rows of one document
#   checkpoint    one GPU: how long training stands still for the 64 GB of a checkpoint; wants 160 GB under SCRATCH, and 64 GB of memory for the copy
#
# RIVALS=DIR: the same work by PyTorch in between, by DIR/train_1gpu.py (argument train), DIR/train_fsdp.py (2) and DIR/lora_dpo_generate.py (gen).
# Data for packed documents, ranks, scaling and checkpoint: scripts/packed.sh makes them. SCRATCH: where an 8B model, 16 GB, and what is written goes (/dev/shm); the model stays there for the next time.
set -uo pipefail
status=0
cd "$(dirname "$0")/.."
scratch=${SCRATCH:-/dev/shm}/findap_figures
export NCCL_NVLS_ENABLE=0 OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
[ "$(id -u)" = 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
stop() { echo "gpu_figures.sh: error: $*" >&2; exit 1; }
need() { for f in "$@"; do [ -e "$f" ] || stop "$f is not there ---> make $f"; done; }
failed() { echo "gpu_figures.sh: error: $* failed" >&2; status=1; }   # and on with the next
packed() { [ -d build/packed/shards ] || stop "build/packed is not there ---> FINDAP_DATA=/path/to/unpacked/data scripts/packed.sh"; }
model() {   # an 8B model with the packed data's tokenizer
    packed
    [ -f "$scratch/model/config.json" ] && return
    mkdir -p "$scratch" && python3 dev/random_model.py llama3-8b "$scratch/model" && cp build/packed/model/tokenizer*.json "$scratch/model/" || stop "no model of random weights under $scratch"
}
shards() { for f in build/packed/shards/*-00001-of-*.safetensors; do echo "${f%-00001-of-*}"; done; }
rival() { [ -z "${RIVALS:-}" ] || { echo "PyTorch:"; python3 "$RIVALS/$1" "$2" || failed "$RIVALS/$1"; }; }
if [ $# -eq 0 ] || [ "$1" = -h ] || [ "$1" = --help ]; then sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'; [ $# -gt 0 ]; exit; fi
for what in "$@"; do case $what in train|generate|ranks|scaling|checkpoint) ;; *) stop "there is no '$what'; expected train, generate, ranks, scaling or checkpoint" ;; esac; done
trap 'rm -rf "$scratch/out" "$scratch"/trace.* "$scratch/scaling.log"' EXIT
nvidia-smi --query-gpu=name,temperature.gpu,power.limit --format=csv,noheader 2>/dev/null || stop "no GPU here"
for what in "$@"; do case $what in
    train)
        need build/dev/step
        ours() { build/dev/step llama3-8b --moments bf16 --recompute none "$@" | tail -n 2 || failed "build/dev/step $*"; }
        ours --repeat 8
        rival train_1gpu.py train
        ours --repeat 8
        [ ! -f build/packed/mix.safetensors ] || ours --micro 8 --batch build/packed/mix.safetensors ;;
    generate)
        need build/dev/generate
        ours() { build/dev/generate llama3-8b "$@" | sed -n 2p || failed "build/dev/generate $*"; }
        ours --batch 1 --prompt 128 --new 256
        ours --batch 256 --prompt 928 --new 192
        rival lora_dpo_generate.py gen
        ours --batch 1 --prompt 128 --new 256
        ours --batch 256 --prompt 928 --new 192
        ours --batch 256 --prompt 778 --new 128 --requests 1024 ;;
    ranks)
        need build/train_findap build/dev/libtrace.so
        model
        gpus=$(nvidia-smi -L | wc -l)
        CUDA_INJECTION64_PATH=$PWD/build/dev/libtrace.so TRACE_OUT=$scratch/trace mpirun --bind-to none -np "$gpus" build/train_findap --model "$scratch/model" --data $(shards) --seq-len 8192 --step-tokens $((gpus * 16384)) \
            --micro-rows 1 --recompute none --checkpoint-every 0 --steps 6 --lr 1e-5 --out "$scratch/out" --overwrite 2>&1 | grep --line-buffered '^step\|error\|trace:' || failed train_findap
        python3 dev/trace.py "$scratch/trace.0.tsv" || failed dev/trace.py ;;
    scaling)
        need build/train_findap
        model
        gpus=$(nvidia-smi -L | wc -l) one=
        steps() {   # GPUs, shards...: steps 2 to 4, the first is warm-up; one GPU has no room for fp32 moments
            local n=$1 moments=fp32 log=$scratch/scaling.log ms; shift
            [ "$n" -gt 1 ] || moments=bf16
            CUDA_VISIBLE_DEVICES=$(seq -s, 0 $((n - 1))) mpirun --bind-to none -np "$n" build/train_findap --model "$scratch/model" --data "$@" --seq-len 8192 --step-tokens $((gpus * 16384)) --micro-rows 1 --recompute none \
                --moments $moments --checkpoint-every 0 --steps 4 --lr 1e-5 --out "$scratch/out" --overwrite >"$log" 2>&1 || { failed "train_findap with $n GPUs ($(grep error "$log" | tail -n 1))"; return; }
            ms=$(grep '^step' "$log" | grep -o '[0-9.]* ms' | sed '1d; s/ ms//' | tr '\n' ' ')
            [ "$n" -gt 1 ] || one=$ms
            awk -v n="$n" -v ms="$ms" -v one="$one" 'BEGIN { k = split(ms, a); k = split(one, b) < k ? 0 : k; for (i = 1; i <= k; i++) { all += a[i]; alone += b[i] }
                printf "%2d GPU(s): %sms a step%s\n", n, ms, n == 1 || k == 0 ? "" : sprintf(", %.1f %% of %d times one", 100 * alone / (n * all), n) }'
        }
        echo "packed documents, steps of $((gpus * 16384)) tokens:"
        for ((n = 1; n <= gpus; n *= 2)); do steps $n $(shards); done
        echo "rows of one document:"
        one=
        for n in 1 "$gpus"; do steps "$n" build/packed/causal/text; done
        [ -z "${RIVALS:-}" ] || torchrun --nproc-per-node "$gpus" "$RIVALS/train_fsdp.py" 2 || failed "$RIVALS/train_fsdp.py" ;;
    checkpoint)
        need build/train_findap
        model
        build/train_findap --model "$scratch/model" --data $(shards) --seq-len 8192 --step-tokens 32768 --micro-rows 1 --recompute none --moments bf16 --checkpoint-every 3 --keep 1 --steps 8 --lr 1e-5 --out "$scratch/out" --overwrite 2>&1 \
            | grep --line-buffered '^step\|heckpoint\|made\|error' || failed train_findap ;;
esac; done
exit $status
