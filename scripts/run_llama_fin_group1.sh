#!/usr/bin/env bash
# Llama-Fin, group 1 (arXiv 2501.04961, table G.1), from the public data sets to the adapted model: fetch, prepare, train.
#
#   MODEL=DIR [GPUS=8] [HOSTFILE=FILE] scripts/run_llama_fin_group1.sh [--plan | --dry-run] [fetch] [prepare] [train]
#
# Without a word all three; each skips what is there already, and train goes on where it was. --plan prints the arithmetic below for the
# recipe in use; --dry-run prints every command, and with the shards there what train_findap --dry-run says of them.
#
#   MODEL        Llama-3-8B-Instruct as a Hugging Face directory (Meta's licence; the project does not fetch it)
#   GPUS         processes, one a GPU (default: all of this host)           HOSTFILE  Open MPI's: "name slots=8" a line
#   DATA         JSONL rows (build/fintrain)         SHARDS  token shards (build/shards)         OUT  result (build/llama_fin/group1)
#   AS           paper, or code for what the released scripts did, with other rows in the shards: build/shards_code, build/llama_fin_code/group1
#   RECIPE       another recipe file to take the stage from
#   MEMORY       memory flags (one GPU: --moments bf16; more: none, fp32 throughout)        TRAIN_FLAGS  more flags for train_findap
#   FETCH_FLAGS  more flags for fintrain.py get, as --from PATH             TRIES     starts without progress (3)
#   TRAIN        the program (./train_findap)                               LAUNCH    what starts it (mpirun ..., nothing on one GPU)
#
# The arithmetic (--plan). 30,000 steps x 128,000 tokens = 3.84 G tokens, in rows of 8,000: 16 rows a step, so 16 GPUs is the most
# that whole rows can feed. FLOPs a token: 6 x 7.505 G (matrix products, recomputation not counted) = 45.0 G, and up to 6.3 G of
# attention (every row one document; short documents need less): 51.3 G, in all 1.73e20 to 1.97e20.
#     1 GPU     87.4 to 93.4 h   measured: 12,200 to 11,425 tok/s on one H200, by card
#     8 GPUs    10.8 to 11.6 h   measured: 12,320 (packed real documents) to 11,470 tok/s a GPU (rows of one document), by NCCL alone
#     16 GPUs    5.6 h           if 12,000 tok/s a GPU held across two hosts; not measured, doc/scaling.md says what stands in its way
# Not in it: evaluations (every 500 steps, forward only; about 4 % where the held-out 0.2 % is of as many tokens as are trained), loading,
# checkpoints. The stage ends early when the dev loss has not fallen three times in a row.
# Disk: the token shards (5 bytes a token), checkpoints of 12 bytes a parameter (96 GB; two are kept, a third while it is written),
# OUT and OUT/best (16 GB each).
set -euo pipefail
cd "$(dirname "$0")/.."
group=${FINDAP_GROUP:-group1}   # scripts/run_llama_fin_group2.sh says group2

plan=false dry=false words=()
for word in "$@"; do
    case $word in
        --plan) plan=true ;;
        --dry-run) dry=true ;;
        fetch | prepare | train) words+=("$word") ;;
        --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "scripts/run_llama_fin_$group.sh"; exit 0 ;;
        *) echo "$group: error: \"$word\" ---> usage: scripts/run_llama_fin_$group.sh [--plan | --dry-run] [fetch] [prepare] [train]" >&2; exit 2 ;;
    esac
done
[ ${#words[@]} -gt 0 ] || words=(fetch prepare train)
die() { echo "$group: error: $*" >&2; exit 1; }

as=${AS:-paper} train=${TRAIN:-./train_findap} hostfile=${HOSTFILE:-}
[ "$as" = paper ] || [ "$as" = code ] || die "AS is \"$as\", expected paper or code"
apart=""
[ "$as" = code ] && apart=_code
model=${MODEL:-MODEL_DIR} data=${DATA:-build/fintrain} shards=${SHARDS:-build/shards$apart} out=${OUT:-build/llama_fin$apart/$group}
recipe=${RECIPE:-data/recipes/findap-$as.json}
[ -f "$recipe" ] || die "$recipe: there is no such recipe"
wants() { case " ${words[*]} " in *" $1 "*) ;; *) return 1 ;; esac; }
gpus=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | grep -c . || true)}
if [ -n "${GPUS-}" ] && ! [[ $GPUS =~ ^[1-9][0-9]*$ ]]; then die "GPUS is \"$GPUS\", expected a number from 1"; fi
[ "$gpus" -gt 0 ] || { $plan || $dry || ! wants train || die "no GPU found ---> say how many: GPUS=8"; gpus=8; }
memory=""
[ "$gpus" -eq 1 ] && memory="--moments bf16"   # on one H200 fp32 moments and gradients leave no room for the activations
memory=${MEMORY-$memory}
read -ra memory_flags <<<"$memory"
read -ra train_flags <<<"${TRAIN_FLAGS:-}"
read -ra fetch_flags <<<"${FETCH_FLAGS:-}"

