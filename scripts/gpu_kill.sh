#!/usr/bin/env bash
# A rank is killed (SIGKILL) at a random moment, 20 times, and the run goes on with --resume: the model at the end must have the bits of a run that nobody
# disturbed. A small model on all GPUs of this host, a checkpoint every 10 steps; some minutes. Three kills of four come at a random moment
# after the first step, however long the ranks take to start, the fourth at any.
#
#   scripts/gpu_kill.sh [times] [steps]
set -uo pipefail
cd "$(dirname "$0")/.."
export NCCL_NVLS_ENABLE=0 OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
[ "$(id -u)" = 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
times=${1:-20} steps=${2:-3000} gpus=$(nvidia-smi -L | wc -l) dir=build/gpu_kill
bash scripts/compare.sh models || exit 1
rm -rf $dir; mkdir -p $dir
job() {   # directory under $dir, flags...
    local out=$dir/$1; shift
    mpirun --bind-to none -np "$gpus" build/train_findap --model build/compare/llama64 --init random --init-seed 5 --data build/compare/shards/reports build/compare/shards/questions --seq-len 333 \
        --step-tokens 2664 --micro-rows 2 --lr 1e-3 --steps "$steps" --zero 2 --links copies --checkpoint-every 10 --save-dtype float32 --out "$out" "$@"
}
job whole --overwrite >$dir/whole.log 2>&1 || { tail -n 3 $dir/whole.log; exit 1; }
RANDOM=${SEED:-1} killed=0
for ((i = 1; i <= times; i++)); do
    job killed --resume >$dir/$i.log 2>&1 &
    mpi=$!
    [ $((i % 4)) = 0 ] || for ((tenth = 0; tenth < 600; tenth++)); do grep -q '^step' $dir/$i.log && break; kill -0 $mpi 2>/dev/null || break; sleep 0.1; done
    sleep "$((RANDOM % 3)).$((RANDOM % 10))"
    for ((tenth = 0; tenth < 100; tenth++)); do   # there may be none yet
        mapfile -t ranks < <(pgrep -f "^build/train_findap .*--out $dir/killed")
        [ ${#ranks[@]} -gt 0 ] && break; kill -0 $mpi 2>/dev/null || break; sleep 0.1
    done
    [ ${#ranks[@]} -gt 0 ] && kill -9 "${ranks[RANDOM % ${#ranks[@]}]}" 2>/dev/null && killed=$((killed + 1))
    begin=$SECONDS
    wait $mpi; status=$?
    printf 'trial %2d: %-40s ended %d s after the kill with status %d, last: %s\n' $i "$(grep -o 'resumed after step [0-9]*' $dir/$i.log || echo 'from the beginning')" $((SECONDS - begin)) $status \
        "$(grep '^step' $dir/$i.log | tail -n 1 | cut -c1-20)"
    [ $status -ne 0 ] || break
done
job killed --resume >$dir/last.log 2>&1 || { tail -n 3 $dir/last.log; exit 1; }
cmp -s $dir/whole/model.safetensors $dir/killed/model.safetensors || { echo "gpu-kill: DIFFERENT after $killed kills"; exit 1; }
echo "gpu-kill: $killed kills, the same bits"
