# Makefile: finds what this machine has, says so, builds what it can and names what it skips.
#
#   make            the programs people run: the CPU's, and the GPU's where there is nvcc
#   make cpu        the CPU's alone
#   make cuda       everything that nvcc compiles: the GPU's programs, an fp32 build, every ladder of dev/
#   make demo       the main job, end to end, on the CPU with data the project makes itself (about three minutes)
#   make demo-align the generative reward model end to end, likewise (sample, judge, correct, pairs, dpo)
#   make test       every test, no GPU and no Python needed
#   make help       all targets
#
# Settings: ARCH=native|x86-64-v3 (which processors the programs run on), SANITIZE=1 (AddressSanitizer and UBSan),
#           CUDA_HOME=DIR, CUDA_ARCH="80 90a" (which GPUs), USE_CUDNN=1 with CUDNN_FRONTEND=DIR (cuDNN's attention instead of ours),
#           NO_MPI=1 (one rank only), NO_STATIC=1 (link jansson and utf8proc as shared libraries).

SHELL := /bin/bash
CC ?= cc
ARCH ?= native
BUILD := build$(if $(SANITIZE),/sanitize)

# ---- what is here (':=' with $(shell ...): run once, and visible when it fails)
HASH      := \#
UNAME_M   := $(shell uname -m)
CUDA_HOME ?= $(firstword $(wildcard /usr/local/cuda /opt/cuda))
NVCC      := $(shell command -v nvcc 2>/dev/null || ls $(CUDA_HOME)/bin/nvcc 2>/dev/null)
NVCC_VER  := $(if $(NVCC),$(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'))
HAS_NCCL  := $(shell ls /usr/include/nccl.h $(CUDA_HOME)/include/nccl.h 2>/dev/null | head -n 1)
NCCL_LIB  := $(firstword $(wildcard $(CUDA_HOME)/lib/libnccl.so $(CUDA_HOME)/lib64/libnccl.so /usr/lib/x86_64-linux-gnu/libnccl.so /usr/lib/libnccl.so))
HAS_CUDNN := $(shell ls /usr/include/cudnn.h /usr/include/x86_64-linux-gnu/cudnn.h $(CUDA_HOME)/include/cudnn.h 2>/dev/null | head -n 1)
CXX_FOUND := $(shell command -v $(CXX) 2>/dev/null)
MPICC     := $(if $(NO_MPI),,$(shell command -v mpicc 2>/dev/null))
# Open MPI's flags, or MPICH's; several ranks need it, one does not
MPI_FLAGS := $(if $(MPICC),-DFINDAP_MPI $(shell $(MPICC) --showme:compile 2>/dev/null || $(MPICC) -compile_info 2>/dev/null | cut -d' ' -f2-))
MPI_LIBS  := $(if $(MPICC),$(shell $(MPICC) --showme:link 2>/dev/null || $(MPICC) -link_info 2>/dev/null | cut -d' ' -f2-))
HAS_OMP   := $(shell printf 'int main(void){return 0;}' | $(CC) -fopenmp -x c - -o /dev/null 2>/dev/null && echo yes)
has_header = $(shell printf '$(HASH)include <%s>\nint main(void){return 0;}' '$(1)' | $(CC) -fsyntax-only -x c - 2>/dev/null && echo yes)
HAS_JANSSON  := $(call has_header,jansson.h)
HAS_UTF8PROC := $(call has_header,utf8proc.h)
HAS_XXHASH   := $(call has_header,xxhash.h)
# optional: judges behind an HTTP endpoint; a program that asks one adds these to its flags and libraries
HAS_CURL     := $(call has_header,curl/curl.h)
CURL_FLAGS   := $(if $(HAS_CURL),-DFINDAP_CURL)
CURL_LIBS    := $(if $(HAS_CURL),-lcurl)
HAS_CMOCKA   := $(shell printf '$(HASH)include <stdarg.h>\n$(HASH)include <stddef.h>\n$(HASH)include <setjmp.h>\n$(HASH)include <stdint.h>\n$(HASH)include <cmocka.h>\nint main(void){return 0;}' | $(CC) -fsyntax-only -x c - 2>/dev/null && echo yes)
COMMIT    := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)

# ---- flags
# -ffp-contract=fast: a*b+c is one fused instruction (ISO C mode turns that off); -fno-math-errno, -fno-trapping-math:
# the compiler may vectorise sqrtf and selections. None of them reorders a sum: results stay repeatable.
CFLAGS_BASE := -std=c11 -Wall -Wextra -Wshadow -I. -DFINDAP_COMMIT='"$(COMMIT)"' $(if $(HAS_OMP),-fopenmp)
ifdef SANITIZE
CFLAGS ?= -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
export ASAN_OPTIONS := detect_leaks=1:allocator_may_return_null=1
else
CFLAGS ?= -O3 -march=$(ARCH) -fno-math-errno -fno-trapping-math -ffp-contract=fast -g
endif
# static where the archives exist, so that a program also runs on machines without these packages
static_lib = $(if $(NO_STATIC)$(SANITIZE),-l$(1),$(shell f=$$($(CC) -print-file-name=lib$(1).a); [ -f "$$f" ] && echo "$$f" || echo -l$(1)))
CUDA_ARCH ?= 80 90a
$(if $(filter 90,$(CUDA_ARCH)),$(error CUDA_ARCH=$(CUDA_ARCH): Hopper's own instructions are compiled for 90a only ---> CUDA_ARCH="80 90a", or 90a alone))
# 90a: Hopper's own instructions (wgmma, TMA); 80, with its PTX: everything else, newer cards too
gencode = $(if $(filter 80,$(1)),-gencode arch=compute_80$(comma)code=[sm_80$(comma)compute_80],-gencode arch=compute_$(1)$(comma)code=sm_$(1))
comma := ,
NVCC_FLAGS = -O3 -std=c++17 -I. -DFINDAP_COMMIT='"$(COMMIT)"' -lineinfo $(foreach a,$(CUDA_ARCH),$(call gencode,$(a))) \
    -Xcompiler '-Wall -Wno-unused-function -Wno-uninitialized -Wno-maybe-uninitialized $(if $(HAS_OMP),-fopenmp) -march=$(ARCH)' -diag-suppress 177,550 \
    $(if $(USE_CUDNN),-DUSE_CUDNN -I$(CUDNN_FRONTEND))
CUDA_LIBS = -lcublasLt -ldl $(if $(USE_CUDNN),-lcudnn -lnvrtc)
# several GPUs: NCCL moves, MPI starts. Only for the programs people run, and dev/links.cu
RANKS := $(if $(and $(HAS_NCCL),$(NCCL_LIB),$(MPICC)),$(MPI_FLAGS) -DFINDAP_NCCL)
RANK_LIBS := $(if $(RANKS),-L$(dir $(NCCL_LIB)) -lnccl $(filter-out -pthread -Wl$(comma)%,$(MPI_LIBS)))
LIBS := $(call static_lib,jansson) $(call static_lib,utf8proc) -lm

HEADERS  := $(wildcard findap/*.h)
CPU_PROGRAMS := prepare make_demo ask_cpu train_findap_cpu dpo_cpu genrm_cpu eval_cpu
# every program that has a CUDA twin: x.cu -> x; eval.c holds nothing of CUDA's itself
CUDA_PROGRAMS := $(basename $(wildcard train_findap.cu dpo.cu genrm.cu eval.c))
KERNELS  := $(wildcard findap/kernels/*)
LADDERS  := $(patsubst dev/%.cu,build/dev/%,$(wildcard dev/*.cu))
TESTS    := $(patsubst test/%.c,$(BUILD)/%,$(wildcard test/test_*.c))
FUZZERS  := $(patsubst test/fuzz/%.c,build/fuzz/%,$(wildcard test/fuzz/fuzz_*.c))


.PHONY: all cpu detect demo demo-align test test-sanitize sanitized-tests headers cuda ladders compare gpu-check gpu-ranks fuzz bench deps help clean
.DEFAULT_GOAL := all

detect:
	@echo "compiler  $(CC) $(shell $(CC) -dumpfullversion -dumpversion 2>/dev/null), $(UNAME_M), -march=$(ARCH); commit $(COMMIT)"
	@echo "OpenMP    $(if $(HAS_OMP),found,not found: programs run on one thread)"
	@echo "jansson   $(if $(HAS_JANSSON),found,MISSING)   utf8proc $(if $(HAS_UTF8PROC),found,MISSING)   xxHash $(if $(HAS_XXHASH),found,MISSING)   cmocka $(if $(HAS_CMOCKA),found,not found: needed by make test only)"
	@echo "libcurl   $(if $(HAS_CURL),found,not found: no judging through HTTP endpoints)"
	@echo "nvcc      $(if $(NVCC),$(NVCC) $(NVCC_VER),not found: CUDA programs are skipped)"
	@echo "NCCL      $(if $(HAS_NCCL),$(HAS_NCCL),not found)   cuDNN $(if $(HAS_CUDNN),$(HAS_CUDNN),not found)   MPI $(if $(MPICC),$(MPICC),not found)"

$(BUILD):
	@mkdir -p $@

# each program is one translation unit; a link in the root makes ./train_findap_cpu work as the README writes it
define program
	$(CC) $(CFLAGS_BASE) $(CFLAGS) $< -o $@ $(LIBS)
	@$(if $(SANITIZE),,ln -sfn $@ $(notdir $@))
endef
$(BUILD)/prepare: data/prepare.c $(HEADERS) Makefile | $(BUILD)
	$(program)
$(BUILD)/make_demo: data/make_demo.c $(HEADERS) Makefile | $(BUILD)
	$(program)
$(BUILD)/ask_cpu: data/ask.c train_findap.c $(HEADERS) Makefile | $(BUILD)
	$(program)
$(BUILD)/train_findap_cpu: train_findap.c $(HEADERS) Makefile | $(BUILD)
	$(CC) $(CFLAGS_BASE) $(MPI_FLAGS) $(CFLAGS) $< -o $@ $(LIBS) $(MPI_LIBS)
	@$(if $(SANITIZE),,ln -sfn $@ $(notdir $@))
$(BUILD)/dpo_cpu: dpo.cu train_findap.c $(HEADERS) Makefile | $(BUILD)
	$(CC) $(CFLAGS_BASE) $(MPI_FLAGS) $(CFLAGS) -x c $< -x none -o $@ $(LIBS) $(MPI_LIBS)
	@$(if $(SANITIZE),,ln -sfn $@ $(notdir $@))
$(BUILD)/genrm_cpu: genrm.cu train_findap.c $(HEADERS) Makefile | $(BUILD)
	$(CC) $(CFLAGS_BASE) $(MPI_FLAGS) $(CURL_FLAGS) $(CFLAGS) -x c $< -x none -o $@ $(LIBS) $(MPI_LIBS) $(CURL_LIBS) -pthread
	@$(if $(SANITIZE),,ln -sfn $@ $(notdir $@))
$(BUILD)/eval_cpu: eval.c train_findap.c $(HEADERS) Makefile | $(BUILD)
	$(CC) $(CFLAGS_BASE) $(MPI_FLAGS) $(CURL_FLAGS) $(CFLAGS) $< -o $@ $(LIBS) $(MPI_LIBS) $(CURL_LIBS) -pthread
	@$(if $(SANITIZE),,ln -sfn $@ $(notdir $@))
$(BUILD)/test_%: test/test_%.c $(wildcard test/*.h data/*.c) train_findap.c dpo.cu genrm.cu eval.c $(HEADERS) Makefile | $(BUILD)
	$(CC) $(CFLAGS_BASE) $(CFLAGS) $< -o $@ -lcmocka $(LIBS)
$(BUILD)/test_endpoint $(BUILD)/test_genrm $(BUILD)/test_eval: CFLAGS_BASE += $(CURL_FLAGS)
$(BUILD)/test_endpoint $(BUILD)/test_genrm $(BUILD)/test_eval: LIBS += $(CURL_LIBS) -pthread
$(BUILD)/%_bench: dev/%_bench.c train_findap.c $(HEADERS) Makefile | $(BUILD)
	$(CC) $(CFLAGS_BASE) $(CFLAGS) $< -o $@ $(LIBS)
$(BUILD)/test_train_late: test/test_train.c
build/train_findap: train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(RANKS) $< -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS)
	@ln -sfn $@ $(notdir $@)
build/dpo: dpo.cu train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(RANKS) $< -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS)
	@ln -sfn $@ $(notdir $@)
build/genrm: genrm.cu train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(CURL_FLAGS) $(RANKS) $< -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS) $(CURL_LIBS)
	@ln -sfn $@ $(notdir $@)
build/genrm_fp32: genrm.cu train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(CURL_FLAGS) $(RANKS) -DFINDAP_FP32 $< -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS) $(CURL_LIBS)
# eval.c, in two steps: -x would make sources of the libraries too
build/eval: eval.c train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(CURL_FLAGS) $(RANKS) -x cu -c $< -o $@.o
	$(NVCC) $(NVCC_FLAGS) $@.o -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS) $(CURL_LIBS)
	@ln -sfn $@ $(notdir $@)
build/eval_fp32: eval.c train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(CURL_FLAGS) $(RANKS) -DFINDAP_FP32 -x cu -c $< -o $@.o
	$(NVCC) $(NVCC_FLAGS) $@.o -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS) $(CURL_LIBS)
# test_generate.c over the GPU twin: fp32, the same references from transformers
build/test_generate_gpu: test/test_generate.c genrm.cu train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) -DFINDAP_FP32 -x cu -c $< -o $@.o
	$(NVCC) $(NVCC_FLAGS) $@.o -o $@ -lcmocka $(LIBS) $(CUDA_LIBS)
build/dpo_fp32: dpo.cu train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(RANKS) -DFINDAP_FP32 $< -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS)
build/train_findap_fp32: train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(RANKS) -DFINDAP_FP32 $< -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS)
build/train_findap_racecheck: train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) $(RANKS) -DFINDAP_RACECHECK $< -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS)
build/ask: data/ask.c train_findap.cu $(HEADERS) $(KERNELS) Makefile | build
	$(NVCC) $(NVCC_FLAGS) -x cu -c $< -o $@.o   # apart: -x would make sources of the libraries too
	$(NVCC) $(NVCC_FLAGS) $@.o -o $@ $(LIBS) $(CUDA_LIBS)
build/dev/%: dev/%.cu $(wildcard dev/*.cuh) train_findap.cu $(HEADERS) $(KERNELS) Makefile
	@mkdir -p build/dev
	$(NVCC) $(NVCC_FLAGS) $< -o $@ $(LIBS) $(CUDA_LIBS)
build/dev/links: dev/links.cu dev/ladder.cuh $(HEADERS) $(KERNELS) Makefile   # runs on several GPUs
	@mkdir -p build/dev
	$(NVCC) $(NVCC_FLAGS) $(RANKS) $< -o $@ $(LIBS) $(CUDA_LIBS) $(RANK_LIBS)
build/dev/decode_racecheck: dev/decode.cu $(wildcard dev/*.cuh) $(HEADERS) $(KERNELS) Makefile
	@mkdir -p build/dev
	$(NVCC) $(NVCC_FLAGS) -DFINDAP_RACECHECK $< -o $@ $(LIBS) $(CUDA_LIBS)
build/dev/libtrace.so: dev/trace.c Makefile
	@mkdir -p build/dev
	$(CC) -O2 -Wall -Wextra -shared -fPIC -I$(CUDA_HOME)/include -I$(CUDA_HOME)/extras/CUPTI/include $< -o $@ -ldl
build/compare_dumps: dev/compare.c $(HEADERS) Makefile | build
	$(CC) $(CFLAGS_BASE) $(CFLAGS) $< -o $@ $(LIBS)
build/fuzz/%: test/fuzz/%.c $(wildcard data/*.c) $(HEADERS)
	@mkdir -p build/fuzz
	clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -I. $< -o $@ -ljansson -lutf8proc -lm

# ---- targets people call
# On a fresh machine the first thing is to install what is missing; then make starts again and finds it.
ifeq ($(and $(HAS_JANSSON),$(HAS_UTF8PROC),$(HAS_XXHASH),$(HAS_CMOCKA)),)
ifdef DEPS_DONE
$(error packages are still missing after scripts/deps.sh ---> install the development files of jansson, utf8proc, xxHash and cmocka)
endif
all cpu cuda demo demo-align test test-sanitize bench:
	@bash scripts/deps.sh
	@$(MAKE) --no-print-directory $@ DEPS_DONE=1
else
# nvcc takes a minute or two a program, so what only developers run waits for `make cuda`
all: detect cpu $(if $(NVCC),$(addprefix build/,$(CUDA_PROGRAMS)))
cpu: $(addprefix $(BUILD)/,$(CPU_PROGRAMS))
cuda: $(if $(NVCC),$(addprefix build/,$(CUDA_PROGRAMS)) build/train_findap_fp32 build/dev/libtrace.so $(LADDERS))
	@$(if $(NVCC),,echo "no nvcc: nothing to compile for CUDA" && false)
ladders: $(LADDERS)
demo: detect cpu
	@bash scripts/demo.sh
demo-align: detect cpu
	@bash scripts/demo_align.sh
test: detect cpu $(TESTS) headers
	@bash scripts/test.sh $(BUILD) $(TESTS)
	@if command -v python3 >/dev/null; then for t in fintrain fineval; do echo "test_$$t.py"; python3 test/test_$$t.py -b 2>&1 | tail -n 3; [ $${PIPESTATUS[0]} = 0 ] || exit 1; done; else echo "no python3 here: data/fintrain.py and data/fineval.py are not tested"; fi
test-sanitize:
	@$(MAKE) --no-print-directory SANITIZE=1 sanitized-tests
sanitized-tests: $(TESTS)
	@bash scripts/test.sh $(BUILD) $(TESTS)
bench: $(BUILD)/matmul_bench
	$(BUILD)/matmul_bench
endif
# nvcc reads the headers as C++17; this says so without it
headers:
	@$(if $(CXX_FOUND),for h in findap/*.h; do $(CXX) -x c++ -std=c++17 -fsyntax-only -I. $(CURL_FLAGS) $$h 2>/dev/null || { $(CXX) -x c++ -std=c++17 -fsyntax-only -I. $(CURL_FLAGS) $$h; exit 1; }; done; echo "headers compile as C++17 too",echo "no C++ compiler here: that the headers compile as C++17 is not checked")
deps:
	@bash scripts/deps.sh

compare: build/prepare build/make_demo build/train_findap_cpu build/dpo_cpu build/compare_dumps build/train_findap build/train_findap_fp32 build/dpo build/dpo_fp32
	@bash scripts/compare.sh

gpu-check: build/prepare build/make_demo build/train_findap_cpu build/dpo_cpu build/compare_dumps build/train_findap build/train_findap_fp32 build/dpo build/dpo_fp32 build/train_findap_racecheck build/dev/decode_racecheck build/test_generate_gpu $(LADDERS)
	@bash scripts/gpu_check.sh

gpu-ranks: build/prepare build/make_demo build/train_findap_cpu build/dpo_cpu build/compare_dumps build/train_findap build/train_findap_fp32 build/dev/links
	@bash scripts/gpu_ranks.sh

fuzz: $(FUZZERS)
	@echo "run e.g.: build/fuzz/fuzz_safetensors -max_total_time=180"

help:
	@echo "make                 build the programs people run, in build/, with links here: the CPU's, and the GPU's where there is nvcc"
	@echo "make cpu             the CPU's alone (a minute or two)"
	@echo "make demo            generate data, prepare, train, ask, evaluate, on the CPU: about three minutes"
	@echo "make demo-align      sample, judge, correct, make pairs, DPO, sample again, on the CPU: a few minutes"
	@echo "make test            all tests (no GPU, no Python)"
	@echo "make test-sanitize   all tests under AddressSanitizer and UBSan"
	@echo "make cuda            compile all for the GPU: the programs, train_findap in fp32, the ladders of dev/ (a quarter of an hour; -j shortens it)"
	@echo "make gpu-check       everything that needs a GPU to be shown: compare, kernels, sanitizers, same bits, loss curves"
	@echo "make gpu-ranks       the same for several GPUs of one host: any number of ranks, ZeRO-1 to 3, resume"
	@echo "make compare         CPU twin against GPU twin, tensor by tensor (needs a GPU)"
	@echo "make fuzz            libFuzzer targets in build/fuzz (needs clang)"
	@echo "make bench           matmul speed against this processor's peak"
	@echo "make deps            install missing packages (apt)"
	@echo "make clean           remove build/ and the links"

clean:
	rm -rf build
	rm -f $(CPU_PROGRAMS) $(CUDA_PROGRAMS)
