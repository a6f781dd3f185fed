// fuzz_safetensors.c: safetensors_parse on anything. The input is a whole file or, since random bytes seldom carry a fitting
// length, a header in front of which the length is put and behind which some data. What is accepted is read to its last byte.
#include "../../findap/safetensors.h"   // defines: safetensors_parse

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_parse(const uint8_t *data, int64_t size) {
    Error e;
    e.text[0] = 0;
    Safetensors *s = (Safetensors *)xcalloc(1, sizeof(Safetensors));
    s->file.data = data;
    s->file.size = size;
    bool ok = safetensors_parse("fuzz", s, &e);
    if (!ok && (!e.text[0] || strchr(e.text, '\n'))) abort();   // a refusal is exactly one line
    uint64_t sum = 0;
    float number;
    for (int64_t i = 0; ok && i < s->count; i++) {
        const SafeTensor *t = safetensors_at(s, i);
        for (int64_t k = 0; k < t->bytes; k++) sum += t->data[k];
        if (safetensors_find(s, t->name) != t) abort();
        if (t->count) safetensor_to_f32(t, t->count - 1, 1, &number);
    }
    static volatile uint64_t sink;
    sink = sum;
    s->file.data = NULL;   // not ours to unmap
    safetensors_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *file = (uint8_t *)xmalloc((int64_t)size + 8);   // exactly as long as it is, so that ASan sees a read past its end
    memcpy(file, data, size);
    try_parse(file, (int64_t)size);
    int64_t tail = size ? data[size - 1] % 32 : 0, header = (int64_t)size > tail ? (int64_t)size - tail : 0;
    memset(file, 0, 8);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)header >> (8 * i));
    memcpy(file + 8, data, size);
    uint8_t *copy = (uint8_t *)xmalloc((int64_t)size + 8);
    memcpy(copy, file, size + 8);
    try_parse(copy, (int64_t)size + 8);
    free(copy);
    free(file);
    return 0;
}
