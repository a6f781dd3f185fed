#!/usr/bin/env bash
# emulate.sh: train_findap.cu and dpo.cu on a machine without a GPU: build/emulate/train_findap, dpo and both with _fp32. The files themselves, with matmul.cuh and lora.cuh down to
# the library's calls, are compiled by g++ against a CUDA runtime, a cuBLASLt and kernels that are the host's (dev/emulate/). It shows that the host's side is right
# - offsets, shapes, strides, who owns what, checkpoints, ranks - before time on a GPU is spent; of kernels, streams and speed it shows nothing. peers.cuh alone is the
# real one (--links copies): its ranks map each other's memory, its kernels run thread by thread.
#
#   dev/emulate.sh [-fsanitize=address,undefined]       needs CUDA's headers, and MPI for several ranks
#   dev/emulate.sh; ln -s emulate/... as build/train_findap, build/dpo and both with _fp32, in a copy of the tree: scripts/compare.sh runs (bf16sums aside)
set -euo pipefail
cd "$(dirname "$0")/.."
dir=build/emulate cuda=${CUDA_HOME:-/usr/local/cuda}
rm -rf $dir; mkdir -p $dir/findap/kernels
ln -s "$PWD"/findap/*.h $dir/findap/
ln -s "$PWD"/findap/kernels/{attention_plan.h,lora.cuh,lora_thin.cuh} "$PWD"/dev/emulate/{cuda,kernels}.cuh $dir/findap/kernels/
ln -s "$PWD"/dev/emulate/{cublasLt.h,operations.c} $dir/
sed -E 's/([a-z_]+<[^<>]*>)<<<([^,]+), ([^,]+), 0, stream>>>\(([^)]*)\)/EMU_LAUNCH(\2, \3, \1(\4))/g' findap/kernels/peers.cuh >$dir/findap/kernels/peers.cuh
for f in adamw attention cross_entropy decode embedding nccl rmsnorm rope sample swiglu; do echo '#include "kernels.cuh"' >$dir/findap/kernels/$f.cuh; done
{ sed '/^\/\/ tuning$/,$d' findap/kernels/matmul.cuh; echo 'template <typename... A> static void gemm_tune(A...) {}'; echo 'template <typename... A> static void gemm_fill(A...) {}'; echo '#endif'; } >$dir/findap/kernels/matmul.cuh
sed 's/gemm_fill_kernel<<<[^;(]*>>>/gemm_fill/' train_findap.cu >$dir/train_findap.cpp
sed -n '/^\/\/ matrix multiplication$/,/^\/\/ the model$/p' train_findap.c | grep -v '^// ====' >$dir/operations.inc
flags="-g -march=native -fopenmp -w -I$dir -I. -I$cuda/include $(command -v mpicc >/dev/null && echo "-DFINDAP_MPI $(mpicc --showme:compile)")"
gcc -std=c11 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast $flags -c $dir/operations.c -o $dir/operations.o
sed 's/#ifdef __CUDACC__/#if 1/; s/defined(__CUDACC__)/1/; s/"train_findap.cu"/"train_findap.cpp"/' dpo.cu >$dir/dpo.cpp
for name in train_findap train_findap_fp32 dpo dpo_fp32; do
    g++ -std=c++17 -O2 $flags "$@" -DFINDAP_COMMIT='"emulated"' $([ $name = ${name%_fp32} ] || echo -DFINDAP_FP32) $dir/${name%_fp32}.cpp $dir/operations.o -o $dir/$name -ljansson -lutf8proc -lm $(command -v mpicc >/dev/null && mpicc --showme:link)
done
