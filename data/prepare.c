// prepare.c: JSONL in, token shards out (findap/shard.h), and plain encode/decode for checks and scripts.
//
// One row is one document. What is trained depends on the kind:
//     cpt   {"text"}: everything but the first token of a piece. BOS in front and EOS behind, where the tokenizer has them. A file
//           that ends in .txt is one document. Rows of the other forms are rendered by the template and trained as text.
//     it    {"messages": [{role, content}]} or {"conversations": [{from, value}]}: every assistant turn with its end-of-turn
//           token. {"prompt", "completion"}, each a string or a list of messages: the completion only.
//     pref  {"prompt", "chosen", "rejected"}: one document of the prompt and both completions. With "open": true the rejected answer is one
//           that was cut off: no end of turn is put behind it, or the model would be taught not to end where it never did.
// When a row has several of these forms the first in this order counts.
//
// What does not fit is never cut silently. A cpt document longer than --max-len becomes several pieces whose concatenation is
// the document: BOS at its beginning and EOS at its end only, so that the model doesn't learn that texts begin and end in
// mid-sentence. An over-long answer is worth nothing without its end, so it and over-long pairs are dropped. All is counted.
//
// The input is read in blocks of whole lines; the rows of a block are encoded by all threads and written in their order, so the
// result doesn't depend on the number of threads, and memory doesn't grow with the input.
#define PREPARE_BLOCK_BYTES (8 << 20)
#define PREPARE_BLOCK_ROWS 65536
#define PREPARE_MAX_LINE (1ll << 30)
#include "findap/common.h"      // defines: Error, fail, die, Buffer, Ids, Hash, escape_text
#include "findap/flags.h"       // defines: Flag, flags_parse, flags_help
#include "findap/json.h"        // defines: json_parse_line, encoding_guess, json_type_name
#include "findap/tokenizer.h"   // defines: Tokenizer, tokenizer_encode, tokenizer_decode, utf8_valid_prefix
#include "findap/chat.h"        // defines: chat_render_at, chat_find, chat_hash
#include "findap/messages.h"    // defines: MessageList, parse_messages, begins_well
#include "findap/shard.h"       // defines: ShardWriter, ShardKind
#ifdef _OPENMP
#include <omp.h>
#else
static int omp_get_thread_num(void) { return 0; }
static int omp_get_max_threads(void) { return 1; }
#endif
#ifndef FINDAP_COMMIT
#define FINDAP_COMMIT "unknown"
#endif

// ---------------------------------------------------------------------------------------------------------------
// what was asked

enum { FIELD_TEXT, FIELD_MESSAGES, FIELD_CONVERSATIONS, FIELD_PROMPT, FIELD_COMPLETION, FIELD_CHOSEN, FIELD_REJECTED, FIELD_OPEN, NUM_FIELDS };
FN const char *const field_names[NUM_FIELDS] = {"text", "messages", "conversations", "prompt", "completion", "chosen", "rejected", "open"};

typedef struct {
    const char *tokenizer_path, *kind_name, *template_name, *out, *fields;
    int64_t max_len, shard_tokens, threads, show;
    bool encode, decode, parse_special, split_with_bos_eos, skip_bad_rows, dry_run;
    StringList inputs;
    // derived from these
    char *names[NUM_FIELDS];      // what the fields are called in the input
    Tokenizer *tokenizer;
    ShardKind kind;
    ChatTemplate chat;
} Options;

typedef enum { ROW_KEPT, ROW_BAD, ROW_TOO_LONG, ROW_NO_TARGET, ROW_SAME, NUM_ROW_STATUS } RowStatus;

typedef struct {
    const char *data;             // of the line, in the reader's block
    int64_t size, line;           // bytes; number from 1
    RowStatus status;
    bool framed;                  // a cpt text with BOS and EOS around it
    int arena;                    // the thread that encoded it: ids [offset, offset + length) of its arena
    int64_t offset, length;       // for --encode and --decode: bytes of the arena's text
    int64_t chosen, rejected;     // from the start of the document; pref only
    char *error;
} Row;

typedef struct { Ids ids; Buffer weights, text; } Arena;   // what one thread made of a block; emptied, not freed, for the next

