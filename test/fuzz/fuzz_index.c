// fuzz_index.c: model.safetensors.index.json: anything as the index of a directory that holds two real shards. Nothing
// outside the directory may be opened, whatever the index says; "out" is a link to a shard outside.
#include "../../findap/safetensors.h"   // defines: weights_open

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char directory[] = "/tmp/findap_fuzz_XXXXXX";
static void clean(void) {
    static const char *const names[] = {"a", "b", "out", "model.safetensors.index.json", "in/x", NULL};
    for (int i = 0; names[i]; i++) { char *p = path_join(directory, names[i]); unlink(p); free(p); }
    char *in = path_join(directory, "in");
    rmdir(in);
    rmdir(directory);
    free(in);
}

static void make_shard(const char *name, const char *tensor) {
    Error e;
    int64_t shape[1] = {4};
    char *path = path_join(directory, name);
    SafetensorsWriter *w = safetensors_writer_new(path);
    safetensors_writer_tensor(w, tensor, DTYPE_U8, 1, shape);
    if (!safetensors_writer_begin(w, &e) || !safetensors_writer_data(w, "abcd", 4, &e) || !safetensors_writer_commit(w, &e)) die("%s", e.text);
    free(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    Error e;
    e.text[0] = 0;
    if (fd < 0) {
        if (!mkdtemp(directory)) abort();
        atexit(clean);
        char *in = path_join(directory, "in"), *out = path_join(directory, "out"), *index = path_join(directory, "model.safetensors.index.json");
        if (!make_directory(in, &e)) abort();
        make_shard("a", "x"); make_shard("b", "y"); make_shard("in/x", "z");
        if (symlink("in/x", out) != 0) abort();
        fd = open(index, O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0) abort();
        free(in); free(out); free(index);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size) abort();
    Weights *w = weights_open(directory, &e);
    if (!w && (!e.text[0] || strchr(e.text, '\n'))) abort();   // a refusal is exactly one line
    if (w && weights_find(w, "z")) abort();                      // came from outside
    if (w) for (int i = 0; i < w->num_files; i++) if (strcmp(w->names[i], "a") != 0 && strcmp(w->names[i], "b") != 0) abort();
    weights_close(w);
    return 0;
}
