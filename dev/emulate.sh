#!/usr/bin/env bash
# emulate.sh: train_findap.cu on a machine without a GPU: build/emulate/train_findap and train_findap_fp32. The file itself, with matmul.cuh and lora.cuh down to
# the library's calls, is compiled by g++ against a CUDA runtime, a cuBLASLt and kernels that are the host's (dev/emulate/). It shows that the host's side is right
# - offsets, shapes, strides, who owns what, checkpoints, ranks - before time on a GPU is spent; of kernels, streams and speed it shows nothing.
#
#   dev/emulate.sh [-fsanitize=address,undefined]       needs CUDA's headers, and MPI for several ranks
#   dev/emulate.sh; ln -s ../build/emulate/... as build/train_findap and build/train_findap_fp32 of a copy: scripts/compare.sh runs (bf16sums aside)
set -euo pipefail
cd "$(dirname "$0")/.."
dir=build/emulate cuda=${CUDA_HOME:-/usr/local/cuda}
rm -rf $dir; mkdir -p $dir/findap/kernels
ln -s "$PWD"/findap/*.h $dir/findap/
ln -s "$PWD"/findap/kernels/{attention_plan.h,lora.cuh,lora_thin.cuh} "$PWD"/dev/emulate/{cuda,kernels}.cuh $dir/findap/kernels/
ln -s "$PWD"/dev/emulate/{cublasLt.h,operations.c} $dir/
for f in adamw attention cross_entropy decode embedding nccl rmsnorm rope sample swiglu; do echo '#include "kernels.cuh"' >$dir/findap/kernels/$f.cuh; done
{ sed '/^\/\/ tuning$/,$d' findap/kernels/matmul.cuh; echo 'template <typename... A> static void gemm_tune(A...) {}'; echo 'template <typename... A> static void gemm_fill(A...) {}'; echo '#endif'; } >$dir/findap/kernels/matmul.cuh
sed 's/gemm_fill_kernel<<<[^;(]*>>>/gemm_fill/' train_findap.cu >$dir/train_findap.cpp
sed -n '/^\/\/ matrix multiplication$/,/^\/\/ the model$/p' train_findap.c | grep -v '^// ====' >$dir/operations.inc
flags="-g -march=native -fopenmp -w -I$dir -I. -I$cuda/include $(command -v mpicc >/dev/null && echo "-DFINDAP_MPI $(mpicc --showme:compile)")"
gcc -std=c11 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast $flags -c $dir/operations.c -o $dir/operations.o
for name in train_findap train_findap_fp32; do
    g++ -std=c++17 -O2 $flags "$@" -DFINDAP_COMMIT='"emulated"' $([ $name = train_findap ] || echo -DFINDAP_FP32) $dir/train_findap.cpp $dir/operations.o -o $dir/$name -ljansson -lutf8proc -lm $(command -v mpicc >/dev/null && mpicc --showme:link)
done