# ---------------------------------------------------------------------------------------------------------------
# the arithmetic

if $plan; then
    python3 - "$recipe" "$group" <<'PY'
import json, sys
recipe = json.load(open(sys.argv[1]))
stage = next((s for s in recipe["stages"] if s["name"] == sys.argv[2]), None)
if stage is None:
    sys.exit(f"{sys.argv[1]}: no stage {sys.argv[2]}")
row, step = recipe["seq_len"], recipe["step_tokens"]
steps = stage.get("stop_after_steps") or stage.get("steps") or -(-stage.get("tokens", 0) // step)
if not steps:
    sys.exit(f"{sys.argv[1]}: the horizon is in epochs: the steps depend on the data ---> --dry-run counts them")
tokens = steps * step
# Llama-3-8B: weights of matrix products (the embedding is looked up), layers, width; causal attention of rows that are one document
products, layers, width = 7_504_658_432, 32, 4096
low, high = 6 * products, 6 * products + 12 * layers * width * (row + 1) / 2
print(f"{recipe['name']}, {stage['name']}: {steps:,} steps x {step:,} tokens = {tokens / 1e9:.4g} G tokens; rows of {row:,}, {step // row} rows a step")
horizon = stage.get("steps") or f"that of {stage.get('epochs')} epochs"
print(f"lr {stage['lr']:g}, {stage['schedule']}, warmup {stage['warmup']:.0%} of the horizon ({horizon if isinstance(horizon, str) else f'{horizon:,} steps'})")
print(f"FLOPs a token: {low / 1e9:.1f} G in matrix products, {high / 1e9:.1f} G where every row is one document; in all {low * tokens:.3g} to {high * tokens:.3g}")
def hours(rate, gpus): return tokens / rate / gpus / 3600
print(f"   1 GPU  {hours(12200, 1):6.1f} to {hours(11425, 1):.1f} h   at 12,200 to 11,425 tok/s, measured on one H200, by card")
print(f"   8 GPUs {hours(12320, 8):6.1f} to {hours(11470, 8):.1f} h   at 12,320 (packed documents) to 11,470 tok/s a GPU (rows of one document), measured by NCCL alone")
print(f"  16 GPUs {hours(12000, 16):6.1f} h           if 12,000 tok/s a GPU held across two hosts; not measured (doc/scaling.md)")
print("not in it: evaluations, loading, checkpoints")
PY
    exit 0
fi

# ---------------------------------------------------------------------------------------------------------------
# fetch and prepare: the commands are those of `fintrain.py recipe`, less what is there already

run() { echo "+ $*" >&2; if ! $dry; then "$@"; fi; }
# before hours of fetching: are the programs there?
if ! $dry; then
    ! wants prepare || [ -x build/prepare ] || die "build/prepare: there is no such program ---> make cpu"
    ! wants train || command -v "$train" >/dev/null || die "$train: there is no such program ---> make, or TRAIN=PROGRAM"
    ! wants train || [ "$gpus" -eq 1 ] || [ -n "${LAUNCH-}" ] || command -v mpirun >/dev/null || die "mpirun: there is no such program ---> install OpenMPI, or LAUNCH=srun ..."
fi

commands() { python3 data/fintrain.py recipe "$1" --as "$as" --data "$data" --shards "$shards" --tokenizer "$model"; }
groups=(group1)   # group 2 uses the shards of group 1 again
[ "$group" = group2 ] && groups+=(group2)
lines=$(for g in "${groups[@]}"; do commands "$g"; done)
if { wants prepare || wants train; } && ! $dry; then
    [ -f "$model/config.json" ] || die "MODEL is \"$model\", expected a Hugging Face directory with config.json"
fi

$dry || mkdir -p "$shards"
while IFS= read -r line; do
    [[ -z $line || $line == \#* ]] && continue
    eval "command=($line)"   # our own program's, quoted for a shell
    # shellcheck disable=SC2154  # eval assigns it
    case ${command[1]-} in
        data/fintrain.py)   # python3 data/fintrain.py get NAME... --out DIR
            wants fetch || continue
            missing=()
            for name in "${command[@]:3}"; do
                [ "$name" = --out ] && break
                if [ -f "$data/$name.jsonl" ] && [ -f "$data/$name.meta.json" ]; then echo "$name: is there" >&2
                else missing+=("$name"); fi
            done
            [ ${#missing[@]} -eq 0 ] || run python3 data/fintrain.py get "${missing[@]}" --out "$data" ${fetch_flags[@]+"${fetch_flags[@]}"} ;;
        --tokenizer)        # build/prepare --tokenizer ... --out PREFIX FILE...
            wants prepare || continue
            for ((i = 0; i < ${#command[@]}; i++)); do [ "${command[i]}" = --out ] && prefix=${command[i + 1]}; done
            words_of=("${command[@]:3}")   # all but the program and the tokenizer, which group 2 finds elsewhere, and no folders
            made_by="${words_of[*]##*/}"
            if [ ! -f "$prefix.report.json" ]; then
                run "${command[@]}"
                $dry || printf '%s\n' "$made_by" >"$prefix.made_by"
            elif [ -f "$prefix.made_by" ] && [ "$(<"$prefix.made_by")" != "$made_by" ]; then
                die "$prefix: was made by other flags or of other files (\"$(<"$prefix.made_by")\", now \"$made_by\") ---> another SHARDS, or remove ${prefix}[-.]*"
            else
                echo "$prefix: is there" >&2
                for file in "${command[@]}"; do
                    [[ $file == *.jsonl && $file -nt $prefix.report.json ]] && echo "$group: warning: $file is newer than $prefix ---> remove ${prefix}[-.]* to make it again" >&2
                done
            fi ;;
    esac
done <<<"$lines"

# ---------------------------------------------------------------------------------------------------------------
# train: the group's stage alone, from its recipe file to one beside the shards

wants train || exit 0
one_stage() {   # FILE
    python3 - "$recipe" "$group" "$as" >"$1" <<'PY'
import json, sys
path, group, kind = sys.argv[1:]
recipe = json.load(open(path))
recipe["name"] += "-" + group
recipe["stages"] = [s for s in recipe["stages"] if s["name"] == group]
if not recipe["stages"]:
    sys.exit(f"{path}: no stage {group}")
recipe["stages"][0].pop("optimizer", None)   # "fresh" after group 1; here the run begins with it
if (kind, group) == ("code", "group2"):      # as `fintrain.py recipe group2 --as code` says
    for stream in recipe["stages"][0]["streams"]:
        if stream["shards"] == ["finance_it"]:
            stream["shards"].append("finance_it_group2")
json.dump(recipe, sys.stdout, indent=1)
PY
}

export NCCL_NVLS_ENABLE=0   # NVLink multicast is not to be relied on (and off in every figure that the hours rest on)
export OMPI_MCA_odls_base_sigkill_timeout=60 PRTE_MCA_odls_base_sigkill_timeout=60   # a rank that ends early gives the others a minute
[ "$(id -u)" -eq 0 ] && export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1   # containers
launch=()
if [ -n "${LAUNCH-}" ]; then read -ra launch <<<"$LAUNCH"
elif [ "$gpus" -gt 1 ]; then
    launch=(mpirun -np "$gpus" --bind-to none -x NCCL_NVLS_ENABLE)
    [ -n "$hostfile" ] && launch+=(--hostfile "$hostfile")
    [ -n "${LD_LIBRARY_PATH-}" ] && launch+=(-x LD_LIBRARY_PATH)
fi
here=$shards/findap-$as-$group.json
flags=(--model "$model" --recipe "$here" ${memory_flags[@]+"${memory_flags[@]}"} ${train_flags[@]+"${train_flags[@]}"})
loop=(scripts/resume_loop.sh --tries "${TRIES:-3}" ${launch[@]+"${launch[@]}"} "$train" "${flags[@]}" --out "$out")
if $dry; then
    echo "+ (the stage $group of $recipe) > $here" >&2
    echo "+ ${loop[*]}" >&2
    if [ ! -f "$model/config.json" ] || ! ls "$shards"/*.report.json >/dev/null 2>&1; then echo "$group: no model or no shards yet: nothing to count" >&2; exit 0; fi
    flags[3]=$(mktemp "$shards/.dry_run.XXXXXX.json")
    trap 'rm -f "${flags[3]}"' EXIT
    one_stage "${flags[3]}"
    alone=()   # one process counts for all: without the flags that are for several
    for ((i = 0; i < ${#flags[@]}; i++)); do
        case ${flags[i]} in --zero | --watchdog | --shard-ranks | --links) i=$((i + 1)) ;; --zero=* | --watchdog=* | --shard-ranks=* | --links=*) ;; *) alone+=("${flags[i]}") ;; esac
    done
    "$train" "${alone[@]}" --dry-run
    exit 0
fi
one_stage "$here.tmp"
mv "$here.tmp" "$here"
exec "${loop[@]}"
