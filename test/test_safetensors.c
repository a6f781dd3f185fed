// test_safetensors.c: the container and the model directories (findap/safetensors.h, findap/model_dir.h): round trips, every
// conversion, hostile files and indices (each refused in one line), and writes that fail without harming what was there.
#include "findap/model_dir.h"   // defines: model_load_dir, model_save_dir, safetensors_*, weights_*
#include <sys/resource.h>       // defines: setrlimit
#include <sys/wait.h>           // defines: waitpid
#include "check.h"
#include "scratch.h"   // defines: directory, setup, teardown, in

// ---- a model of three tensors: enough of findap/model.h for the directories
struct Model { Config config; float *data; };
static Tensor table[] = {
    {"embed", "model.embed_tokens.weight", 7, 4, false, true, 0, 0, false, false},
    {"norm1", "model.layers.%d.input_layernorm.weight", 0, 4, true, false, 28, 4, false, false},
    {"norm", "model.norm.weight", 0, 4, false, false, 36, 0, false, false},
};
enum { NUMBERS = 40, LAYERS = 2 };
const Config *model_config(const Model *m) { return &m->config; }
const Lora *model_lora(const Model *m) { (void)m; static const Lora none; return &none; }
int model_num_tensors(const Model *m) { (void)m; return 3; }
const Tensor *model_tensor(const Model *m, int i) { (void)m; return &table[i]; }
void model_get(const Model *m, TensorKind kind, int i, int layer, float *out) {
    (void)kind;
    memcpy(out, m->data + table[i].offset + layer * table[i].layer_stride, (size_t)tensor_numbers(&table[i]) * 4);
}
void model_owned(const Model *m, int i, int64_t *begin, int64_t *end) { (void)m; *begin = 0; *end = tensor_numbers(&table[i]); }
void model_share(Model *m) { (void)m; }
void *model_host_alloc(int64_t bytes) { return xmalloc(bytes); }
void model_host_free(void *p) { free(p); }
void model_put_owned(Model *m, TensorKind kind, int i, int layer, const float *in) {
    (void)kind;
    memcpy(m->data + table[i].offset + layer * table[i].layer_stride, in, (size_t)tensor_numbers(&table[i]) * 4);
}

static Comm one_rank = {.size = 1};
Comm *model_comm(const Model *m) { (void)m; return &one_rank; }
Comm *model_replicas(const Model *m) { (void)m; return &one_rank; }

static void put(const char *name, const void *data, int64_t n) { Error e; if (!write_file(in(name), data, n, &e)) fail_msg("%s", e.text); }
static void check_line(const Error *e, const char *expected) {
    if (!strstr(e->text, expected) || strchr(e->text, '\n')) fail_msg("the error is \"%s\", expected one line with \"%s\"", e->text, expected);
}

// ---- the container

static void put_file(const char *name, const char *header, int64_t header_bytes, int64_t data_bytes) {
    Buffer b = {NULL, 0, 0};
    for (int i = 0; i < 8; i++) { char c = (char)((uint64_t)header_bytes >> (8 * i)); buffer_add(&b, &c, 1); }
    buffer_add(&b, header, header_bytes);
    for (int64_t i = 0; i < data_bytes; i++) buffer_add(&b, "", 1);
    put(name, b.data, b.len);
    buffer_free(&b);
}
static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }   // not those of the clock: the machine may be busy
static void check_open(const char *expected) {   // NULL: opens
    Error e;
    e.text[0] = 0;
    double start = cpu_seconds();
    Safetensors *s = safetensors_open(in("x"), &e);
    if (!expected && !s) fail_msg("refused: %s", e.text);
    if (expected && s) fail_msg("opened, expected \"%s\"", expected);
    if (expected) check_line(&e, expected);
    safetensors_close(s);
    assert_true(cpu_seconds() - start < 20);
}
static void refused(const char *header, int64_t data_bytes, const char *expected) { put_file("x", header, (int64_t)strlen(header), data_bytes); check_open(expected); }
static void refused_tensor(const char *inside, int64_t data_bytes, const char *expected) { char *h = xprintf("{\"a\":{%s}}", inside); refused(h, data_bytes, expected); free(h); }

