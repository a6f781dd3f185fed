// safetensors.h: the one binary container of the house - weights, token shards, checkpoints, dumps.
//
// A file is: u64 little-endian header length n; n bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]},
// "__metadata__": {string: string}}, padded with spaces at its end; then the data, back to back, row-major, little-endian.
//
// Reading maps the file and believes nothing: every length is compared with what is left of the file before it is used, the
// tensors must tile the data exactly (no hole, no overlap, nothing behind them), and after safetensors_open every
// SafeTensor's data is known to lie inside the mapping. Writing declares the table first and then streams the data.
#ifndef FINDAP_SAFETENSORS_H
#define FINDAP_SAFETENSORS_H
#include "json.h"   // defines: json_parse

typedef enum {
    DTYPE_F64, DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I64, DTYPE_I32, DTYPE_I16, DTYPE_I8, DTYPE_U64, DTYPE_U32, DTYPE_U16, DTYPE_U8, DTYPE_BOOL,
    DTYPE_F8_E4M3, DTYPE_F8_E5M2, NUM_DTYPES
} Dtype;
FN const char *const dtype_names[NUM_DTYPES] = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "F8_E4M3", "F8_E5M2"};
FN const int8_t dtype_sizes[NUM_DTYPES] = {8, 4, 2, 2, 8, 4, 2, 1, 8, 4, 2, 1, 1, 1, 1};

FN int64_t dtype_size(Dtype d) { return dtype_sizes[d]; }
FN const char *dtype_name(Dtype d) { return dtype_names[d]; }

enum { MAX_RANK = 8, MAX_HEADER = 100000000, MAX_HEADER_OBJECTS = 1 << 20 };   // MAX_HEADER is upstream's; the header of a 405B model is 0.15 MB

typedef struct {
    const char *name;        // belongs to the Safetensors
    Dtype dtype;
    int rank;
    int64_t shape[MAX_RANK];
    int64_t count, bytes;    // numbers, bytes
    int64_t begin;           // offset in the data
    const uint8_t *data;
} SafeTensor;

typedef struct {
    Mapped file;
    json_t *header;          // owns names and metadata
    SafeTensor *tensors;     // in the order of the data
    int32_t *by_name;        // indices, sorted by name
    int64_t count;
} Safetensors;

// ---------------------------------------------------------------------------------------------------------------
// 16-bit floats

FN float bf16_to_f32(uint16_t h) { uint32_t u = (uint32_t)h << 16; float f; memcpy(&f, &u, 4); return f; }

FN uint16_t f32_to_bf16(float f) {   // round to nearest, ties to even; a NaN stays a NaN
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7FFFu + ((u >> 16) & 1)) >> 16);
}

FN float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023, u;
    if (exponent == 31) u = sign | 0x7F800000u | mantissa << 13;
    else if (exponent) u = sign | (exponent + 112) << 23 | mantissa << 13;
    else {   // zero or subnormal: mantissa * 2^-24
        float f = (float)mantissa * (1.0f / 16777216.0f);
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}

FN uint16_t f32_to_f16(float f) {   // round to nearest, ties to even; beyond 65504 to infinity
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000);
    u &= 0x7FFFFFFFu;
    if (u > 0x7F800000u) return sign | 0x7E00;
    if (u >= 0x477FF000u) return sign | 0x7C00;
    if (u < 0x38800000u) {   // subnormal in half: adding 0.5 aligns the mantissa and the hardware rounds
        float a;
        memcpy(&a, &u, 4);
        a += 0.5f;
        memcpy(&u, &a, 4);
        return sign | (uint16_t)(u - 0x3F000000u);
    }
    u += 0xFFFu + ((u >> 13) & 1);
    return sign | (uint16_t)((u - 0x38000000u) >> 13);
}

