// trace.c: when each kernel, copy and memset of a program ran, and on which stream: what a program of several streams and several GPUs is waiting for.
//
//     make build/dev/libtrace.so
//     CUDA_INJECTION64_PATH=$PWD/build/dev/libtrace.so TRACE_OUT=/tmp/trace mpirun -np 2 ./train_findap ...     writes /tmp/trace.RANK.tsv
//     dev/trace.py /tmp/trace.0.tsv                                                                          where the time of its steps went
//
// The driver loads the library and calls InitializeInjection. A line is: begin and end in microseconds, stream, name. CUPTI's records cost a per cent or two.
#define _DEFAULT_SOURCE   // on_exit, which hands the program's own status on
#include <cupti.h>
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static CUptiResult (*next_record)(uint8_t *, size_t, CUpti_Activity **), (*flush_all)(uint32_t);
static FILE *out;
static uint64_t first;
static void line(uint64_t begin, uint64_t end, uint32_t stream, const char *name) {
    if (!first) first = begin;
    fprintf(out, "%.3f\t%.3f\t%u\t%.90s\n", ((double)begin - (double)first) * 1e-3, ((double)end - (double)first) * 1e-3, stream, name);
}
static void CUPTIAPI requested(uint8_t **buffer, size_t *size, size_t *most) { *size = 256 << 10; *buffer = (uint8_t *)aligned_alloc(64, *size); *most = 0; }
static void CUPTIAPI completed(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size, size_t valid) {
    (void)context; (void)stream; (void)size;
    for (CUpti_Activity *a = NULL; next_record(buffer, valid, &a) == CUPTI_SUCCESS;) {
        if (a->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) { CUpti_ActivityKernel9 *k = (CUpti_ActivityKernel9 *)a; line(k->start, k->end, k->streamId, k->name); }
        else if (a->kind == CUPTI_ACTIVITY_KIND_MEMCPY) { CUpti_ActivityMemcpy5 *k = (CUpti_ActivityMemcpy5 *)a; line(k->start, k->end, k->streamId, "copy"); }
        else if (a->kind == CUPTI_ACTIVITY_KIND_MEMCPY2) { CUpti_ActivityMemcpyPtoP4 *k = (CUpti_ActivityMemcpyPtoP4 *)a; line(k->start, k->end, k->streamId, "copy"); }   // between GPUs
        else if (a->kind == CUPTI_ACTIVITY_KIND_MEMSET) { CUpti_ActivityMemset4 *k = (CUpti_ActivityMemset4 *)a; line(k->start, k->end, k->streamId, "memset"); }
    }
    free(buffer);
    fflush(out);   // a run that is killed leaves a trace too
}
static void finish(int status, void *nothing) {
    (void)nothing;
    flush_all(1);
    if (fclose(out) != 0) perror("trace");
    _exit(status);   // CUPTI does not always let a process end
}
__attribute__((visibility("default"))) int InitializeInjection(void) {
    const char *names[] = {"libcupti.so.13", "libcupti.so", "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so.13", "/usr/local/cuda/lib64/libcupti.so.13"}, *to = getenv("TRACE_OUT"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    char path[4096];
    void *lib = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !lib; i++) lib = dlopen(names[i], RTLD_NOW);
    if (!lib) { fprintf(stderr, "trace: libcupti was not found\n"); return 1; }
    CUptiResult (*enable)(CUpti_ActivityKind), (*callbacks)(CUpti_BuffersCallbackRequestFunc, CUpti_BuffersCallbackCompleteFunc);
    *(void **)&enable = dlsym(lib, "cuptiActivityEnable");
    *(void **)&callbacks = dlsym(lib, "cuptiActivityRegisterCallbacks");
    *(void **)&next_record = dlsym(lib, "cuptiActivityGetNextRecord");
    *(void **)&flush_all = dlsym(lib, "cuptiActivityFlushAll");
    snprintf(path, sizeof path, "%s.%s.tsv", to ? to : "trace", rank ? rank : "0");
    out = fopen(path, "w");
    if (!out) { perror(path); return 1; }
    if (!enable || !callbacks || !next_record || !flush_all || callbacks(requested, completed) != CUPTI_SUCCESS || enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS
        || enable(CUPTI_ACTIVITY_KIND_MEMCPY) != CUPTI_SUCCESS || enable(CUPTI_ACTIVITY_KIND_MEMCPY2) != CUPTI_SUCCESS || enable(CUPTI_ACTIVITY_KIND_MEMSET) != CUPTI_SUCCESS) { fprintf(stderr, "trace: CUPTI does not record here\n"); return 1; }
    on_exit(finish, NULL);
    return 1;
}