static void test_hostile_headers(void **state) {
    (void)state;
    const uint64_t lengths[] = {3, (uint64_t)1 << 63, ~(uint64_t)0, 100000001, 1000000, (uint64_t)1 << 32};
    put("x", "", 0); check_open("too short");
    put("x", "1234567", 7); check_open("too short");
    put("x", "{}\n", 3); check_open("looks like JSONL");
    put("x", "{\"prompt\":\"a\"}\n", 15); check_open("looks like JSONL, expected a safetensors file ---> `prepare`");
    put("x", "\xEF\xBB\xBF\n[{\"prompt\":\"a\"}]\n", 21); check_open("looks like JSONL");
    put("x", "{\0\0\0\0\0\0\0", 8); check_open("the header claims");   // a length that begins with a '{', and nothing of it
    Error at_directory;
    assert_false(write_file(directory, "x", 1, &at_directory));
    assert_non_null(strstr(at_directory.text, "is a directory, expected the name of a file"));
    for (int k = 0; k < 6; k++) {
        uint8_t file[10] = {0, 0, 0, 0, 0, 0, 0, 0, '{', '}'};
        memcpy(file, &lengths[k], 8);
        put("x", file, 10);
        check_open("the header claims");
    }
    put_file("x", "", 0, 2); check_open("does not begin with");
    put_file("x", "{", 1, 0); check_open("does not begin with");
    refused("{}", 0, NULL);
    refused("{\"a\":\xff\xfe}", 0, "not valid JSON");
    refused("{\"\xc3\x28\":1}", 0, "not valid JSON");
    refused("{\"\\ud800\":1}", 0, "not valid JSON");
    refused("{nonsense}", 0, "not valid JSON");
    refused("{\"a\":", 0, "not valid JSON");
    refused("[1]", 0, "does not begin with");
    refused(" {}", 0, "does not begin with");
    refused("{}x", 0, "not valid JSON");
    refused("{}{}", 0, "not valid JSON");
    refused("{}      ", 0, NULL);
    refused("{}", 1, "behind the last tensor");
    refused("{\"__metadata__\":1}", 0, "__metadata__");
    refused("{\"__metadata__\":{\"a\":1}}", 0, "expected a string");
    refused("{\"__metadata__\":{\"a\":\"b\\u0000c\"}}", 0, "NUL");
    refused("{\"a\\u0000b\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "not valid JSON");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "duplicate");
    refused("{\"a\":[]}", 0, "expected an object");
    refused("{\"a\\u001b[2J\\n\":1}", 0, "\\x1b[2J\\x0a");   // what is quoted cannot move the cursor
    Error e;
    assert_null(safetensors_open(in("none"), &e)); check_line(&e, "cannot be opened");
    assert_null(safetensors_open(directory, &e)); check_line(&e, "regular file");
    assert_int_equal(mkfifo(in("pipe"), 0600), 0);   // nobody writes to it: waiting would be forever
    assert_null(safetensors_open(in("pipe"), &e)); check_line(&e, "regular file");
    unlink(in("pipe"));
}

static void test_hostile_tensors(void **state) {
    (void)state;
    refused_tensor("\"shape\":[1],\"data_offsets\":[0,1]", 1, "dtype");
    refused_tensor("\"dtype\":\"X9\",\"shape\":[1],\"data_offsets\":[0,1]", 1, "unknown dtype");
    refused_tensor("\"dtype\":\"f32\",\"shape\":[1],\"data_offsets\":[0,4]", 4, "unknown dtype");
    refused_tensor("\"dtype\":\"U8\\u0000\",\"shape\":[1],\"data_offsets\":[0,1]", 1, "unknown dtype");
    refused_tensor("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"extra\":1", 1, "unknown key");
    static const char *const shapes[][2] = {
        {"[-1]", "negative"}, {"[1.0]", "expected an integer"}, {"[\"1\"]", "expected an integer"}, {"[9223372036854775808]", "not valid JSON"}, {"1", "expected a list"},
        {"[4294967296,4294967296]", "overflows"}, {"[9223372036854775807,2]", "overflows"}, {"[4611686018427387904]", "overflows"}, {"[[1]]", "nested deeper"},
        {"[1,1,1,1,1,1,1,1,1]", "dimensions"}, {"[2]", "need"}, {"[0]", "need"}, {"null", "expected a list"}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        char *s = xprintf("\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[0,4]", shapes[i][0]);
        refused_tensor(s, 4, shapes[i][1]);
        free(s);
    }
    static const char *const offsets[][2] = {
        {"[0]", "two integers"}, {"[0,4,8]", "two integers"}, {"[]", "two integers"}, {"[0.0,4]", "two integers"}, {"4", "two integers"}, {"[4,0]", "expected 0 <= begin"},
        {"[-4,0]", "expected 0 <= begin"}, {"[0,8]", "expected 0 <= begin"}, {"[9223372036854775804,9223372036854775807]", "expected 0 <= begin"}, {"[0,3]", "need"}, {"[1,4]", "need"}};
    for (size_t i = 0; i < sizeof offsets / sizeof offsets[0]; i++) {
        char *s = xprintf("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":%s", offsets[i][0]);
        refused_tensor(s, 4, offsets[i][1]);
        free(s);
    }
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, "overlap");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, "overlap");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}", 3, "holes");
    refused_tensor("\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]", 2, "behind the last tensor");
    refused_tensor("\"dtype\":\"F32\",\"shape\":[0,5],\"data_offsets\":[0,0]", 0, NULL);   // no numbers: legal
    refused_tensor("\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]", 4, NULL);      // a scalar
    refused_tensor("\"data_offsets\":[0,4],\"shape\":[1],\"dtype\":\"F32\"", 4, NULL);
}