// numbers [first, first + n) as fp32; false when the dtype is not a float type we read (F64, F32, F16, BF16)
FN bool safetensor_to_f32(const SafeTensor *t, int64_t first, int64_t n, float *out) {
    CHECK(first >= 0 && n >= 0 && first + n <= t->count);
    const uint8_t *p = t->data + first * dtype_size(t->dtype);
    uint16_t h;
    double d;
    switch (t->dtype) {
        case DTYPE_F32: if (n) memcpy(out, p, (size_t)n * 4); return true;
        case DTYPE_F64: for (int64_t i = 0; i < n; i++) { memcpy(&d, p + 8 * i, 8); out[i] = (float)d; } return true;
        case DTYPE_BF16: for (int64_t i = 0; i < n; i++) { memcpy(&h, p + 2 * i, 2); out[i] = bf16_to_f32(h); } return true;
        case DTYPE_F16: for (int64_t i = 0; i < n; i++) { memcpy(&h, p + 2 * i, 2); out[i] = f16_to_f32(h); } return true;
        default: return false;
    }
}

// the inverse for writing: n fp32 numbers to bytes of a float dtype; `out` has room for n * dtype_size bytes
FN void safetensor_from_f32(Dtype dtype, const float *in, int64_t n, void *out) {
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16);
    if (dtype == DTYPE_F32) { if (n) memcpy(out, in, (size_t)n * 4); return; }
    uint16_t *h = (uint16_t *)out;
    for (int64_t i = 0; i < n; i++) h[i] = dtype == DTYPE_BF16 ? f32_to_bf16(in[i]) : f32_to_f16(in[i]);
}

// ---------------------------------------------------------------------------------------------------------------
// reading

// Bounds what parsing `text` can cost before it is parsed: a JSON value of three bytes takes some two hundred once parsed, so a
// small hostile file could fill the memory. Counts brackets and commas outside strings; one pass, no allocation.
FN bool json_bounded(const char *where, const char *text, int64_t size, int max_depth, int64_t max_objects, Error *e) {
    int64_t objects = 0, arrays = 0, commas = 0;
    int depth = 0;
    for (int64_t i = 0; i < size; i++) {
        if (text[i] == '"') for (i++; i < size && text[i] != '"'; i++) i += text[i] == '\\';
        else if (text[i] == '{' || text[i] == '[') { depth++; if (text[i] == '{') objects++; else arrays++; }
        else if (text[i] == '}' || text[i] == ']') depth--;
        else commas += text[i] == ',';
        if (depth > max_depth) return fail(e, "%s: JSON nested deeper than %d at byte %" PRId64 " ---> is it a file of this kind?", where, max_depth, i);
        if (objects > max_objects || arrays > 2 * max_objects || commas > 8 * max_objects)
            return fail(e, "%s: more than %" PRId64 " objects, %" PRId64 " lists or %" PRId64 " commas in its JSON, expected fewer", where, max_objects, 2 * max_objects, 8 * max_objects);
    }
    return true;
}