// parses "prompt=question,completion=answer"
static bool parse_fields(Options *o, Error *e) {
    for (int i = 0; i < NUM_FIELDS; i++) o->names[i] = xstrdup(field_names[i]);
    char *copy = xstrdup(o->fields ? o->fields : ""), *save = NULL;
    bool ok = true;
    for (char *word = strtok_r(copy, ",", &save); word && ok; word = strtok_r(NULL, ",", &save)) {
        char *equals = strchr(word, '=');
        int field = -1;
        if (equals) *equals = 0;
        for (int i = 0; i < NUM_FIELDS; i++) if (strcmp(word, field_names[i]) == 0) field = i;
        if (!equals || !equals[1] || field < 0)
            ok = fail(
                e,
                "--fields has \"%s\", expected FIELD=NAME with FIELD one of text, messages, conversations, prompt, completion, chosen, rejected, open",
                word);
        else { free(o->names[field]); o->names[field] = xstrdup(equals + 1); }
    }
    free(copy);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// one row: JSON to ids

// Renders prompt ++ completion behind what the arena holds. *cut: how many ids of it are the prompt.
static bool render_completion(const Options *o, const json_t *row, MessageList *list, int num_prompt, const char *field, Arena *a,
                              int64_t *cut, Error *e) {
    list->n = num_prompt;
    if (!parse_messages(row, field, "assistant", list, e)) return false;
    if (strcmp(list->items[num_prompt].role, "assistant") != 0)
        return fail(e, "\"%s\" begins with a %s turn, expected an assistant turn ---> is the prompt repeated in it?", field,
                    list->items[num_prompt].role);
    int64_t start = a->ids.len;
    if (!chat_render_at(o->tokenizer, o->chat, list->items, list->n, false, num_prompt, cut, &a->ids, &a->weights, e)) return false;
    *cut -= start;
    memset(a->weights.data + start, 0, (size_t)*cut);   // answers inside the prompt are context
    return true;
}

static bool encode_text(const Options *o, const char *text, int64_t length, Row *row, Arena *a, Error *e) {
    if (length == 0) return fail(e, "\"%s\" is empty", o->names[FIELD_TEXT]);
    int32_t bos = tokenizer_bos(o->tokenizer), eos = tokenizer_eos(o->tokenizer);
    if (bos >= 0) ids_add(&a->ids, bos);
    tokenizer_encode(o->tokenizer, text, length, false, &a->ids);
    if (eos >= 0) ids_add(&a->ids, eos);
    row->framed = true;
    return true;
}

// Takes away the token that ends the last assistant turn and what the template writes behind it; where the tokenizer has no such token there is none.
static void leave_open(const Options *o, int64_t start, Arena *a) {
    const char *end = chat_definitions[o->chat].turns[CHAT_ASSISTANT].end;
    if (strcmp(end, CHAT_EOS) == 0 && tokenizer_eos(o->tokenizer) < 0) return;
    while (a->ids.len > start && !a->weights.data[a->ids.len - 1]) a->ids.len--;   // the tail is not trained, the end is
    if (a->ids.len > start) a->ids.len--;
    a->weights.len = a->ids.len;
}

static bool encode_pair(const Options *o, const json_t *j, MessageList *list, Row *row, Arena *a, Error *e) {
    int64_t cut = 0, cut2 = 0;
    int num_prompt = list->n;
    if (!render_completion(o, j, list, num_prompt, o->names[FIELD_CHOSEN], a, &cut, e)) return false;
    int64_t second = a->ids.len, first_length = second - row->offset;
    bool open = false;
    if (!json_get_bool(j, o->names[FIELD_OPEN], "the row", false, &open, e) || !render_completion(o, j, list, num_prompt, o->names[FIELD_REJECTED], a, &cut2, e)) return false;
    if (open) leave_open(o, second + cut2, a);
    int64_t second_length = a->ids.len - second, chosen = first_length - cut, rejected = second_length - cut2;
    CHECK(cut == cut2 && memcmp(a->ids.data + row->offset, a->ids.data + second, (size_t)cut * sizeof(int32_t)) == 0);
    // the prompt is stored once: close the gap
    memmove(a->ids.data + second, a->ids.data + second + cut, (size_t)rejected * sizeof(int32_t));
    memmove(a->weights.data + second, a->weights.data + second + cut, (size_t)rejected);
    a->ids.len = a->weights.len = second + rejected;
    row->chosen = cut;
    row->rejected = first_length;
    if (cut == 0 || chosen == 0 || rejected == 0) row->status = ROW_NO_TARGET;
    else if (chosen == rejected && memcmp(a->ids.data + row->offset + cut, a->ids.data + second, (size_t)chosen * sizeof(int32_t)) == 0)
        row->status = ROW_SAME;
    else if (cut + (chosen > rejected ? chosen : rejected) > o->max_len) row->status = ROW_TOO_LONG;
    return true;
}

static char *keys_of(const json_t *j) {   // the first few, for an error; the caller frees it
    Buffer b = {NULL, 0, 0};
    const char *key;
    json_t *value;
    int n = 0;
    json_object_foreach((json_t *)j, key, value) {
        char *word = n < 8 ? xprintf("%s\"%.40s\"", n ? ", " : "", key) : xstrdup(n == 8 ? ", ..." : "");
        buffer_add(&b, word, (int64_t)strlen(word));
        free(word);
        n++;
    }
    buffer_add(&b, n ? "" : "no key", n ? 1 : 7);   // with the final zero
    return b.data;
}

static bool encode_conversation(const Options *o, const json_t *j, Row *row, Arena *a, MessageList *list, Error *e) {
    char *const *name = o->names;
    bool pref = o->kind == SHARD_PREF;
    if (!pref) for (int f = FIELD_MESSAGES; f <= FIELD_CONVERSATIONS; f++) {
        if (!json_object_get(j, name[f])) continue;
        if (!parse_messages(j, name[f], NULL, list, e) || !begins_well(list, name[f], e)) return false;
        return chat_render(o->tokenizer, o->chat, list->items, list->n, false, &a->ids, &a->weights, e);
    }
    if (!json_object_get(j, name[FIELD_PROMPT])) {
        char *found = keys_of(j);
        fail(e, "expected %s, found %s ---> name them with --fields (as prompt=question,completion=answer), or is --kind %s right?",
                    pref                  ? "\"prompt\", \"chosen\" and \"rejected\""
                    : o->kind == SHARD_IT ? "\"messages\", \"conversations\", or \"prompt\" and \"completion\""
                                          : "\"text\", \"messages\", \"conversations\", or \"prompt\" and \"completion\"",
                    found, shard_kind_names[o->kind]);
        free(found);
        return false;
    }
    if (!parse_messages(j, name[FIELD_PROMPT], "user", list, e) || !begins_well(list, name[FIELD_PROMPT], e)) return false;
    int64_t cut = 0;
    return pref ? encode_pair(o, j, list, row, a, e) : render_completion(o, j, list, list->n, name[FIELD_COMPLETION], a, &cut, e);
}

// JSON of one row to ids and weights at the end of the arena; false: the row is malformed
static bool encode_row(const Options *o, bool plain_text, Row *row, Arena *a, Error *e) {
    row->offset = a->ids.len;
    bool ok = true;
    if (plain_text) {   // a text is taken as it is, so what is none would be trained as rubbish; JSON's reader looks for itself
        int64_t good = utf8_valid_prefix((const uint8_t *)row->data, row->size);
        const char *zero = (const char *)memchr(row->data, 0, (size_t)row->size);
        if (zero && zero - row->data < good) good = zero - row->data;
        Encoding x = encoding_guess(row->data, row->size);
        ok = good == row->size ? encode_text(o, row->data, row->size, row, a, e)
                               : fail(e, "is not UTF-8 (byte 0x%02x at %" PRId64 "; %s) ---> %s", (uint8_t)row->data[good], good, x.looks, x.hint);
    } else {
        json_t *j = json_parse_line("row", row->data, row->size, e);
        if (!j) return false;
        MessageList list = {NULL, 0, 0};
        const json_t *text = json_object_get(j, o->names[FIELD_TEXT]);
        if (!json_is_object(j)) ok = fail(e, "the row is %s, expected an object%s", json_type_name(j), json_is_array(j) ? " ---> jq -c '.[]' takes an array apart, one object a line" : "");
        else if (o->kind != SHARD_CPT || !text) ok = encode_conversation(o, j, row, a, &list, e);
        else if (!json_is_string(text)) ok = fail(e, "\"%s\" is %s, expected a string", o->names[FIELD_TEXT], json_type_name(text));
        else ok = encode_text(o, json_string_value(text), (int64_t)json_string_length(text), row, a, e);
        free(list.items);
        json_decref(j);
    }
    if (!ok) { a->ids.len = a->weights.len = row->offset; return false; }
    row->length = a->ids.len - row->offset;
    buffer_reserve(&a->weights, a->ids.len - a->weights.len);
    a->weights.len = a->ids.len;
    char *weights = a->weights.data + row->offset;
    if (o->kind == SHARD_CPT) memset(weights, 1, (size_t)row->length);   // text: all of it is trained
    if (row->length > 0) weights[0] = 0;
    if (row->status != ROW_KEPT) return true;
    if (o->kind == SHARD_IT && row->length > o->max_len) row->status = ROW_TOO_LONG;
    else if (row->length == 0 || !memchr(weights, 1, (size_t)row->length)) row->status = ROW_NO_TARGET;
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// --encode and --decode

static void add_integer(Buffer *out, int64_t v) {
    char digits[24];
    int n = (int)sizeof digits;
    do { digits[--n] = (char)('0' + v % 10); v /= 10; } while (v > 0);
    buffer_add(out, digits + n, (int64_t)sizeof digits - n);
}

// one line of --encode (text to ids) or --decode (ids to text), appended to the arena's text
static bool convert_row(const Options *o, Row *row, Arena *a, Error *e) {
    json_t *j = json_parse_line("row", row->data, row->size, e);
    if (!j) return false;
    row->offset = a->text.len;
    bool ok = true;
    a->ids.len = 0;
    if (o->encode) {
        const json_t *text = json_is_object(j) ? json_object_get(j, "text") : j;
        if (!json_is_string(text)) ok = fail(e, "the row's text is %s, expected {\"text\": ...} or a string", json_type_name(text));
        else tokenizer_encode(o->tokenizer, json_string_value(text), (int64_t)json_string_length(text), o->parse_special, &a->ids);
        buffer_add(&a->text, "[", 1);
        for (int64_t i = 0; ok && i < a->ids.len; i++) {
            if (i) buffer_add(&a->text, ",", 1);
            add_integer(&a->text, a->ids.data[i]);
        }
        buffer_add(&a->text, "]", 1);
    } else {
        int64_t vocab_size = tokenizer_vocab_size(o->tokenizer);
        if (!json_is_array(j)) ok = fail(e, "the row is %s, expected an array of token ids", json_type_name(j));
        for (size_t i = 0; ok && i < json_array_size(j); i++) {
            const json_t *id = json_array_get(j, i);
            if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= vocab_size)
                ok = fail(e, "item %zu is not a token id, expected an integer from 0 to %" PRId64, i, vocab_size - 1);
            else ids_add(&a->ids, (int32_t)json_integer_value(id));
        }
        a->weights.len = 0;   // free here: holds the bytes
        if (ok) tokenizer_decode(o->tokenizer, a->ids.data, a->ids.len, false, &a->weights);
        if (ok) json_add_string(&a->text, a->weights.data, a->weights.len);
    }
    buffer_add(&a->text, "\n", 1);
    row->length = a->text.len - row->offset;
    json_decref(j);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// reading lines in blocks

typedef struct {
    const char *path;
    int fd;
    Buffer block;
    int64_t begin;         // what is before it in the block has been given out
    int64_t line;          // of the next line
    int64_t bytes;         // read so far
    int64_t max_line;
    bool end, whole;       // whole: the file is one row
    XXH3_state_t *hash;
} Reader;

static bool reader_open(Reader *r, const char *path, int fd, bool whole, Error *e) {
    memset(r, 0, sizeof *r);
    r->path = path;
    r->fd = fd >= 0 ? fd : open(path, O_RDONLY | O_CLOEXEC);
    if (r->fd < 0) return fail(e, "%s: cannot be opened: %s ---> check the path", path, strerror(errno));
    r->whole = whole;
    r->line = 1;
    r->max_line = PREPARE_MAX_LINE;
    r->hash = XXH3_createState();
    CHECK(r->hash && XXH3_128bits_reset(r->hash) == XXH_OK);
    return true;
}
static void reader_close(Reader *r) {
    if (r->fd > 2) close(r->fd);
    if (r->hash) XXH3_freeState(r->hash);
    buffer_free(&r->block);
    r->hash = NULL;
    r->fd = -1;
}

// reads on until the block holds a whole line and enough of them, or the input ends
static bool reader_fill(Reader *r, Error *e) {
    if (r->begin > 0) {
        memmove(r->block.data, r->block.data + r->begin, (size_t)(r->block.len - r->begin));
        r->block.len -= r->begin;
        r->begin = 0;
    }
    bool newline = false, at_start = r->bytes == 0;
    while (r->whole || !newline || r->block.len < PREPARE_BLOCK_BYTES) {
        if (!newline && r->block.len > r->max_line)
            return fail(e,
                        "%s:%" PRId64 ": the line is longer than %" PRId64 " bytes ---> is this JSONL, one row a line? Split long documents",
                        r->path, r->line, r->max_line);
        buffer_reserve(&r->block, 1 << 20);
        ssize_t got = read(r->fd, r->block.data + r->block.len, 1 << 20);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail(e, "%s: cannot be read: %s", r->path, strerror(errno));
        if (got == 0) { r->end = true; break; }
        CHECK(XXH3_128bits_update(r->hash, r->block.data + r->block.len, (size_t)got) == XXH_OK);
        newline = newline || (!r->whole && memchr(r->block.data + r->block.len, '\n', (size_t)got));
        r->block.len += got;
        r->bytes += got;
    }
    if (at_start && r->block.len >= 3 && memcmp(r->block.data, "\xEF\xBB\xBF", 3) == 0) r->begin = 3;   // byte order mark
    return true;
}

// The next rows: their number in *n (0 at the end), their text in the block until the next call. Blank lines are counted in *blank.
static bool reader_next(Reader *r, Row *rows, int64_t cap, int64_t *n, int64_t *blank, Error *e) {
    *n = 0;
    while (*n == 0 && !(r->end && r->begin >= r->block.len)) {   // again when a block was nothing but blank lines
        bool left = r->begin < r->block.len && memchr(r->block.data + r->begin, '\n', (size_t)(r->block.len - r->begin));
        if (!r->end && (r->whole || !left) && !reader_fill(r, e)) return false;
        while (*n < cap && r->begin < r->block.len) {
            const char *p = r->block.data + r->begin, *limit = r->block.data + r->block.len;
            const char *newline = r->whole ? NULL : (const char *)memchr(p, '\n', (size_t)(limit - p)), *end = newline ? newline : limit;
            if (!newline && !r->end) break;
            r->begin = (newline ? newline + 1 : limit) - r->block.data;
            int64_t line = r->line++;
            if (end > p && end[-1] == '\r' && !r->whole) end--;
            if (end - p > r->max_line) return fail(e, "%s:%" PRId64 ": the line is longer than %" PRId64 " bytes", r->path, line, r->max_line);
            bool empty = true;
            for (const char *s = p; s < end && empty; s++) empty = *s == ' ' || *s == '\t' || *s == '\r';
            if (empty) { ++*blank; continue; }
            Row *row = &rows[(*n)++];
            memset(row, 0, sizeof *row);
            row->data = p;
            row->size = end - p;
            row->line = line;
        }
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// the run

#define NUM_ENDINGS 8
typedef struct { int32_t id; int64_t count; } Ending;

typedef struct {
    Options *o;
    FILE *out, *log;
    Arena *arenas;                // one a thread
    Row *rows;                    // PREPARE_BLOCK_ROWS
    ShardWriter writer;
    Ids piece;                    // scratch of --split-with-bos-eos
    Buffer piece_weights;
    // counts
    int64_t rows_read, blank, split, status[NUM_ROW_STATUS], pieces, tokens, trained, longest, shown, dropped_tokens;
    Ending endings[NUM_ENDINGS];  // which token ends the training of a document, and how often
    int64_t other_endings;
    // progress
    int64_t bytes_done, bytes_total;   // total 0: unknown
    double started, printed;
} Run;

static void show_text(FILE *out, const char *text, int64_t n) {   // lines stay lines; everything else that could move a cursor is escaped
    char *escaped = (char *)xmalloc(4 * n + 16);
    for (int64_t i = 0; i < n;) {
        const char *newline = (const char *)memchr(text + i, '\n', (size_t)(n - i));
        int64_t end = newline ? newline - text : n;
        escape_text(escaped, (size_t)(4 * n + 16), text + i, (size_t)(end - i));
        fputs(escaped, out);
        if (newline) fputs("\n  ", out);
        i = end + 1;
    }
    free(escaped);
}

// prints a document with what is trained in green or, where there is no terminal, between [[ and ]]
static void show_document(Run *r, const int32_t *ids, const uint8_t *weights, int64_t n, const Row *row, const char *path) {
    bool color = isatty(fileno(r->out));
    Buffer text = {NULL, 0, 0};
    fprintf(r->out, "--- ");
    show_text(r->out, path, (int64_t)strlen(path));
    fprintf(r->out, ":%" PRId64 ", %" PRId64 " tokens\n  ", row->line, n);
    for (int64_t i = 0; i < n;) {
        int64_t end = i;
        while (end < n && weights[end] == weights[i] && !(end > i && r->o->kind == SHARD_PREF && end == row->rejected)) end++;
        text.len = 0;
        tokenizer_decode(r->o->tokenizer, ids + i, end - i, false, &text);
        if (weights[i]) fputs(color ? "\033[32m" : "[[", r->out);
        show_text(r->out, text.data, text.len);
        if (weights[i]) fputs(color ? "\033[0m" : "]]", r->out);
        i = end;
    }
    fputc('\n', r->out);
    buffer_free(&text);
}

static void count_ending(Run *r, int32_t id) {
    for (int i = 0; i < NUM_ENDINGS; i++)
        if (r->endings[i].count == 0 || r->endings[i].id == id) { r->endings[i].id = id; r->endings[i].count++; return; }
    r->other_endings++;
}

static bool emit(Run *r, const int32_t *ids, uint8_t *weights, int64_t n, const Row *row, int file, bool last_piece, Error *e) {
    int64_t trained = 0, last = -1;
    weights[0] = 0;
    for (int64_t i = 0; i < n; i++) if (weights[i]) { trained++; last = i; }
    if (last_piece && last >= 0) count_ending(r, ids[last]);
    if (n > r->longest) r->longest = n;
    r->pieces++;
    r->tokens += n;
    r->trained += trained;
    if (r->shown < r->o->show) { r->shown++; show_document(r, ids, weights, n, row, r->o->inputs.items[file]); }
    return r->o->dry_run || shard_writer_add(&r->writer, ids, weights, n, row->chosen, row->rejected, file, row->line, e);
}

// the original recipe: every piece of max_len - 2 tokens is a text of its own, with BOS and EOS
static bool emit_framed_pieces(Run *r, const int32_t *ids, int64_t n, const Row *row, int file, Error *e) {
    int32_t bos = tokenizer_bos(r->o->tokenizer), eos = tokenizer_eos(r->o->tokenizer);
    int64_t first = bos >= 0, end = n - (eos >= 0), step = r->o->max_len - (bos >= 0) - (eos >= 0);
    for (int64_t i = first; i < end; i += step) {
        int64_t length = end - i < step ? end - i : step;
        r->piece.len = 0;
        if (bos >= 0) ids_add(&r->piece, bos);
        for (int64_t k = 0; k < length; k++) ids_add(&r->piece, ids[i + k]);
        if (eos >= 0) ids_add(&r->piece, eos);
        if (r->piece.len < 2) break;   // a last single token, where the tokenizer has neither BOS nor EOS: nothing to predict
        r->piece_weights.len = 0;
        buffer_reserve(&r->piece_weights, r->piece.len);
        memset(r->piece_weights.data, 1, (size_t)r->piece.len);
        if (!emit(r, r->piece.data, (uint8_t *)r->piece_weights.data, r->piece.len, row, file, true, e)) return false;
    }
    return true;
}

static bool emit_row(Run *r, const Row *row, int file, Error *e) {
    Arena *a = &r->arenas[row->arena];
    int32_t *ids = a->ids.data + row->offset;
    uint8_t *weights = (uint8_t *)a->weights.data + row->offset;
    int64_t max_len = r->o->max_len;
    if (r->o->kind != SHARD_CPT || row->length <= max_len) return emit(r, ids, weights, row->length, row, file, true, e);
    r->split++;
    if (row->framed && r->o->split_with_bos_eos) return emit_framed_pieces(r, ids, row->length, row, file, e);
    for (int64_t i = 0; i < row->length;) {
        int64_t left = row->length - i, n = left < max_len ? left : max_len;
        if (left == max_len + 1) n--;   // never leave a single token: it could not be trained
        if (!emit(r, ids + i, weights + i, n, row, file, i + n == row->length, e)) return false;
        i += n;
    }
    return true;
}

static void progress(Run *r, bool final) {
    double now = seconds_now(), elapsed = now - r->started;
    bool terminal = isatty(fileno(r->log));
    if (final && terminal && r->printed > 0) fprintf(r->log, "\r\033[K");
    if (final || now - r->printed < (terminal ? 0.2 : 20)) return;
    if (r->printed == 0 && elapsed < 1) return;
    r->printed = now;
    double speed = (double)r->bytes_done / (elapsed > 0 ? elapsed : 1);
    char bar[64] = "", eta[64] = "";
    if (r->bytes_total > 0) {
        double share = (double)r->bytes_done / (double)r->bytes_total;
        int full = (int)(20 * (share > 1 ? 1 : share));
        snprintf(bar, sizeof bar, "[%.*s%.*s] %3.0f %% ", full, "####################", 20 - full, "....................", 100 * share);
        snprintf(eta, sizeof eta, ", %.0f s left", (double)(r->bytes_total - r->bytes_done) / (speed > 0 ? speed : 1));
    }
    fprintf(r->log, "%s%s%" PRId64 " rows, %" PRId64 " tokens, %.1f MB/s%s%s", terminal ? "\r\033[K" : "", bar, r->rows_read, r->tokens,
            speed / 1e6, eta, terminal ? "" : "\n");
    fflush(r->log);
}

// encodes the rows of a block with all threads; the result lies in the arenas
static void encode_block(Run *r, int64_t n, bool plain_text) {
    const Options *o = r->o;
    int threads = (int)(n < o->threads ? n : o->threads);   // no idle thread to wait for when the block is one text
    for (int t = 0; t < threads; t++) r->arenas[t].ids.len = r->arenas[t].weights.len = r->arenas[t].text.len = 0;
    #pragma omp parallel for schedule(dynamic, 4) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        Row *row = &r->rows[i];
        Error e;
        e.text[0] = 0;
        row->arena = omp_get_thread_num();
        Arena *a = &r->arenas[row->arena];
        bool ok = o->encode || o->decode ? convert_row(o, row, a, &e) : encode_row(o, plain_text, row, a, &e);
        if (!ok) { row->status = ROW_BAD; row->error = xstrdup(e.text); }
    }
}

// counts one encoded row and writes it; false ends the run
static bool take_row(Run *r, Row *row, const char *path, bool whole, int file, Error *e) {
    Options *o = r->o;
    char line[32] = "";
    if (!whole) snprintf(line, sizeof line, ":%" PRId64, row->line);
    r->rows_read++;
    r->status[row->status]++;
    if (row->status == ROW_BAD && !o->skip_bad_rows) return fail(e, "%s%s: %s", path, line, row->error);
    if (row->status == ROW_BAD && r->status[ROW_BAD] <= 5) warn("%s%s: skipped: %s", path, line, row->error);
    if (row->status == ROW_TOO_LONG) r->dropped_tokens += row->length;
    if (row->status != ROW_KEPT) return true;
    if (file >= 0) return emit_row(r, row, file, e);
    if (fwrite(r->arenas[row->arena].text.data + row->offset, 1, (size_t)row->length, r->out) == (size_t)row->length) return true;
    return fail(e, "standard output cannot be written: %s", strerror(errno));
}

// one input, from `fd` when it is not negative; file: its number, or -1 for --encode and --decode
static bool run_input(Run *r, const char *path, int fd, int file, Hash *hash, Error *e) {
    size_t n = strlen(path);
    bool whole = file >= 0 && n > 4 && strcmp(path + n - 4, ".txt") == 0;
    if (whole && r->o->kind != SHARD_CPT) return fail(e, "%s: a .txt file is one document, for --kind cpt; found --kind %s", path, r->o->kind_name);
    Reader reader;
    if (!reader_open(&reader, path, fd, whole, e)) return false;
    bool ok = true;
    for (int64_t before = 0, count = 0; ok;) {
        ok = reader_next(&reader, r->rows, PREPARE_BLOCK_ROWS, &count, &r->blank, e);
        if (!ok || count == 0) break;
        encode_block(r, count, whole);
        for (int64_t i = 0; i < count; i++) {
            if (ok) ok = take_row(r, &r->rows[i], path, whole, file, e);
            free(r->rows[i].error);
        }
        r->bytes_done += reader.bytes - before;
        before = reader.bytes;
        progress(r, false);
    }
    if (ok && hash) *hash = hash_digest(XXH3_128bits_digest(reader.hash));
    reader_close(&reader);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// the report: one table for the log, the shards' metadata and PREFIX.report.json

typedef struct { const char *key, *text; int64_t value; } Count;
#define NUM_COUNTS 13

static void report_counts(const Run *r, Count *c) {
    int64_t dropped = r->rows_read - r->status[ROW_KEPT];
    const Count counts[NUM_COUNTS] = {
        {"rows_read", "rows read", r->rows_read},
        {"rows_kept", "rows kept", r->status[ROW_KEPT]},
        {"rows_split", "of these split into pieces of at most max_len", r->split},
        {"rows_truncated", "of these truncated", 0},
        {"rows_dropped", "rows dropped", dropped},
        {"rows_dropped_too_long", "longer than max_len", r->status[ROW_TOO_LONG]},
        {"rows_dropped_no_target", "nothing to train", r->status[ROW_NO_TARGET]},
        {"rows_dropped_same", "chosen equal to rejected", r->status[ROW_SAME]},
        {"rows_dropped_malformed", "malformed (--skip-bad-rows)", r->status[ROW_BAD]},
        {"lines_blank", "blank lines", r->blank},
        {"documents", "documents", r->pieces},
        {"tokens", "tokens", r->tokens},
        {"trained_tokens", "of these trained", r->trained}};
    memcpy(c, counts, sizeof counts);
}

static void report_print(const Run *r) {
    Count counts[NUM_COUNTS];
    report_counts(r, counts);
    for (int i = 0; i < NUM_COUNTS; i++) {
        bool detail = strncmp(counts[i].key, "rows_dropped_", 13) == 0;
        if (detail && counts[i].value == 0) continue;
        fprintf(r->log, "%14" PRId64 "  %s%s", counts[i].value, detail ? "    " : "", counts[i].text);
        if (strcmp(counts[i].key, "trained_tokens") == 0 && r->tokens > 0)
            fprintf(r->log, " (%.1f %%)", 100.0 * (double)r->trained / (double)r->tokens);
        if (strcmp(counts[i].key, "documents") == 0 && r->pieces > 0)
            fprintf(r->log, ", %.0f tokens each on average, the longest %" PRId64, (double)r->tokens / (double)r->pieces, r->longest);
        if (strcmp(counts[i].key, "rows_dropped_too_long") == 0)
            fprintf(r->log, " (%" PRId64 " tokens) ---> a larger --max-len keeps them", r->dropped_tokens);
        fputc('\n', r->log);
    }
    // a training set whose answers don't all end with the same token is usually a mistake in the template
    fprintf(r->log, "  training of a document ends with:");
    for (int i = 0; i < NUM_ENDINGS && r->endings[i].count > 0; i++) {
        Buffer text = {NULL, 0, 0};
        char escaped[256];
        tokenizer_decode(r->o->tokenizer, &r->endings[i].id, 1, false, &text);
        escape_text(escaped, sizeof escaped, text.data ? text.data : "", (size_t)text.len);
        fprintf(r->log, "%s \"%s\" (%" PRId64 " times)", i ? "," : "", escaped, r->endings[i].count);
        buffer_free(&text);
    }
    if (r->other_endings) fprintf(r->log, ", others (%" PRId64 " times)", r->other_endings);
    fputc('\n', r->log);
}

static char *json_list(const char *const *items, int n) {   // the caller frees it
    Buffer b = {NULL, 0, 0};
    buffer_add(&b, "[", 1);
    for (int i = 0; i < n; i++) { if (i) buffer_add(&b, ",", 1); json_add_string(&b, items[i], (int64_t)strlen(items[i])); }
    buffer_add(&b, "]", 2);   // with its final zero
    return b.data;
}

static bool report_write(const Run *r, const ShardField *fields, int num_fields, const Count *counts, int shards, Error *e) {
    json_t *j = json_object();
    json_object_set_new(j, "kind", json_string(shard_kind_names[r->o->kind]));
    for (int i = 0; i < num_fields - NUM_COUNTS; i++) {   // texts; lists are JSON already
        bool list = fields[i].value[0] == '[';
        json_object_set_new(j, fields[i].key, list ? json_loads(fields[i].value, 0, NULL) : json_string(fields[i].value));
    }
    for (int i = 0; i < NUM_COUNTS; i++) json_object_set_new(j, counts[i].key, json_integer(counts[i].value));
    json_object_set_new(j, "shards", json_integer(shards));
    char *text = json_dumps(j, JSON_INDENT(2)), *path = xprintf("%s.report.json", r->o->out);
    bool ok = text && write_file(path, text, (int64_t)strlen(text), e);
    free(text);
    free(path);
    json_decref(j);
    return ok;
}

// writes shards and report; ends the writer
static bool finish(Run *r, const Hash *hashes, Error *e) {
    Options *o = r->o;
    const char **hexes = (const char **)xcalloc(o->inputs.n, sizeof *hexes);
    for (int i = 0; i < o->inputs.n; i++) hexes[i] = hashes[i].hex;
    char *inputs = json_list(o->inputs.items, o->inputs.n), *input_hashes = json_list(hexes, o->inputs.n);
    Hash input_hash = hash_bytes(input_hashes, (int64_t)strlen(input_hashes)), set;
    char max_len[32], vocab_size[32], values[NUM_COUNTS][32];
    snprintf(max_len, sizeof max_len, "%" PRId64, o->max_len);
    snprintf(vocab_size, sizeof vocab_size, "%" PRId64, tokenizer_vocab_size(o->tokenizer));
    ShardField fields[12 + NUM_COUNTS] = {
        {"max_len", max_len}, {"vocab_size", vocab_size}, {"tokenizer", tokenizer_hash(o->tokenizer)}, {"template", chat_name(o->chat)},
        {"template_hash", chat_hash(o->chat)}, {"inputs", inputs}, {"input_hashes", input_hashes}, {"input_hash", input_hash.hex},
        {"fields", o->fields ? o->fields : ""}, {"split", o->kind != SHARD_CPT ? "none" : o->split_with_bos_eos ? "with-bos-eos" : "plain"},
        {"prepared_by", "prepare " FINDAP_COMMIT}};
    Count counts[NUM_COUNTS];
    report_counts(r, counts);
    for (int i = 0; i < NUM_COUNTS; i++) {
        snprintf(values[i], sizeof values[i], "%" PRId64, counts[i].value);
        ShardField f = {counts[i].key, values[i]};
        fields[12 + i] = f;
    }
    Buffer all = {NULL, 0, 0};   // shards of one set carry the same hash of everything that made them
    buffer_add(&all, shard_kind_names[o->kind], (int64_t)strlen(shard_kind_names[o->kind]));
    for (int i = 0; i < 12 + NUM_COUNTS; i++) if (i != 11) buffer_add(&all, fields[i].value, (int64_t)strlen(fields[i].value) + 1);
    buffer_add(&all, &o->shard_tokens, sizeof o->shard_tokens);
    set = hash_bytes(all.data, all.len);
    buffer_free(&all);
    ShardField set_field = {"set", set.hex};
    fields[11] = set_field;
    int shards = r->writer.shard + 1;
    bool ok = shard_writer_finish(&r->writer, fields, 12 + NUM_COUNTS, e) && report_write(r, fields, 12 + NUM_COUNTS, counts, shards, e);
    if (ok) fprintf(r->log, "wrote %s-00001-of-%05d.safetensors%s and %s.report.json\n", o->out, shards, shards > 1 ? " ..." : "", o->out);
    free(hexes);
    free(inputs);
    free(input_hashes);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// the program

static bool run_prepare(Run *r, Error *e) {
    Options *o = r->o;
    fprintf(r->log, "  kind %s, template %s%s, max_len %" PRId64 "%s\n", shard_kind_names[o->kind], chat_name(o->chat),
            o->template_name       ? ""
            : o->kind == SHARD_CPT ? " (default)"
                                   : " (by the tokenizer's tokens)",
            o->max_len, o->dry_run ? ", dry run: nothing is written" : "");
    for (int i = 0; i < o->inputs.n; i++) {
        struct stat st;
        if (stat(o->inputs.items[i], &st) != 0) return fail(e, "%s: cannot be opened: %s ---> check the path", o->inputs.items[i], strerror(errno));
        if (S_ISDIR(st.st_mode)) return fail(e, "%s: is a directory, expected a JSONL or .txt file", o->inputs.items[i]);
        r->bytes_total += S_ISREG(st.st_mode) ? (int64_t)st.st_size : 0;
    }
    Hash *hashes = (Hash *)xcalloc(o->inputs.n, sizeof(Hash));
    bool ok = o->dry_run || shard_writer_open(&r->writer, o->out, o->kind, o->shard_tokens, e);
    for (int i = 0; i < o->inputs.n && ok; i++) ok = run_input(r, o->inputs.items[i], -1, i, &hashes[i], e);
    progress(r, true);
    if (ok) report_print(r);
    if (ok && r->pieces == 0) ok = fail(e, "no row was kept of %" PRId64 " ---> see the counts above", r->rows_read);
    if (ok && o->dry_run)
        fprintf(r->log, "would write about %" PRId64 " shard(s), %.1f MB\n", 1 + r->tokens / o->shard_tokens,
                ((double)r->tokens * 5 + (double)r->pieces * 20) / 1e6);
    else if (ok) ok = finish(r, hashes, e);
    shard_writer_abandon(&r->writer);
    free(hashes);
    double elapsed = seconds_now() - r->started;
    if (ok)
        fprintf(r->log, "%.1f s, %.1f MB/s, %.2f million tokens/s\n", elapsed, (double)r->bytes_done / 1e6 / elapsed,
                (double)r->tokens / 1e6 / elapsed);
    return ok;
}

static bool check_options(Options *o, Flag *flags, int n, Error *e) {
    static const char *const shard_flags[] = {"--kind", "--template", "--max-len", "--out", "--fields", "--split-with-bos-eos", "--skip-bad-rows",
                                              "--shard-tokens", "--show", "--dry-run"};
    if (o->encode && o->decode) return fail(e, "--encode and --decode were both given, expected one of them");
    if (!o->tokenizer_path) return fail(e, "--tokenizer is missing ---> give a model directory or a tokenizer.json; see --help");
    if (o->encode || o->decode) {
        for (size_t i = 0; i < sizeof shard_flags / sizeof *shard_flags; i++)
            if (!flag_unused(flags, n, shard_flags[i], "--encode and --decode only convert lines", e)) return false;
        if (o->decode && !flag_unused(flags, n, "--parse-special", "it is about encoding", e)) return false;
        return o->inputs.n == 0 ? true : fail(e, "unexpected argument \"%s\": --encode and --decode read standard input", o->inputs.items[0]);
    }
    if (!flag_unused(flags, n, "--parse-special", "in shards, special tokens come from the template only", e)) return false;
    if (!o->kind_name) return fail(e, "--kind is missing, expected cpt, it or pref; see --help");
    if (!shard_kind_find(o->kind_name, &o->kind, e)) return false;
    if (!o->out && !o->dry_run) return fail(e, "--out is missing ---> give the PREFIX of the shards' names");
    if (o->out && (!*o->out || o->out[strlen(o->out) - 1] == '/' || is_directory(o->out)))
        return fail(e, "--out is the directory \"%s\", expected a PREFIX for file names ---> try %s/train", o->out, o->out);
    if (o->inputs.n == 0) return fail(e, "no input file was given ---> name one or more JSONL files");
    if (o->kind != SHARD_CPT && !flag_unused(flags, n, "--split-with-bos-eos", "only --kind cpt splits documents", e)) return false;
    return parse_fields(o, e);
}

// the whole program but for exiting: reads lines from in_fd (--encode, --decode), results to `out`, the rest to `log`
FN bool prepare_program(int argc, char **argv, int in_fd, FILE *out, FILE *log, Error *e) {
    Options o;
    memset(&o, 0, sizeof o);
    o.max_len = 8000;
    o.shard_tokens = 100000000;
    o.threads = omp_get_max_threads();
    Flag flags[] = {
        {"--tokenizer", FLAG_STRING, &o.tokenizer_path, "DIR", "model directory, tokenizer.json or tiktoken tokenizer.model", 0, 0, false},
        {"--kind", FLAG_STRING, &o.kind_name, "KIND", "cpt (texts), it (conversations) or pref (pairs)", 0, 0, false},
        {"--template", FLAG_STRING, &o.template_name, "NAME",
         "llama3, llama3.1, qwen2, deepseek-r1 or none (default: none for cpt, else by the tokenizer)", 0, 0, false},
        {"--max-len", FLAG_INT, &o.max_len, "N", "longest document in tokens", 8, 1 << 24, false},
        {"--out", FLAG_STRING, &o.out, "PREFIX", "shards are PREFIX-00001-of-0000N.safetensors", 0, 0, false},
        {"--fields", FLAG_STRING, &o.fields, "LIST", "names in the input, as prompt=question,completion=answer", 0, 0, false},
        {"--split-with-bos-eos", FLAG_BOOL, &o.split_with_bos_eos, NULL,
         "cpt: BOS and EOS on every piece of a long document, as in the original recipe", 0, 0, false},
        {"--skip-bad-rows", FLAG_BOOL, &o.skip_bad_rows, NULL, "count malformed rows instead of ending with an error", 0, 0, false},
        {"--shard-tokens", FLAG_INT, &o.shard_tokens, "N", "tokens in a shard", 1, 1e12, false},
        {"--threads", FLAG_INT, &o.threads, "N", "encoding threads", 1, 1024, false},
        {"--show", FLAG_INT, &o.show, "N", "print the first N documents, what is trained in green or [[...]]", 0, 1e9, false},
        {"--dry-run", FLAG_BOOL, &o.dry_run, NULL, "read and count everything, write nothing", 0, 0, false},
        {"--encode", FLAG_BOOL, &o.encode, NULL, "standard input, {\"text\"} or a JSON string a line, to arrays of ids", 0, 0, false},
        {"--decode", FLAG_BOOL, &o.decode, NULL, "standard input, an array of ids a line, to JSON strings", 0, 0, false},
        {"--parse-special", FLAG_BOOL, &o.parse_special, NULL, "--encode: special tokens spelled in the text become their ids", 0, 0, false},
    };
    const int n = (int)(sizeof flags / sizeof *flags);
    bool help = false;
    Run r;
    memset(&r, 0, sizeof r);
    bool ok = flags_parse(argc, argv, 1, flags, n, &o.inputs, &help, e);
    if (ok && help)
        flags_help(
            "prepare --tokenizer DIR --kind cpt|it|pref [--template NAME] [--max-len N] --out PREFIX FILE.jsonl...\n"
            "       prepare --encode|--decode --tokenizer DIR < in.jsonl > out.jsonl",
            "JSONL to token shards (safetensors). Rows: {\"text\"}, {\"messages\"}, {\"conversations\"}, {\"prompt\", \"completion\"} or\n"
            "{\"prompt\", \"chosen\", \"rejected\"}; a file that ends in .txt is one text. Counts go to standard error and PREFIX.report.json.",
            flags, n);
    if (ok && !help) ok = check_options(&o, flags, n, e);
    if (ok && !help) ok = (o.tokenizer = tokenizer_load(o.tokenizer_path, e)) != NULL;
    if (ok && !help && o.template_name) ok = chat_find(o.template_name, &o.chat, e);
    else if (ok && !help && !o.encode && !o.decode && o.kind != SHARD_CPT) o.chat = chat_guess(o.tokenizer);
    if (ok && !help) {
        r.o = &o;
        r.out = out;
        r.log = log;
        r.started = seconds_now();
        fprintf(log, "prepare (commit %s, CPU, %" PRId64 " threads)\n  tokenizer %s (vocabulary %" PRId64 ", hash %s)\n", FINDAP_COMMIT, o.threads,
                o.tokenizer_path, tokenizer_vocab_size(o.tokenizer), tokenizer_hash(o.tokenizer));
        r.arenas = (Arena *)xcalloc(o.threads, sizeof(Arena));
        r.rows = (Row *)xcalloc(PREPARE_BLOCK_ROWS, sizeof(Row));
        ok = o.encode || o.decode ? run_input(&r, "standard input", in_fd, -1, NULL, e) : run_prepare(&r, e);
        if (fflush(out) != 0 && ok) ok = fail(e, "standard output cannot be written: %s", strerror(errno));
        for (int64_t t = 0; t < o.threads; t++) { ids_free(&r.arenas[t].ids); buffer_free(&r.arenas[t].weights); buffer_free(&r.arenas[t].text); }
        free(r.arenas);
        free(r.rows);
        ids_free(&r.piece);
        buffer_free(&r.piece_weights);
    }
    if (o.tokenizer) tokenizer_free(o.tokenizer);
    for (int i = 0; i < NUM_FIELDS; i++) free(o.names[i]);
    free(o.inputs.items);
    return ok;
}

#ifndef FINDAP_LIBRARY
int main(int argc, char **argv) {
    program_name = "prepare";
    sigbus_message();
    Error e;
    e.text[0] = 0;
    if (!prepare_program(argc, argv, 0, stdout, stderr, &e)) die("%s", e.text);
    return 0;
}
#endif