// cost: what is small on the disk must not be large in time or memory
static void test_hostile_sizes(void **state) {
    (void)state;
    Buffer b = {NULL, 0, 0};
    buffer_add(&b, "{\"a\":", 5);
    for (int i = 0; i < 100000; i++) buffer_add(&b, "[", 1);
    put_file("x", b.data, b.len, 0); check_open("nested deeper");
    b.len = 0;
    buffer_add(&b, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1", 30);
    for (int i = 1; i < 100; i++) buffer_add(&b, ",1", 2);
    buffer_add(&b, "],\"data_offsets\":[0,1]}}", 24);
    put_file("x", b.data, b.len, 1); check_open("100 dimensions");
    b.len = 0;
    buffer_add(&b, "{", 1);
    for (int i = 0; i < 10000000; i++) {   // 10 M entries; below the header limit, far above the limit of objects
        char entry[24];
        buffer_add(&b, entry, snprintf(entry, sizeof entry, "%s\"%x\":{}", i ? "," : "", (unsigned)i));
        if (b.len > 90000000) break;
    }
    buffer_add(&b, "}", 1);
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    put_file("x", b.data, b.len, 0); check_open("objects");
    getrusage(RUSAGE_SELF, &after);
    assert_true(after.ru_maxrss - before.ru_maxrss < 600 << 10);   // KiB: the copy put_file makes and the mapping, not the parsed tree
    b.len = 0;
    buffer_add(&b, "{\"a\":[0", 7);
    for (int i = 0; i < 40000000; i++) buffer_add(&b, ",0", 2);
    put_file("x", b.data, b.len, 0); check_open("commas");
    buffer_free(&b);
    // 1 TB of nothing: a sparse file, once all zeros, once with a header that claims all of it
    uint64_t n = 8;
    int fd = open(in("x"), O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (ftruncate(fd, (off_t)1 << 40) == 0) {
        check_open("does not begin with");
        assert_int_equal(pwrite(fd, &n, 8, 0), 8);
        assert_int_equal(pwrite(fd, "{}      ", 8, 8), 8);
        check_open("behind the last tensor");
    } else print_message("no sparse file of 1 TB here: skipped\n");
    close(fd);
    unlink(in("x"));
}

static void test_round_trip(void **state) {
    (void)state;
    Error e;
    const int64_t shape[8] = {2, 3, 1, 1, 1, 1, 1, 1}, empty[2] = {0, 9};
    const uint8_t data[256] = {1, 2, 3};
    SafetensorsWriter *w = safetensors_writer_new(in("round"));
    int64_t bytes = 0;
    char name[40];
    safetensors_writer_metadata(w, "format", "pt");
    safetensors_writer_metadata(w, "q\"\n", "\xc3\xa9\t");
    for (int d = 0; d < NUM_DTYPES; d++) {
        snprintf(name, sizeof name, "t%d", (d * 7) % NUM_DTYPES);   // names not in order
        safetensors_writer_tensor(w, name, (Dtype)d, d % 9, shape);
        bytes += dtype_size((Dtype)d) * (d % 9 == 0 ? 1 : d % 9 == 1 ? 2 : 6);
    }
    safetensors_writer_tensor(w, "empty", DTYPE_F32, 2, empty);
    assert_true(safetensors_writer_begin(w, &e));
    assert_false(file_exists(in("round")));   // not before it is whole
    while (bytes > 0) { int64_t k = bytes < 100 ? bytes : 100; assert_true(safetensors_writer_data(w, data, k, &e)); bytes -= k; }
    assert_true(safetensors_writer_commit(w, &e));
    Safetensors *s = safetensors_open(in("round"), &e);
    if (!s) fail_msg("%s", e.text);
    assert_int_equal(safetensors_count(s), NUM_DTYPES + 1);
    assert_string_equal(safetensors_metadata(s, "format"), "pt");
    assert_string_equal(safetensors_metadata(s, "q\"\n"), "\xc3\xa9\t");
    assert_null(safetensors_metadata(s, "none"));
    assert_null(safetensors_find(s, "none"));
    assert_int_equal((safetensors_at(s, 0)->data - s->file.data) % 8, 0);
    for (int d = 0; d < NUM_DTYPES; d++) {
        snprintf(name, sizeof name, "t%d", (d * 7) % NUM_DTYPES);
        const SafeTensor *t = safetensors_find(s, name);
        assert_non_null(t);
        assert_int_equal(t->dtype, d);
        assert_int_equal(t->rank, d % 9);
    }
    assert_memory_equal(safetensors_at(s, 0)->data, data, 8);
    assert_int_equal(safetensors_find(s, "empty")->count, 0);
    safetensors_close(s);
    unlink(in("round"));
}

// as many tensors as a header may have: linear to open, found by name without a walk
static void test_a_million_tensors(void **state) {
    (void)state;
    enum { N = 1000000 };
    Buffer b = {NULL, 0, 0};
    buffer_add(&b, "{", 1);
    for (int i = 0; i < N; i++) {   // each second one empty, which begins where its neighbour does
        char entry[96];
        buffer_add(&b, entry, snprintf(entry, sizeof entry, "%s\"%x\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]}", i ? "," : "", (unsigned)i * 2654435761u, i % 2, i / 2, (i + 1) / 2));
    }
    buffer_add(&b, "}", 1);
    put_file("x", b.data, b.len, N / 2);
    buffer_free(&b);
    Error e;
    double start = cpu_seconds();
    Safetensors *s = safetensors_open(in("x"), &e);
    if (!s) fail_msg("%s", e.text);
    assert_int_equal(safetensors_count(s), N);
    for (int i = 0; i < N; i++) {
        char name[16];
        snprintf(name, sizeof name, "%x", (unsigned)i * 2654435761u);
        const SafeTensor *t = safetensors_find(s, name);
        if (!t || t->count != i % 2 || t->begin != i / 2) fail_msg("tensor %d", i);
    }
    assert_true(cpu_seconds() - start < 40);   // 3 s; ten times that under ASan
    safetensors_close(s);
    unlink(in("x"));
}

// a file that is replaced while it is open: who opened it keeps reading the old one. One that is cut: one line, not a core dump.
static void test_files_that_change_under_us(void **state) {
    (void)state;
    Error e;
    Buffer b = {NULL, 0, 0};
    enum { BYTES = 1 << 20 };
    char *old = (char *)xmalloc(BYTES);
    memset(old, 'o', BYTES);
    const int64_t shape[1] = {BYTES};
    for (int round = 0; round < 2; round++) {
        memset(old, 'o', BYTES);
        SafetensorsWriter *w = safetensors_writer_new(in("x"));
        safetensors_writer_tensor(w, "a", DTYPE_U8, 1, shape);
        assert_true(safetensors_writer_begin(w, &e) && safetensors_writer_data(w, old, BYTES, &e) && safetensors_writer_commit(w, &e));
        Safetensors *s = safetensors_open(in("x"), &e);
        assert_non_null(s);
        if (round == 0) {
            put("x", "new", 3);
            assert_memory_equal(safetensors_find(s, "a")->data, old, BYTES);
        } else {
            int ends[2];
            assert_int_equal(pipe(ends), 0);
            fflush(stdout);
            fflush(stderr);
            pid_t child = fork();
            if (child == 0) {
                dup2(ends[1], 2);
                sigbus_message();
                if (truncate(in("x"), 4096) != 0) _exit(2);
                uint64_t sum = 0;
                for (int64_t i = 0; i < BYTES; i++) sum += safetensors_at(s, 0)->data[i];
                _exit(sum ? 3 : 4);   // read what is not there
            }
            close(ends[1]);
            char line[512];
            for (ssize_t n; (n = read(ends[0], line, sizeof line)) > 0;) buffer_add(&b, line, n);
            buffer_add(&b, "", 1);
            close(ends[0]);
            int status = 0;
            assert_int_equal(waitpid(child, &status, 0), child);
            assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
            char *end = strchr(b.data, '\n');
            if (!strstr(b.data, "truncated") || !end || end[1]) fail_msg("the message is \"%s\", expected one line", b.data);
        }
        safetensors_close(s);
    }
    buffer_free(&b);
    free(old);
    unlink(in("x"));
}

// ---- conversions

static float bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static void test_conversions(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float b = bf16_to_f32((uint16_t)h), f = f16_to_f32((uint16_t)h);
        if (isnan(b)) assert_true(isnan(bf16_to_f32(f32_to_bf16(b)))); else assert_int_equal(f32_to_bf16(b), h);
        if (isnan(f)) assert_true(isnan(f16_to_f32(f32_to_f16(f)))); else assert_int_equal(f32_to_f16(f), h);
        uint32_t exponent = (h >> 10) & 31, mantissa = h & 1023;   // half by its definition
        double exact = exponent == 31 ? (double)INFINITY : exponent ? ldexp(1024.0 + mantissa, (int)exponent - 25) : ldexp(mantissa, -24);
        if (!isnan(f)) assert_true((double)f == (h & 0x8000 ? -exact : exact));
        assert_int_equal(isnan(f), exponent == 31 && mantissa);
    }
    for (uint32_t h = 0; h < 0x7F7F; h++) {   // between neighbours: below, at and above the half; ties go to the even one
        uint32_t u = h << 16;
        assert_int_equal(f32_to_bf16(bits(u + 0x7FFF)), h);
        assert_int_equal(f32_to_bf16(bits(u + 0x8000)), h + (h & 1));
        assert_int_equal(f32_to_bf16(bits(u + 0x8001)), h + 1);
        assert_int_equal(f32_to_bf16(bits((u + 0x8000) | 0x80000000u)), (h + (h & 1)) | 0x8000);
    }
    for (uint32_t h = 0; h < 0x7BFF; h++) {
        float middle = (f16_to_f32((uint16_t)h) + f16_to_f32((uint16_t)(h + 1))) / 2;   // exact in fp32
        assert_int_equal(f32_to_f16(middle), h + (h & 1));
        assert_int_equal(f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(f32_to_f16(nextafterf(middle, 1e9f)), h + 1);
        assert_int_equal(f32_to_f16(-middle), (h + (h & 1)) | 0x8000);
    }
    // any number: neither neighbour of what it is rounded to may be nearer, and of two as near it is the even one
    for (uint64_t i = 0; i < 1000000; i++) {
        float f = bits((uint32_t)random_u64(1, 2, i)), g = bits((uint32_t)(0x33000000u + random_below(1, 3, i, 0x477FEFFFu - 0x33000000u)));
        for (int half = 0; half < 2; half++) {
            float x = half ? g : f;
            if (!(fabsf(x) < (half ? 65504.0f : 3.38e38f))) continue;
            uint16_t h = half ? f32_to_f16(x) : f32_to_bf16(x);
            double here = fabs((double)(half ? f16_to_f32(h) : bf16_to_f32(h)) - x);
            for (int side = -1; side <= 1; side += 2) {
                if ((h & 0x7FFF) == 0 && side < 0) continue;
                uint16_t n = (uint16_t)(h + side);
                double there = fabs((double)(half ? f16_to_f32(n) : bf16_to_f32(n)) - x);
                if (!(here < there || (here == there && !(h & 1)))) fail_msg("%.9g became %04x", x, h);
            }
        }
    }
    assert_int_equal(f32_to_f16(65519.996f), 0x7BFF);
    assert_int_equal(f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(f32_to_bf16(3.4028235e38f), 0x7F80);
    assert_true(isnan(bf16_to_f32(f32_to_bf16(bits(0x7F800001)))));   // a NaN whose upper half is an infinity's
    assert_true(isnan(bf16_to_f32(f32_to_bf16(bits(0xFFFFFFFF)))));
}

// ---- a directory and its index

static void put_shard(const char *name, const char *tensor, const char *second) {
    Error e;
    const int64_t shape[1] = {4};
    SafetensorsWriter *w = safetensors_writer_new(in(name));
    safetensors_writer_tensor(w, tensor, DTYPE_U8, 1, shape);
    if (second) safetensors_writer_tensor(w, second, DTYPE_U8, 1, shape);
    bool ok = safetensors_writer_begin(w, &e) && safetensors_writer_data(w, "abcdabcd", second ? 8 : 4, &e) && safetensors_writer_commit(w, &e);
    if (!ok) fail_msg("%s", e.text);
}
static void check_index(const char *text, const char *expected) {
    Error e;
    e.text[0] = 0;
    put("d/model.safetensors.index.json", text, (int64_t)strlen(text));
    Weights *w = weights_open(in("d"), &e);
    if (!expected && !w) fail_msg("refused: %s", e.text);
    if (expected && w) fail_msg("opened %s", text);
    if (expected) check_line(&e, expected);
    weights_close(w);
}
static void test_index(void **state) {
    (void)state;
    Error e;
    assert_true(make_directory(in("d"), &e));
    assert_null(weights_open(in("d"), &e)); check_line(&e, "neither");
    put_shard("d/a", "x", NULL); put_shard("d/b", "y", NULL); put_shard("d/ab", "x", "y"); put_shard("outside", "z", NULL);
    assert_int_equal(symlink("../outside", in("d/out")), 0);
    assert_int_equal(symlink("a", in("d/link")), 0);
    assert_int_equal(symlink(in("outside"), in("d/absolute")), 0);
    check_index("{\"metadata\":{\"total_size\":8},\"weight_map\":{\"x\":\"a\",\"y\":\"b\"}}", NULL);
    check_index("{\"metadata\":{\"total_size\":8.0},\"weight_map\":{\"x\":\"a\",\"y\":\"b\"}}", NULL);
    check_index("{\"weight_map\":{\"x\":\"link\"}}", NULL);   // inside
    Weights *w = weights_open(in("d"), &e);
    assert_non_null(w);
    assert_memory_equal(weights_find(w, "x")->data, "abcd", 4);
    assert_null(weights_find(w, "y"));
    weights_close(w);
    static const char *const bad[][2] = {
        {"", "not valid JSON"}, {"[]", "expected an object"}, {"{}", "weight_map"}, {"{\"weight_map\":[]}", "weight_map"}, {"{\"weight_map\":{}}", "empty"},
        {"{\"weight_map\":{\"x\":1}}", "expected a file name"}, {"{\"weight_map\":{\"x\":\"a\\u0000b\"}}", "expected a file name"}, {"{\"weight_map\":{\"x\":\"\"}}", "plain file name"},
        {"{\"weight_map\":{\"z\":\"../outside\"}}", "plain file name"}, {"{\"weight_map\":{\"x\":\"..\"}}", "plain file name"}, {"{\"weight_map\":{\"x\":\".\"}}", "plain file name"},
        {"{\"weight_map\":{\"x\":\"/etc/passwd\"}}", "plain file name"}, {"{\"weight_map\":{\"x\":\"./a\"}}", "plain file name"},
        {"{\"weight_map\":{\"z\":\"out\"}}", "outside its directory"}, {"{\"weight_map\":{\"z\":\"absolute\"}}", "outside its directory"},
        {"{\"weight_map\":{\"x\":\"none\"}}", "cannot be opened"}, {"{\"weight_map\":{\"x\":\"a\",\"w\":\"b\"}}", "which it does not"},
        {"{\"weight_map\":{\"x\":\"a\",\"y\":\"ab\"}}", "in two shards"}, {"{\"weight_map\":{\"x\":\"ab\"}}", "does not list"}, {"{\"weight_map\":{\"x\":\"a\",\"x\":\"ab\"}}", "duplicate"},
        {"{\"metadata\":{\"total_size\":\"8\"},\"weight_map\":{\"x\":\"a\"}}", "total_size"}, {"{\"metadata\":{\"total_size\":-1},\"weight_map\":{\"x\":\"a\"}}", "total_size"},
        {"{\"metadata\":{\"total_size\":8.5},\"weight_map\":{\"x\":\"a\"}}", "total_size"}, {"{\"metadata\":1,\"weight_map\":{\"x\":\"a\"}}", "metadata"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) check_index(bad[i][0], bad[i][1]);
    put_shard("d/model.safetensors", "x", NULL);
    check_index("{\"weight_map\":{\"x\":\"a\"}}", "remove the stale one");
    remove_tree(in("d"));
}

// ---- model directories

static Model *new_model(float scale) {
    Model *m = (Model *)xcalloc(1, sizeof(Model));
    m->config.num_layers = LAYERS;
    m->data = (float *)xcalloc(NUMBERS, 4);
    for (int i = 0; i < NUMBERS; i++) m->data[i] = scale * (float)(i - 7);   // small integers are exact in bf16
    return m;
}
static void free_model(Model *m) { free(m->data); free(m); }
static const char config_text[] = "{\"architectures\": [\"LlamaForCausalLM\"], \"rms_norm_eps\": 1e-05, \"torch_dtype\": \"float32\"}";
static void check_loads(const char *dir, float scale) {
    Error e;
    Model *m = new_model(0), *want = new_model(scale);
    if (!model_load_dir(m, in(dir), &e)) fail_msg("%s", e.text);
    assert_memory_equal(m->data, want->data, NUMBERS * 4);
    free_model(m);
    free_model(want);
}
static void save(const char *dir, float scale, const char *dtype, int64_t shard) {
    Error e;
    Model *m = new_model(scale);
    if (!model_save_dir(m, in("source"), in(dir), dtype, shard, &e)) fail_msg("%s", e.text);
    free_model(m);
}

static void test_model_directory(void **state) {
    (void)state;
    Error e;
    assert_true(make_directory(in("source"), &e));
    put("source/config.json", config_text, (int64_t)strlen(config_text));
    put("source/tokenizer.json", "{}", 2);
    save("m", 1, "float32", 0); check_loads("m", 1);
    save("m", 2, "bfloat16", 0); check_loads("m", 2);
    save("m", 1, "float16", 0); check_loads("m", 1);
    assert_true(file_exists(in("m/tokenizer.json")));
    json_t *j = json_parse_file(in("m/config.json"), 1 << 20, &e);
    assert_string_equal(json_string_value(json_object_get(j, "torch_dtype")), "float16");
    assert_null(json_object_get(j, "dtype"));
    assert_true(json_real_value(json_object_get(j, "rms_norm_eps")) == 1e-05);
    json_decref(j);
    save("m", 3, "float32", 64);   // 112 + 3 x 16 bytes: shards, and model.safetensors of before goes
    assert_false(file_exists(in("m/model.safetensors")));
    check_loads("m", 3);
    assert_true(file_exists(in("m/model-00002-of-00002.safetensors")));
    save("m", 4, "float32", 64); check_loads("m", 4);          // over its own names
    save("m", 5, "float32", 20); check_loads("m", 5);          // another number of shards
    assert_false(file_exists(in("m/model-00001-of-00002.safetensors")));
    put("m/tmp", "", 0);
    assert_true(make_directory(in("m/.saving"), &e));           // what a killed save leaves
    put("m/.saving/model.safetensors.tmp.1", "x", 1);
    save("m", 6, "float32", 0); check_loads("m", 6);
    assert_false(file_exists(in("m/.saving")) || file_exists(in("m/model.safetensors.index.json")) || file_exists(in("m/model-00001-of-00004.safetensors")));
    Model *m = new_model(1);
    assert_false(model_save_dir(m, in("m/../source"), in("source"), "float32", 0, &e)); check_line(&e, "read from");
    assert_false(model_save_dir(m, in("source"), in("m"), "int8", 0, &e)); check_line(&e, "int8");
    m->data[3] = 65520.0f;
    assert_false(model_save_dir(m, in("source"), in("m"), "float16", 0, &e)); check_line(&e, "float16's 65504");
    check_loads("m", 6);
    assert_false(file_exists(in("m/.saving")));
    m->data[3] = NAN;   // loads, with a warning that says how many
    if (!model_save_dir(m, in("source"), in("nan"), "bfloat16", 0, &e) || !model_load_dir(m, in("nan"), &e)) fail_msg("%s", e.text);
    assert_true(isnan(m->data[3]));
    free_model(m);
}

// weights that do not fit the table, each refused by name: what a shard with one tensor replaced, added or left out says
static void check_weights(int which, const char *name, Dtype dtype, int rank, int64_t rows, int64_t cols, const char *expected) {
    static const char *const names[] = {"model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.layers.1.input_layernorm.weight", "model.norm.weight"};
    Error e;
    const uint8_t zeros[512] = {0};
    int64_t bytes = 0;
    assert_true(make_directory(in("w"), &e));
    SafetensorsWriter *w = safetensors_writer_new(in("w/model.safetensors"));
    for (int i = 0; i < 5; i++) {
        int64_t shape[2] = {i == 0 ? 7 : 4, 4};
        int r = i == 0 ? 2 : 1;
        Dtype d = DTYPE_F32;
        const char *n = i < 4 ? names[i] : NULL;
        if (i == which) { n = name; d = dtype; r = rank; shape[0] = rows; shape[1] = cols; }
        if (!n) continue;
        safetensors_writer_tensor(w, n, d, r, shape);
        bytes += dtype_size(d) * shape[0] * (r == 2 ? shape[1] : 1);
    }
    bool ok = safetensors_writer_begin(w, &e) && safetensors_writer_data(w, zeros, bytes, &e) && safetensors_writer_commit(w, &e);
    if (!ok) fail_msg("%s", e.text);
    Model *m = new_model(1);
    ok = model_load_dir(m, in("w"), &e);
    if (ok != !expected) fail_msg("%s", ok ? "loaded" : e.text);
    if (!ok) check_line(&e, expected);
    free_model(m);
}
static void test_weights_that_do_not_fit(void **state) {
    (void)state;
    check_weights(-1, NULL, DTYPE_F32, 0, 0, 0, NULL);
    check_weights(3, NULL, DTYPE_F32, 0, 0, 0, "\"model.norm.weight\" is missing");
    check_weights(0, "model.embed_tokens.weight", DTYPE_F32, 2, 4, 7, "has shape 4 x 7, config.json says 7 x 4");
    check_weights(0, "model.embed_tokens.weight", DTYPE_F32, 1, 28, 0, "has shape 28");
    check_weights(3, "model.norm.weight", DTYPE_F8_E4M3, 1, 4, 0, "of type F8_E4M3");
    check_weights(3, "model.norm.weight", DTYPE_I8, 1, 4, 0, "of type I8");
    check_weights(3, "model.norm.weight", DTYPE_F64, 1, 4, 0, NULL);
    check_weights(4, "model.layers.2.input_layernorm.weight", DTYPE_F32, 1, 4, 0, "unexpected tensor");
    check_weights(4, "model.layers.01.input_layernorm.weight", DTYPE_F32, 1, 4, 0, "unexpected tensor");
    check_weights(4, "model.layers.0.self_attn.rotary_emb.inv_freq", DTYPE_F32, 1, 4, 0, NULL);
    check_weights(4, "lm_head.weight", DTYPE_F32, 2, 7, 4, NULL);   // tied, and a copy
    check_weights(4, "lm_head.weight", DTYPE_F32, 2, 7, 3, "ties the embeddings");
}

// ---- writes that fail: what was there stays
static void test_failing_writes(void **state) {
    (void)state;
    Error e;
    save("f", 1, "float32", 0);
    struct rlimit old, small;
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    signal(SIGXFSZ, SIG_IGN);
    Model *m = new_model(2);
    for (rlim_t limit = 0; limit < 700; limit += 50) {   // each write fails somewhere else, in every file in turn
        small.rlim_cur = limit;
        setrlimit(RLIMIT_FSIZE, &small);
        bool ok = model_save_dir(m, in("source"), in("f"), "float32", limit % 100 ? 64 : 0, &e);
        setrlimit(RLIMIT_FSIZE, &old);
        if (ok) { assert_true(limit > 300); save("f", 1, "float32", 0); continue; }
        check_line(&e, "write failed");
        check_loads("f", 1);
        assert_false(file_exists(in("f/.saving")));
    }
    signal(SIGXFSZ, SIG_DFL);
    put("file", "x", 1);
    assert_false(model_save_dir(m, in("source"), in("file/sub"), "float32", 0, &e)); check_line(&e, "cannot make the directory");
    if (geteuid() != 0) {   // root may write anywhere
        chmod(in("f"), 0500);
        assert_false(model_save_dir(m, in("source"), in("f"), "float32", 0, &e)); check_line(&e, "cannot be written");
        chmod(in("f"), 0700);
        check_loads("f", 1);
    }
    free_model(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_headers), cmocka_unit_test(test_hostile_tensors), cmocka_unit_test(test_hostile_sizes), cmocka_unit_test(test_a_million_tensors), cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_files_that_change_under_us), cmocka_unit_test(test_conversions), cmocka_unit_test(test_index), cmocka_unit_test(test_model_directory),
        cmocka_unit_test(test_weights_that_do_not_fit), cmocka_unit_test(test_failing_writes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