FN bool safetensors_tensor(const char *where, const char *name, const json_t *j, int64_t data_size, SafeTensor *t, Error *e) {
    static const char *const known[] = {"dtype", "shape", "data_offsets", NULL};
    if (!json_is_object(j)) return fail(e, "%s: tensor \"%.100s\" is %s, expected an object", where, name, json_type_name(j));
    if (!json_only_keys((json_t *)j, where, known, e)) return false;
    const json_t *dtype = json_object_get(j, "dtype"), *shape = json_object_get(j, "shape"), *offsets = json_object_get(j, "data_offsets");
    if (!json_is_string(dtype)) return fail(e, "%s: tensor \"%.100s\": \"dtype\" is %s, expected a string", where, name, json_type_name(dtype));
    t->name = name;
    int d = 0;
    while (d < NUM_DTYPES && strcmp(dtype_names[d], json_string_value(dtype)) != 0) d++;
    if (d == NUM_DTYPES || json_string_length(dtype) != strlen(dtype_names[d])) return fail(e, "%s: tensor \"%.100s\": unknown dtype \"%.40s\", expected one of F64 F32 F16 BF16 I64 I32 I16 I8 U8 BOOL", where, name, json_string_value(dtype));
    t->dtype = (Dtype)d;
    if (!json_is_array(shape)) return fail(e, "%s: tensor \"%.100s\": \"shape\" is %s, expected a list", where, name, json_type_name(shape));
    if (json_array_size(shape) > MAX_RANK) return fail(e, "%s: tensor \"%.100s\": has %zu dimensions, expected at most %d", where, name, json_array_size(shape), MAX_RANK);
    t->rank = (int)json_array_size(shape);
    t->count = 1;
    for (int i = 0; i < t->rank; i++) {
        const json_t *s = json_array_get(shape, (size_t)i);
        if (!json_is_integer(s) || json_integer_value(s) < 0)
            return fail(e, "%s: tensor \"%.100s\": shape[%d] is %s, expected an integer of at least 0", where, name, i, json_is_integer(s) ? "negative" : json_type_name(s));
        t->shape[i] = (int64_t)json_integer_value(s);
        if (!mul_size(t->count, t->shape[i], &t->count)) return fail(e, "%s: tensor \"%.100s\": the product of its shape overflows", where, name);
    }
    if (!mul_size(t->count, dtype_size(t->dtype), &t->bytes)) return fail(e, "%s: tensor \"%.100s\": its size overflows", where, name);
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(json_array_get(offsets, 0)) || !json_is_integer(json_array_get(offsets, 1)))
        return fail(e, "%s: tensor \"%.100s\": \"data_offsets\" is not a list of two integers", where, name);
    int64_t begin = (int64_t)json_integer_value(json_array_get(offsets, 0)), end = (int64_t)json_integer_value(json_array_get(offsets, 1));
    if (begin < 0 || end < begin || end > data_size)
        return fail(e, "%s: tensor \"%.100s\": data_offsets are %" PRId64 " and %" PRId64 ", expected 0 <= begin <= end <= %" PRId64 ", the bytes there are ---> is the file cut off?",
                    where, name, begin, end, data_size);
    if (end - begin != t->bytes)
        return fail(e, "%s: tensor \"%.100s\": data_offsets hold %" PRId64 " bytes, its shape and dtype need %" PRId64, where, name, end - begin, t->bytes);
    t->begin = begin;
    return true;
}

FN int safetensors_order(const void *a, const void *b) {   // by place in the data; an empty tensor before the one that begins there
    const SafeTensor *x = (const SafeTensor *)a, *y = (const SafeTensor *)b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}
FN int safetensors_name_order(const void *a, const void *b, void *tensors) {
    const SafeTensor *t = (const SafeTensor *)tensors;
    return strcmp(t[*(const int32_t *)a].name, t[*(const int32_t *)b].name);
}

FN void safetensors_close(Safetensors *s) {
    if (!s) return;
    json_decref(s->header);
    free(s->tensors);
    free(s->by_name);
    unmap_file(&s->file);
    free(s);
}

