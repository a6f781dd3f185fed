#!/usr/bin/env bash
# Llama-Fin, group 2 (arXiv 2501.04961, table G.1): from group 1's model, group 1's data with books and their exercises.
#
#   [MODEL=DIR] [GPUS=8] [HOSTFILE=FILE] scripts/run_llama_fin_group2.sh [--plan | --dry-run] [fetch] [prepare] [train]
#
# Words and variables are those of scripts/run_llama_fin_group1.sh, which does the work. MODEL is group 1's result unless given: its best/
# (lowest dev loss) where there is one, else its last. OUT is build/llama_fin/group2. Group 1's shards are used again.
#
# The arithmetic (--plan). 13,000 steps x 128,000 tokens = 1.664 G tokens (1.66 in the paper), 16 rows of 8,000 a step.
# 45.0 to 51.3 GFLOP a token (see group 1), in all 7.49e19 to 8.54e19. Warmup 50 %: 6,500 steps.
#     1 GPU     37.9 to 40.5 h   measured: 12,200 to 11,425 tok/s on one H200, by card
#     8 GPUs     4.7 to 5.0 h    measured: 12,320 (packed real documents) to 11,470 tok/s a GPU (rows of one document), by NCCL alone
#     16 GPUs    2.4 h           if 12,000 tok/s a GPU held across two hosts; not measured (doc/scaling.md)
# The released code stopped here inside the warmup of a three-epoch schedule: AS=code.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${MODEL-}" ]; then
    apart=""
    [ "${AS:-paper}" = code ] && apart=_code
    MODEL=${GROUP1:-build/llama_fin$apart/group1}   # GROUP1: the OUT of group 1
    [ -f "$MODEL/best/config.json" ] && MODEL=$MODEL/best
fi
export MODEL FINDAP_GROUP=group2
exec bash scripts/run_llama_fin_group1.sh "$@"
