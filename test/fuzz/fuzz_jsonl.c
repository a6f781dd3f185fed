// fuzz_jsonl.c: one row of JSONL into prepare's row parser, for every kind and template; and into --encode and --decode.
#define FINDAP_LIBRARY
#include "../../data/prepare.c"
#include "../tiny_tokenizer.h"   // defines: tiny_tokenizer

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The row: the input itself or, since random bytes rarely come to a row, the input put in for every @ of one of these.
static void make_row(Buffer *row, int which, const char *data, int64_t size) {
    static const char *const skeletons[] = {
        "@",
        "{\"text\":\"@\"}",
        "{\"messages\":[@]}",
        "{\"messages\":[{\"role\":\"user\",\"content\":\"@\"},{\"role\":\"assistant\",\"content\":\"@\"}]}",
        "{\"conversations\":[{\"from\":\"human\",\"value\":\"x\"},{\"from\":\"gpt\",\"value\":\"<think>@</think>@\"},{\"role\":\"user\",\"content\":\"@\"}]}",
        "{\"prompt\":\"@\",\"completion\":\"x@\"}",
        "{\"prompt\":\"x\",\"chosen\":\"@\",\"rejected\":\"y\"}",
        "{\"prompt\":\"x\",\"chosen\":\"y\",\"rejected\":\"@\",\"open\":true}",
        "{\"prompt\":[{\"role\":\"system\",\"content\":\"@\"}, @]}",
        "{\"prompt\":\"x\",@}"};
    for (const char *p = skeletons[which % 10]; *p; p++) buffer_add(row, *p == '@' ? data : p, *p == '@' ? size : 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static Tokenizer *tokenizers[3];
    static Arena arena;
    Error e;
    e.text[0] = 0;
    if (!tokenizers[2]) {
        static const char *const families[] = {"llama3", "qwen2", "deepseek-r1"};
        char directory[] = "/tmp/findap_fuzz_XXXXXX", *path = NULL;
        if (!mkdtemp(directory)) abort();
        for (int i = 0; i < 3; i++) if (!(tokenizers[i] = tiny_tokenizer(directory, families[i], &e))) die("%s", e.text);
        unlink(path = path_join(directory, "tokenizer.json"));
        rmdir(directory);
        free(path);
    }
    if (size < 2) return 0;
    Buffer text = {NULL, 0, 0};
    make_row(&text, data[1], (const char *)data + 2, (int64_t)size - 2);
    static const ChatTemplate templates[] = {TEMPLATE_LLAMA3, TEMPLATE_QWEN2, TEMPLATE_DEEPSEEK_R1, TEMPLATE_LLAMA31, TEMPLATE_NONE};
    static const int families[] = {0, 1, 2, 0, 1};
    int which = data[0] % 5, mode = data[0] / 5 % 6;
    Options o;
    memset(&o, 0, sizeof o);
    o.tokenizer = tokenizers[families[which]];
    o.chat = templates[which];
    o.kind = (ShardKind)(mode % 3);
    o.encode = mode == 4;
    o.decode = mode == 5;
    o.max_len = 64;
    for (int i = 0; i < NUM_FIELDS; i++) o.names[i] = (char *)(uintptr_t)field_names[i];
    Row row;
    memset(&row, 0, sizeof row);
    row.data = text.data;
    row.size = text.len;
    arena.ids.len = arena.weights.len = arena.text.len = 0;
    bool ok = mode >= 4 ? convert_row(&o, &row, &arena, &e) : encode_row(&o, mode == 3, &row, &arena, &e);
    if (!ok) CHECK(e.text[0] && !strchr(e.text, '\n'));
    else if (mode < 4) {
        CHECK(row.offset + row.length == arena.ids.len && arena.weights.len == arena.ids.len);
        for (int64_t i = 0; i < row.length; i++)
            CHECK(arena.ids.data[i] >= 0 && arena.ids.data[i] < tokenizer_vocab_size(o.tokenizer) &&
                  (uint8_t)arena.weights.data[i] <= (i > 0));
        if (o.kind == SHARD_PREF && row.status == ROW_KEPT && mode < 3)
            CHECK(0 < row.chosen && row.chosen < row.rejected && row.rejected < row.length);
    }
    buffer_free(&text);
    return 0;
}