FN bool looks_like_json(const Mapped *m) {   // what is given in place of its shards, most often
    int64_t i = m->size >= 3 && memcmp(m->data, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    while (i < m->size && (m->data[i] == ' ' || m->data[i] == '\t' || m->data[i] == '\r' || m->data[i] == '\n')) i++;
    return i < m->size && (m->data[i] == '{' || m->data[i] == '[');
}

// Checks s->file and fills in the rest. The mapping may be any memory, so a fuzzer can call it.
FN bool safetensors_parse(const char *where, Safetensors *s, Error *e) {
    uint64_t n = 0;
    bool json = looks_like_json(&s->file);
    if (s->file.size >= 8) for (int i = 0; i < 8; i++) n |= (uint64_t)s->file.data[i] << (8 * i);
    if (json && (s->file.size < 8 || n > MAX_HEADER))   // eight letters are a number that is far larger
        return fail(e, "%s: looks like JSONL, expected a safetensors file ---> `prepare` makes token shards of JSONL", where);
    if (s->file.size < 8) return fail(e, "%s: is %" PRId64 " bytes, too short for a safetensors file ---> is the download complete?", where, s->file.size);
    if (n > (uint64_t)(s->file.size - 8) || n > MAX_HEADER)
        return fail(e, "%s: the header claims %" PRIu64 " bytes, expected at most %" PRId64 " ---> is it a safetensors file, and whole?", where, n,
                    s->file.size - 8 < MAX_HEADER ? s->file.size - 8 : (int64_t)MAX_HEADER);
    const char *text = (const char *)s->file.data + 8;
    int64_t length = (int64_t)n, data_size = s->file.size - 8 - length;
    if (length < 2 || text[0] != '{') return fail(e, "%s: the header does not begin with '{' ---> is it a safetensors file?", where);
    while (length > 0 && text[length - 1] == ' ') length--;
    if (!json_bounded(where, text, length, 3, MAX_HEADER_OBJECTS, e)) return false;   // {"name": {"shape": [...]}} is the deepest there can be
    s->header = json_parse(where, text, length, e);
    if (!s->header) return false;
    if (!json_is_object(s->header)) return fail(e, "%s: the header is %s, expected an object", where, json_type_name(s->header));
    int64_t entries = (int64_t)json_object_size(s->header);
    s->tensors = (SafeTensor *)xcalloc(entries, sizeof(SafeTensor));
    s->by_name = (int32_t *)xcalloc(entries, sizeof(int32_t));
    const char *key;
    json_t *value;
    json_object_foreach(s->header, key, value) {
        if (strcmp(key, "__metadata__") != 0) {
            if (!safetensors_tensor(where, key, value, data_size, &s->tensors[s->count], e)) return false;
            s->count++;
            continue;
        }
        if (!json_is_object(value)) return fail(e, "%s: \"__metadata__\" is %s, expected an object of strings", where, json_type_name(value));
        const char *k;
        json_t *v;
        json_object_foreach(value, k, v)
            if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
                return fail(e, "%s: metadata \"%.100s\" is %s, expected a string without NUL", where, k, json_type_name(v));
    }
    if (s->count) qsort(s->tensors, (size_t)s->count, sizeof(SafeTensor), safetensors_order);
    int64_t at = 0;
    for (int64_t i = 0; i < s->count; i++) {
        SafeTensor *t = &s->tensors[i];
        if (t->begin != at) return fail(e, "%s: tensor \"%.100s\" begins at byte %" PRId64 " of the data, expected %" PRId64 " (tensors must neither overlap nor leave holes)", where, t->name, t->begin, at);
        at += t->bytes;
        t->data = (const uint8_t *)text + n + t->begin;
        s->by_name[i] = (int32_t)i;
    }
    if (at != data_size) return fail(e, "%s: %" PRId64 " bytes stand behind the last tensor, expected none", where, data_size - at);
    if (s->count) qsort_r(s->by_name, (size_t)s->count, sizeof(int32_t), safetensors_name_order, s->tensors);
    return true;
}

FN Safetensors *safetensors_open(const char *path, Error *e) {
    Safetensors *s = (Safetensors *)xcalloc(1, sizeof(Safetensors));
    if (map_file(path, &s->file, e) && safetensors_parse(path, s, e)) return s;
    safetensors_close(s);
    return NULL;
}

FN int64_t safetensors_count(const Safetensors *s) { return s->count; }
FN const SafeTensor *safetensors_at(const Safetensors *s, int64_t i) { return &s->tensors[i]; }

FN const SafeTensor *safetensors_find(const Safetensors *s, const char *name) {   // NULL: not there
    int64_t low = 0, high = s->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int c = strcmp(s->tensors[s->by_name[middle]].name, name);
        if (c == 0) return &s->tensors[s->by_name[middle]];
        if (c < 0) low = middle + 1; else high = middle;
    }
    return NULL;
}

FN const char *safetensors_metadata(const Safetensors *s, const char *key) {   // NULL: not there
    return json_string_value(json_object_get(json_object_get(s->header, "__metadata__"), key));
}

// ---------------------------------------------------------------------------------------------------------------
// writing: declare metadata and tensors, begin, give the data in the same order, commit. The file appears whole or not at all.

typedef struct {
    char *path;
    json_t *header, *metadata;
    int64_t declared, written;   // bytes of data
    AtomicFile file;
    bool begun;
} SafetensorsWriter;

