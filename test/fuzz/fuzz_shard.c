// fuzz_shard.c: shard_open on anything: the input as a whole file or, since few random bytes look like a shard, as patches
// (offset, value) on a valid one. What is accepted is read through, so that a bound that was not checked shows.
#include "../../findap/shard.h"   // defines: shard_open, ShardWriter

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// a valid shard of the kind, as bytes
static Buffer valid_shard(ShardKind kind) {
    char directory[] = "/tmp/findap_fuzz_XXXXXX";
    Error e;
    e.text[0] = 0;
    if (!mkdtemp(directory)) abort();
    char *prefix = path_join(directory, "x"), *path = shard_path(prefix, 1, 1);
    const int32_t ids[] = {1, 2, 3, 4, 5};
    const uint8_t weights[] = {0, 0, 1, 1, 1};
    const ShardField fields[] = {{"max_len", "9"},       {"vocab_size", "9"},   {"tokenizer", "x"},  {"template", "x"},
                                 {"template_hash", "x"}, {"inputs", "[\"x\"]"}, {"input_hash", "x"}, {"set", "x"}};
    ShardWriter w;
    bool ok = shard_writer_open(&w, prefix, kind, 100, &e);
    for (int i = 0; i < 3 && ok; i++) ok = shard_writer_add(&w, ids, weights, 5, 2, 4, 0, i + 1, &e);
    Mapped m;
    if (!ok || !shard_writer_finish(&w, fields, 8, &e) || !map_file(path, &m, &e)) die("%s", e.text);
    Buffer b = {NULL, 0, 0};
    buffer_add(&b, m.data, m.size);
    unmap_file(&m);
    unlink(path);
    rmdir(directory);
    free(prefix);
    free(path);
    return b;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Buffer valid[SHARD_NUM_KINDS];
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        for (int k = 0; k < SHARD_NUM_KINDS; k++) valid[k] = valid_shard((ShardKind)k);
        fd = memfd_create("fuzz.safetensors", 0);
        if (fd < 0) abort();
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (size < 1) return 0;
    Buffer file = {NULL, 0, 0};
    int k = data[0] % 4;
    if (k == 3) buffer_add(&file, data + 1, (int64_t)size - 1);
    else {
        buffer_add(&file, valid[k].data, valid[k].len);
        for (size_t i = 1; i + 2 < size; i += 3) file.data[(size_t)(data[i] | data[i + 1] << 8) % (size_t)file.len] = (char)data[i + 2];
        if (data[0] & 128 && size > 2) file.len = (int64_t)((size_t)(data[size - 1] | data[size - 2] << 8) % (size_t)file.len);   // cut short
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, file.data, (size_t)file.len, 0) != (ssize_t)file.len) abort();
    Shard s;
    Error e;
    e.text[0] = 0;
    if (!shard_open(path, &s, &e)) CHECK(e.text[0] && !strchr(e.text, '\n'));
    else {
        int64_t sum = 0;
        for (int64_t d = 0; d < s.num_documents; d++) {
            for (int64_t i = s.documents[d]; i < s.documents[d + 1]; i++) { sum += s.weights[i]; CHECK(s.tokens[i] < s.vocab_size); }
            if (s.kind == SHARD_PREF)
                CHECK(s.tokens[s.chosen[d]] >= 0 && s.tokens[s.rejected[d]] >= 0 && s.source_row[d] > 0 && s.source_file[d] >= 0);
        }
        CHECK(sum == s.num_trained);
        shard_close(&s);
    }
    buffer_free(&file);
    return 0;
}