FN SafetensorsWriter *safetensors_writer_new(const char *path) {
    SafetensorsWriter *w = (SafetensorsWriter *)xcalloc(1, sizeof(SafetensorsWriter));
    w->path = xstrdup(path);
    w->header = json_object();
    w->metadata = json_object();
    json_object_set_new(w->header, "__metadata__", w->metadata);
    return w;
}
FN void safetensors_writer_free(SafetensorsWriter *w) { json_decref(w->header); free(w->path); free(w); }
FN void safetensors_writer_abandon(SafetensorsWriter *w) { if (w->begun) atomic_abandon(&w->file); safetensors_writer_free(w); }

FN void safetensors_writer_metadata(SafetensorsWriter *w, const char *key, const char *value) {
    CHECK(!w->begun && json_object_set_new(w->metadata, key, json_string(value)) == 0);   // fails on invalid UTF-8: a bug of the caller
}

FN void safetensors_writer_tensor(SafetensorsWriter *w, const char *name, Dtype dtype, int rank, const int64_t *shape) {
    CHECK(!w->begun && rank >= 0 && rank <= MAX_RANK && !json_object_get(w->header, name));
    json_t *t = json_object(), *s = json_array(), *offsets = json_array();
    int64_t bytes = dtype_size(dtype);
    for (int i = 0; i < rank; i++) { CHECK(mul_size(bytes, shape[i], &bytes)); json_array_append_new(s, json_integer(shape[i])); }
    json_array_append_new(offsets, json_integer(w->declared));
    w->declared += bytes;
    json_array_append_new(offsets, json_integer(w->declared));
    json_object_set_new(t, "dtype", json_string(dtype_name(dtype)));
    json_object_set_new(t, "shape", s);
    json_object_set_new(t, "data_offsets", offsets);
    CHECK(json_object_set_new(w->header, name, t) == 0);
}

// all that stands before the data, for one who writes the file himself (findap/checkpoint.h); NULL with an error
FN uint8_t *safetensors_writer_header(SafetensorsWriter *w, int64_t *bytes, Error *e) {
    if (json_object_size(w->metadata) == 0) json_object_del(w->header, "__metadata__");
    char *text = json_dumps(w->header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    CHECK(text);
    uint64_t length = strlen(text), padded = (length + 7) / 8 * 8;   // the data begins at a multiple of 8
    uint8_t *out = NULL;
    if (padded > MAX_HEADER) fail(e, "%s: the table of tensors is %" PRIu64 " bytes, expected at most %d", w->path, padded, MAX_HEADER);
    else {
        out = (uint8_t *)xmalloc((int64_t)padded + 8);
        for (int i = 0; i < 8; i++) out[i] = (uint8_t)(padded >> (8 * i));
        memcpy(out + 8, text, (size_t)length);
        memset(out + 8 + length, ' ', (size_t)(padded - length));
        *bytes = (int64_t)padded + 8;
    }
    free(text);
    return out;
}

FN bool safetensors_writer_begin(SafetensorsWriter *w, Error *e) {
    int64_t bytes = 0;
    uint8_t *header = safetensors_writer_header(w, &bytes, e);
    bool ok = header && atomic_open(&w->file, w->path, e);
    w->begun = ok;
    ok = ok && atomic_write(&w->file, header, bytes, e);
    free(header);
    return ok;
}

// any number of calls; the bytes of all tensors in the order in which they were declared
FN bool safetensors_writer_data(SafetensorsWriter *w, const void *data, int64_t bytes, Error *e) {
    CHECK(w->begun && bytes >= 0 && w->written + bytes <= w->declared);
    w->written += bytes;
    return atomic_write(&w->file, data, bytes, e);
}

FN bool safetensors_writer_commit(SafetensorsWriter *w, Error *e) {   // frees w, also when it fails
    CHECK(w->begun && w->written == w->declared);
    bool ok = atomic_commit(&w->file, e);
    safetensors_writer_free(w);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// the weights of a model directory: model.safetensors, or shards named by model.safetensors.index.json

typedef struct {
    Safetensors **files;
    char **names;        // file names inside the directory
    int num_files;
    json_t *map;         // tensor name -> index into files; NULL for a single file
} Weights;

FN void weights_close(Weights *w) {
    if (!w) return;
    for (int i = 0; i < w->num_files; i++) { safetensors_close(w->files[i]); free(w->names[i]); }
    free(w->files);
    free(w->names);
    json_decref(w->map);
    free(w);
}

// A shard name comes from a file, so it must be a plain name and what it names must lie in the directory itself: an index
// must not make us read elsewhere. The one exception is the layout of Hugging Face's cache, whose snapshots link to ../../blobs.
FN bool weights_shard_name(const char *where, const char *name, Error *e) {
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return fail(e, "%s: \"weight_map\" names the file \"%.100s\", expected a plain file name in the same directory", where, name);
    return true;
}

FN bool weights_shard_inside(const char *dir, const char *name, Error *e) {
    char *path = path_join(dir, name), *cache = path_join(dir, "../../blobs");
    char *real = realpath(path, NULL), *home = realpath(dir, NULL), *blobs = realpath(cache, NULL);
    char *slash = real ? strrchr(real, '/') : NULL;
    bool ok = true;
    if (slash && home) {   // a missing file is reported by whoever opens it
        size_t n = (size_t)(slash - real);
        bool inside = strlen(home) == n && strncmp(real, home, n) == 0, in_cache = blobs && strlen(blobs) == n && strncmp(real, blobs, n) == 0;
        if (!inside && !in_cache) ok = fail(e, "%s: is a link to %s, outside its directory ---> copy the file, or link the whole directory", path, real);
    }
    free(path); free(cache); free(real); free(home); free(blobs);
    return ok;
}

// opens the file `name` of `dir` and adds it to w
FN bool weights_file(Weights *w, const char *dir, const char *name, int *index, Error *e) {
    char *path = path_join(dir, name);
    Safetensors *s = safetensors_open(path, e);
    free(path);
    if (!s) return false;
    w->files = (Safetensors **)xrealloc(w->files, w->num_files + 1, sizeof(Safetensors *));
    w->names = (char **)xrealloc(w->names, w->num_files + 1, sizeof(char *));
    w->files[w->num_files] = s;
    w->names[w->num_files] = xstrdup(name);
    *index = w->num_files++;
    return true;
}

// checks a parsed index and collects tensor -> shard name; opens nothing, so a fuzzer can call it
FN bool weights_index(const char *where, json_t *index, Error *e) {
    if (!json_is_object(index)) return fail(e, "%s: is %s, expected an object", where, json_type_name(index));
    json_t *map = json_object_get(index, "weight_map"), *metadata = json_object_get(index, "metadata");
    if (!json_is_object(map) || json_object_size(map) == 0) return fail(e, "%s: \"weight_map\" is %s, expected an object with at least one tensor", where, json_is_object(map) ? "empty" : json_type_name(map));
    if (metadata && !json_is_object(metadata)) return fail(e, "%s: \"metadata\" is %s, expected an object", where, json_type_name(metadata));
    json_t *total = json_object_get(metadata, "total_size");
    // only a total_size that is no count of bytes is refused (some writers spell it 123.0); a wrong one is warned about by
    // weights_open_index: it is for progress bars, nothing is sized by it, and merging tools are known to leave it stale
    double bytes = json_number_value(total);
    if (total && (!json_is_number(total) || bytes < 0 || bytes > 9e18 || bytes != floor(bytes)))
        return fail(e, "%s: \"total_size\" is %s, expected a number of bytes", where, json_is_number(total) ? "not a whole number of at least 0" : json_type_name(total));
    const char *tensor;
    json_t *file;
    json_object_foreach(map, tensor, file) {
        if (!json_is_string(file) || strlen(json_string_value(file)) != json_string_length(file)) return fail(e, "%s: weight_map[\"%.100s\"] is %s, expected a file name", where, tensor, json_type_name(file));
        if (!weights_shard_name(where, json_string_value(file), e)) return false;
    }
    return true;
}

FN bool weights_open_index(Weights *w, const char *dir, const char *path, Error *e) {
    Mapped text = {NULL, 0};
    json_t *index = NULL;
    if (map_file(path, &text, e)) {
        if (text.size > MAX_HEADER) fail(e, "%s: is %" PRId64 " bytes, expected at most %d ---> is this the right file?", path, text.size, MAX_HEADER);
        else if (json_bounded(path, (const char *)text.data, text.size, 16, MAX_HEADER_OBJECTS, e)) index = json_parse(path, (const char *)text.data, text.size, e);
        unmap_file(&text);
    }
    bool ok = index && weights_index(path, index, e);
    json_t *opened = json_object();   // file name -> place in w->files: a look-up that does not grow with the number of shards
    int64_t bytes = 0;
    json_t *map = json_object_get(index, "weight_map"), *file;
    const char *tensor;
    w->map = json_object();
    if (ok) json_object_foreach(map, tensor, file) {
        if (!ok) break;
        const char *name = json_string_value(file);
        json_t *known = json_object_get(opened, name);
        int i = (int)json_integer_value(known);
        if (!known) {
            if (w->num_files >= 10000) ok = fail(e, "%s: names more than 10000 shards", path);
            ok = ok && weights_shard_inside(dir, name, e) && weights_file(w, dir, name, &i, e);
            if (ok) json_object_set_new(opened, name, json_integer(i));
        }
        if (ok && !safetensors_find(w->files[i], tensor)) ok = fail(e, "%s: says that %s holds \"%.100s\", which it does not ---> do index and shards belong together?", path, json_string_value(file), tensor);
        if (ok) json_object_set_new(w->map, tensor, json_integer(i));
    }
    // the other way round: a tensor that the index does not place, or places elsewhere, is one of which two copies may exist
    for (int i = 0; ok && i < w->num_files; i++)
        for (int64_t k = 0; ok && k < w->files[i]->count; k++) {
            const char *name = w->files[i]->tensors[k].name;
            json_t *at = json_object_get(w->map, name);
            bytes += w->files[i]->tensors[k].bytes;
            if (!at) ok = fail(e, "%s: does not list \"%.100s\" of %s", path, name, w->names[i]);
            else if (json_integer_value(at) != i) ok = fail(e, "%s: \"%.100s\" is in two shards, %s and %s", path, name, w->names[i], w->names[json_integer_value(at)]);
        }
    json_t *total = json_object_get(json_object_get(index, "metadata"), "total_size");
    if (ok && total && json_number_value(total) != (double)bytes) warn("%s: \"total_size\" is %.0f, the shards hold %" PRId64 " bytes", path, json_number_value(total), bytes);
    json_decref(opened);
    json_decref(index);
    return ok;
}

FN bool weights_can_be_drawn = false;   // set once by the main of a program that has --init

// Opens every shard (maps, reads headers only). An index takes precedence over nothing: both kinds at once are refused, since
// one of them is stale and only the user knows which.
FN Weights *weights_open(const char *dir, Error *e) {
    Weights *w = (Weights *)xcalloc(1, sizeof(Weights));
    char *index = path_join(dir, "model.safetensors.index.json"), *single = path_join(dir, "model.safetensors");
    bool has_index = file_exists(index), has_single = file_exists(single), ok;
    int i;
    if (has_index && has_single) ok = fail(e, "%s: holds both model.safetensors and model.safetensors.index.json ---> remove the stale one", dir);
    else if (has_index) ok = weights_open_index(w, dir, index, e);
    else if (has_single) ok = weights_file(w, dir, "model.safetensors", &i, e);
    else ok = fail(e, "%s: has neither model.safetensors nor model.safetensors.index.json ---> is it a model directory?%s", dir, weights_can_be_drawn ? " (--init random starts without weights)" : "");
    free(index);
    free(single);
    if (ok) return w;
    weights_close(w);
    return NULL;
}

FN const SafeTensor *weights_find(const Weights *w, const char *name) {   // NULL: not there
    if (!w->map) return safetensors_find(w->files[0], name);
    json_t *at = json_object_get(w->map, name);
    return at ? safetensors_find(w->files[json_integer_value(at)], name) : NULL;
}

#endif
