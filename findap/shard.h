// shard.h: token shards, what `prepare` writes and training reads. A set of shards is PREFIX-00001-of-0000N.safetensors ..., each
// a plain safetensors file that any reader opens:
//
//     documents  I64 (D+1)  where each document begins; the first is 0, the last is N
//     source_row I64 (D)    the line (from 1) of the input file that the document came from
//     chosen, rejected I64 (D)  kind pref only: a document is prompt ++ chosen ++ rejected, these are where the latter two begin
//     tokens     I32 (N)
//     source_file I32 (D)   index into the metadata's "inputs"
//     weights    U8  (N)    1: this token is trained as a target; 0: it is only context. Always 0 for a document's first token
//
// in order of falling element size, so that every array is aligned in the map. The metadata says what went in - hashes of
// tokenizer, template and input files, and the counts - so that a shard that no longer fits is noticed, not trained on.
//
// Writing. The header of the first shard needs numbers that are known after the last input row. So documents are spooled
// into unlinked temporary files beside the output (nothing is left after a kill, and memory stays small), and the shards are
// written at the end: all under a temporary name first, then renamed one after another, then sets of another N that the
// same PREFIX had are removed. All shards of a set carry the same "set" hash; shard_list refuses a mixed set.
#ifndef FINDAP_SHARD_H
#define FINDAP_SHARD_H
#include "flags.h"         // defines: StringList
#include "json.h"          // defines: json_parse
#include "safetensors.h"   // defines: Safetensors, SafetensorsWriter
#include <dirent.h>

typedef enum { SHARD_CPT, SHARD_IT, SHARD_PREF, SHARD_NUM_KINDS } ShardKind;
FN const char *const shard_kind_names[SHARD_NUM_KINDS] = {"cpt", "it", "pref"};
#define SHARD_FORMAT "findap-shard-1"
#define SHARD_MAX_FILES 99999   // five digits in the name

FN bool shard_kind_find(const char *name, ShardKind *out, Error *e) {
    for (int i = 0; i < SHARD_NUM_KINDS; i++) if (strcmp(name, shard_kind_names[i]) == 0) { *out = (ShardKind)i; return true; }
    return fail(e, "unknown kind \"%s\", expected cpt, it or pref", name);
}

// ---------------------------------------------------------------------------------------------------------------
// reading

typedef struct {
    ShardKind kind;
    int64_t num_tokens, num_documents, num_trained;   // N, D, targets with weight 1
    int64_t vocab_size, max_len;
    const int32_t *tokens;        // (N)
    const uint8_t *weights;       // (N)
    const int64_t *documents;     // (D+1)
    const int64_t *source_row;    // (D)
    const int32_t *source_file;   // (D)
    const int64_t *chosen, *rejected;   // (D), NULL unless kind is pref
    const char *tokenizer, *template_name, *template_hash, *input_hash, *set;   // from the metadata
    Safetensors *file;            // everything above lies in it
} Shard;

FN void shard_close(Shard *s) {
    if (s->file) safetensors_close(s->file);
    memset(s, 0, sizeof *s);
}

FN bool shard_tensor(const Shard *s, const char *path, const char *name, Dtype dtype, int64_t count, const void **out, Error *e) {
    const SafeTensor *t = safetensors_find(s->file, name);
    if (!t) return fail(e, "%s: has no tensor \"%s\" ---> is this a token shard? `prepare` makes them", path, name);
    if (t->dtype != dtype || t->rank != 1)
        return fail(e, "%s: %s is %s of rank %d, expected %s of rank 1", path, name, dtype_name(t->dtype), t->rank, dtype_name(dtype));
    if (count >= 0 && t->count != count) return fail(e, "%s: %s has %" PRId64 " items, expected %" PRId64, path, name, t->count, count);
    if ((uintptr_t)t->data % (uintptr_t)dtype_size(dtype) != 0)
        return fail(e, "%s: %s does not begin at a multiple of its element size ---> write the shard with `prepare`", path, name);
    *out = t->data;
    return true;
}

FN bool shard_text(const Shard *s, const char *path, const char *key, const char **out, Error *e) {
    *out = safetensors_metadata(s->file, key);
    return *out ? true : fail(e, "%s: the metadata has no \"%s\" ---> is this a token shard? `prepare` makes them", path, key);
}

FN bool shard_number(const Shard *s, const char *path, const char *key, int64_t low, int64_t high, int64_t *out, Error *e) {
    const char *text = NULL;
    char *end = NULL;
    if (!shard_text(s, path, key, &text, e)) return false;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno || end == text || *end || v < low || v > high)
        return fail(e, "%s: the metadata's \"%s\" is \"%s\", expected a number from %" PRId64 " to %" PRId64, path, key, text, low, high);
    *out = v;
    return true;
}

FN bool shard_check_documents(const Shard *s, const char *path, int64_t num_inputs, Error *e) {
    const int64_t *d = s->documents;
    if (d[0] != 0) return fail(e, "%s: documents[0] is %" PRId64 ", expected 0", path, d[0]);
    for (int64_t i = 0; i < s->num_documents; i++) {
        // bounded by N on both sides first: the differences below cannot overflow
        if (d[i + 1] <= d[i] || d[i + 1] > s->num_tokens)
            return fail(e, "%s: documents[%" PRId64 "] is %" PRId64 ", expected more than %" PRId64 " and at most %" PRId64,
                        path, i + 1, d[i + 1], d[i], s->num_tokens);
        int64_t length = d[i + 1] - d[i];
        if (s->kind == SHARD_PREF) {
            if (s->chosen[i] <= d[i] || s->rejected[i] <= s->chosen[i] || s->rejected[i] >= d[i + 1])
                return fail(e,
                            "%s: pair %" PRId64 " begins at %" PRId64 ", chosen at %" PRId64 ", rejected at %" PRId64 ", the end is %" PRId64
                            "; expected them in this order, none empty",
                            path, i, d[i], s->chosen[i], s->rejected[i], d[i + 1]);
            int64_t chosen = s->rejected[i] - s->chosen[i], rejected = d[i + 1] - s->rejected[i];
            length = s->chosen[i] - d[i] + (chosen > rejected ? chosen : rejected);
        }
        if (length > s->max_len)
            return fail(e, "%s: document %" PRId64 " has %" PRId64 " tokens, expected at most max_len = %" PRId64, path, i, length,
                        s->max_len);
        if (s->weights[d[i]] != 0) return fail(e, "%s: document %" PRId64 " trains its first token, which nothing predicts", path, i);
        if (s->source_row[i] < 1) return fail(e, "%s: source_row[%" PRId64 "] is %" PRId64 ", expected a line number", path, i, s->source_row[i]);
        if (s->source_file[i] < 0 || s->source_file[i] >= num_inputs)
            return fail(e, "%s: source_file[%" PRId64 "] is %d, expected 0 to %" PRId64, path, i, s->source_file[i], num_inputs - 1);
    }
    if (d[s->num_documents] != s->num_tokens)
        return fail(e, "%s: the last document ends at %" PRId64 ", expected %" PRId64 ", the number of tokens", path, d[s->num_documents],
                    s->num_tokens);
    return true;
}

FN bool shard_check(Shard *s, const char *path, Error *e) {
    const char *format = NULL, *kind = NULL, *inputs = NULL;
    if (!shard_text(s, path, "format", &format, e)) return false;
    if (strcmp(format, SHARD_FORMAT) != 0)
        return fail(e, "%s: format is \"%s\", expected \"%s\" ---> prepare the data again with this version", path, format, SHARD_FORMAT);
    if (!shard_text(s, path, "kind", &kind, e)) return false;
    Error kind_error;
    if (!shard_kind_find(kind, &s->kind, &kind_error)) return fail(e, "%s: %s", path, kind_error.text);
    if (!shard_number(s, path, "vocab_size", 1, INT32_MAX, &s->vocab_size, e) || !shard_number(s, path, "max_len", 1, INT32_MAX, &s->max_len, e) ||
        !shard_text(s, path, "tokenizer", &s->tokenizer, e) || !shard_text(s, path, "template", &s->template_name, e) ||
        !shard_text(s, path, "template_hash", &s->template_hash, e) || !shard_text(s, path, "inputs", &inputs, e) ||
        !shard_text(s, path, "input_hash", &s->input_hash, e) || !shard_text(s, path, "set", &s->set, e)) return false;
    json_t *list = json_parse(path, inputs, (int64_t)strlen(inputs), e);
    if (!list) return false;
    int64_t num_inputs = json_is_array(list) ? (int64_t)json_array_size(list) : -1;
    json_decref(list);
    if (num_inputs < 1) return fail(e, "%s: the metadata's \"inputs\" is not a list of file names", path);

    const SafeTensor *tokens = safetensors_find(s->file, "tokens"), *documents = safetensors_find(s->file, "documents");
    s->num_tokens = tokens ? tokens->count : 0;
    s->num_documents = documents ? documents->count - 1 : 0;
    if (s->num_tokens < 1 || s->num_documents < 1)
        return fail(e, "%s: has no tokens or no documents ---> is this a token shard? `prepare` makes them", path);
    const int64_t N = s->num_tokens, D = s->num_documents;
    if (!shard_tensor(s, path, "tokens", DTYPE_I32, N, (const void **)&s->tokens, e) ||
        !shard_tensor(s, path, "weights", DTYPE_U8, N, (const void **)&s->weights, e) ||
        !shard_tensor(s, path, "documents", DTYPE_I64, D + 1, (const void **)&s->documents, e) ||
        !shard_tensor(s, path, "source_row", DTYPE_I64, D, (const void **)&s->source_row, e) ||
        !shard_tensor(s, path, "source_file", DTYPE_I32, D, (const void **)&s->source_file, e))
        return false;
    if (s->kind == SHARD_PREF && (!shard_tensor(s, path, "chosen", DTYPE_I64, D, (const void **)&s->chosen, e) ||
                                  !shard_tensor(s, path, "rejected", DTYPE_I64, D, (const void **)&s->rejected, e))) return false;
    for (int64_t i = 0; i < N; i++) {
        if (s->tokens[i] < 0 || s->tokens[i] >= s->vocab_size)
            return fail(e, "%s: tokens[%" PRId64 "] is %d, expected 0 to %" PRId64, path, i, s->tokens[i], s->vocab_size - 1);
        if (s->weights[i] > 1) return fail(e, "%s: weights[%" PRId64 "] is %d, expected 0 or 1", path, i, s->weights[i]);
        s->num_trained += s->weights[i];
    }
    return shard_check_documents(s, path, num_inputs, e);
}

// Opens one shard and checks all of it, so that readers need no check of their own. False with one line in e otherwise.
FN bool shard_open(const char *path, Shard *s, Error *e) {
    memset(s, 0, sizeof *s);
    s->file = safetensors_open(path, e);
    if (!s->file) return false;
    if (shard_check(s, path, e)) return true;
    shard_close(s);
    return false;
}

// "PREFIX-00002-of-00005.safetensors" (file name without directory): is it a shard of `base`, which one, of how many?
FN bool shard_name_parse(const char *file, const char *base, int *index, int *count) {
    size_t n = strlen(base);
    if (strncmp(file, base, n) != 0 || strlen(file) != n + strlen("-00001-of-00001.safetensors")) return false;
    const char *p = file + n;
    for (int i = 0; i < 15; i++) if ((i >= 1 && i <= 5) || i >= 10 ? p[i] < '0' || p[i] > '9' : p[i] != "-xxxxx-of-"[i]) return false;
    if (strcmp(p + 15, ".safetensors") != 0) return false;
    *index = atoi(p + 1);
    *count = atoi(p + 10);
    return true;
}

FN char *shard_path(const char *prefix, int index, int count) { return xprintf("%s-%05d-of-%05d.safetensors", prefix, index, count); }

// the directory that PREFIX lies in (to be freed); *base becomes its last part
FN char *shard_directory(const char *prefix, const char **base) {
    const char *slash = strrchr(prefix, '/');
    *base = slash ? slash + 1 : prefix;
    if (!slash) return xstrdup(".");
    char *dir = xstrdup(prefix);
    dir[slash == prefix ? 1 : slash - prefix] = 0;
    return dir;
}

FN bool shard_list_prefix(const char *prefix, StringList *paths, Error *e) {
    const char *base = NULL;
    char *directory = shard_directory(prefix, &base);
    DIR *d = opendir(directory);
    int count = 0, found = 0, other = 0;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        int i = 0, n = 0;
        if (!shard_name_parse(entry->d_name, base, &i, &n)) continue;
        if (count == 0) count = n;
        if (n != count) other = n;
        found++;
    }
    if (d) closedir(d);
    free(directory);
    if (found == 0)
        return fail(e, "%s: no such shard file, and no shards named %s-00001-of-...safetensors ---> make them with `prepare --out %s`",
                    prefix, prefix, prefix);
    if (other)
        return fail(e, "%s: shards of more than one set: some of %d, some of %d ---> prepare again, or remove one set", prefix, count, other);
    char set[64] = "";
    for (int i = 1; i <= count; i++) {
        char *path = shard_path(prefix, i, count);
        if (!file_exists(path)) {
            fail(e, "%s: shard %d of %d is missing ---> was the set copied whole?", path, i, count);
            free(path);
            return false;
        }
        Safetensors *file = safetensors_open(path, e);
        if (!file) { free(path); return false; }
        const char *this_set = safetensors_metadata(file, "set");
        bool same = this_set && (i == 1 || strcmp(set, this_set) == 0);
        snprintf(set, sizeof set, "%s", this_set ? this_set : "");
        safetensors_close(file);
        if (!same) {
            fail(e, "%s: belongs to another set than the shards before it ---> was `prepare` killed while it finished? Run it again", path);
            free(path);
            return false;
        }
        paths->items = (const char **)xrealloc(paths->items, paths->n + 1, sizeof(char *));
        paths->items[paths->n++] = path;
    }
    return true;
}

FN void shard_list_free(StringList *paths) {
    for (int i = 0; i < paths->n; i++) free((void *)paths->items[i]);
    free(paths->items);
    paths->items = NULL;
    paths->n = 0;
}

// The shard files that `words` stand for: a word is a file, or a PREFIX for its whole set. `paths` is to be freed with
// shard_list_free, also after an error.
FN bool shard_list(const StringList *words, StringList *paths, Error *e) {
    paths->items = NULL;
    paths->n = 0;
    for (int i = 0; i < words->n; i++) {
        if (file_exists(words->items[i]) && !is_directory(words->items[i])) {
            paths->items = (const char **)xrealloc(paths->items, paths->n + 1, sizeof(char *));
            paths->items[paths->n++] = xstrdup(words->items[i]);
        } else if (!shard_list_prefix(words->items[i], paths, e)) return false;
    }
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// writing

typedef struct {
    int64_t length, source_row, chosen, rejected;
    int32_t source_file, shard;
} ShardRecord;   // one document; chosen, rejected from its start

typedef struct { const char *key, *value; } ShardField;   // one entry of the metadata

typedef struct {
    char *prefix;
    ShardKind kind;
    int64_t tokens_per_shard;
    FILE *tokens, *weights, *records;   // the spool: unlinked files
    int64_t num_tokens, num_documents;
    int64_t shard_tokens;               // in the shard that is being filled
    int32_t shard;                      // its index from 0
} ShardWriter;

FN FILE *shard_spool(const char *prefix, Error *e) {
    char *path = xprintf("%s.spool.XXXXXX", prefix);
    int fd = mkostemp(path, O_CLOEXEC);
    FILE *f = fd >= 0 ? fdopen(fd, "w+b") : NULL;
    if (!f) fail(e, "%s: cannot be written: %s ---> is --out in a directory that is there and writable?", path, strerror(errno));
    if (fd >= 0) unlink(path);
    if (fd >= 0 && !f) close(fd);
    free(path);
    return f;
}

FN void shard_writer_abandon(ShardWriter *w) {   // leaves what was under PREFIX before
    if (w->tokens) fclose(w->tokens);
    if (w->weights) fclose(w->weights);
    if (w->records) fclose(w->records);
    free(w->prefix);
    memset(w, 0, sizeof *w);
}

// shards of at most tokens_per_shard tokens, unless one document alone has more
FN bool shard_writer_open(ShardWriter *w, const char *prefix, ShardKind kind, int64_t tokens_per_shard, Error *e) {
    memset(w, 0, sizeof *w);
    w->prefix = xstrdup(prefix);
    w->kind = kind;
    w->tokens_per_shard = tokens_per_shard;
    const char *base = NULL;
    char *directory = shard_directory(prefix, &base);
    bool ok = make_directory(directory, e);
    free(directory);
    ok = ok && (w->tokens = shard_spool(prefix, e)) && (w->weights = shard_spool(prefix, e)) && (w->records = shard_spool(prefix, e));
    if (!ok) shard_writer_abandon(w);
    return ok;
}

// one document: n ids with their weights; chosen and rejected are offsets from its start (pref only)
FN bool shard_writer_add(ShardWriter *w, const int32_t *ids, const uint8_t *weights, int64_t n, int64_t chosen, int64_t rejected,
                         int32_t source_file, int64_t source_row, Error *e) {
    CHECK(n > 0 && weights[0] == 0);
    if (w->shard_tokens > 0 && w->shard_tokens + n > w->tokens_per_shard) { w->shard++; w->shard_tokens = 0; }
    if (w->shard >= SHARD_MAX_FILES) return fail(e, "%s: more than %d shards ---> use a larger --shard-tokens", w->prefix, SHARD_MAX_FILES);
    ShardRecord r = {n, source_row, chosen, rejected, source_file, w->shard};
    if (fwrite(ids, sizeof *ids, (size_t)n, w->tokens) != (size_t)n || fwrite(weights, 1, (size_t)n, w->weights) != (size_t)n ||
        fwrite(&r, sizeof r, 1, w->records) != 1)
        return fail(e, "%s: write failed: %s ---> is the disk full? Twice the size of the shards is needed while they are made", w->prefix,
                    strerror(errno));
    w->shard_tokens += n;
    w->num_tokens += n;
    w->num_documents++;
    return true;
}

FN bool shard_map_spool(FILE *f, Mapped *m, const char *prefix, Error *e) {
    m->data = NULL;
    if (fflush(f) != 0 || fseeko(f, 0, SEEK_END) != 0 || (m->size = (int64_t)ftello(f)) < 0)
        return fail(e, "%s: write failed: %s ---> is the disk full?", prefix, strerror(errno));
    void *p = mmap(NULL, (size_t)m->size, PROT_READ, MAP_SHARED, fileno(f), 0);
    if (p == MAP_FAILED) return fail(e, "%s: the spool cannot be mapped: %s", prefix, strerror(errno));
    m->data = (const uint8_t *)p;
    return true;
}

// writes documents [first, end) of the spool, whose tokens begin at token_offset, to `path`
FN bool shard_write_one(const ShardWriter *w, const char *path, const ShardRecord *records, int64_t first, int64_t end, const int32_t *tokens,
                        const uint8_t *weights, const ShardField *fields, int num_fields, Error *e) {
    const int64_t D = end - first;
    const bool pref = w->kind == SHARD_PREF;
    int64_t *documents = (int64_t *)xcalloc(4 * D + 1, sizeof(int64_t)), *rows = documents + D + 1, *chosen = rows + D,
            *rejected = chosen + D, N = 0, trained = 0;
    int32_t *files = (int32_t *)xcalloc(D, sizeof(int32_t));
    for (int64_t i = 0; i < D; i++) {
        const ShardRecord *r = &records[first + i];
        rows[i] = r->source_row;
        files[i] = r->source_file;
        chosen[i] = N + r->chosen;
        rejected[i] = N + r->rejected;
        N += r->length;
        documents[i + 1] = N;
    }
    for (int64_t i = 0; i < N; i++) trained += weights[i];
    char num_tokens[32], num_trained[32], num_documents[32];
    snprintf(num_tokens, sizeof num_tokens, "%" PRId64, N);
    snprintf(num_trained, sizeof num_trained, "%" PRId64, trained);
    snprintf(num_documents, sizeof num_documents, "%" PRId64, D);
    SafetensorsWriter *s = safetensors_writer_new(path);
    safetensors_writer_metadata(s, "format", SHARD_FORMAT);
    safetensors_writer_metadata(s, "kind", shard_kind_names[w->kind]);
    for (int i = 0; i < num_fields; i++) safetensors_writer_metadata(s, fields[i].key, fields[i].value);
    safetensors_writer_metadata(s, "shard_tokens", num_tokens);
    safetensors_writer_metadata(s, "shard_trained_tokens", num_trained);
    safetensors_writer_metadata(s, "shard_documents", num_documents);
    int64_t per_document[1] = {D}, bounds[1] = {D + 1}, per_token[1] = {N};
    safetensors_writer_tensor(s, "documents", DTYPE_I64, 1, bounds);
    safetensors_writer_tensor(s, "source_row", DTYPE_I64, 1, per_document);
    if (pref) safetensors_writer_tensor(s, "chosen", DTYPE_I64, 1, per_document);
    if (pref) safetensors_writer_tensor(s, "rejected", DTYPE_I64, 1, per_document);
    safetensors_writer_tensor(s, "tokens", DTYPE_I32, 1, per_token);
    safetensors_writer_tensor(s, "source_file", DTYPE_I32, 1, per_document);
    safetensors_writer_tensor(s, "weights", DTYPE_U8, 1, per_token);
    bool ok = safetensors_writer_begin(s, e) && safetensors_writer_data(s, documents, (D + 1) * 8, e) &&
              safetensors_writer_data(s, rows, D * 8, e) &&
              (!pref || (safetensors_writer_data(s, chosen, D * 8, e) && safetensors_writer_data(s, rejected, D * 8, e))) &&
              safetensors_writer_data(s, tokens, N * 4, e) && safetensors_writer_data(s, files, D * 4, e) &&
              safetensors_writer_data(s, weights, N, e);
    if (ok) ok = safetensors_writer_commit(s, e);
    else safetensors_writer_abandon(s);
    free(documents);
    free(files);
    return ok;
}

// removes temporary shards of PREFIX that a failed or killed run left and, when count > 0, the shards of any other count
FN void shard_remove_stale(const char *prefix, int count) {
    const char *base = NULL;
    char *directory = shard_directory(prefix, &base);
    DIR *d = opendir(directory);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        int i = 0, n = 0;
        char *name = xstrdup(entry->d_name), *end = strstr(name, ".safetensors");
        bool left_over = end && strncmp(end, ".safetensors.new", 16) == 0;
        if (left_over) end[strlen(".safetensors")] = 0;
        if (shard_name_parse(name, base, &i, &n) && (left_over || (count > 0 && n != count))) {
            char *path = path_join(directory, entry->d_name);
            unlink(path);
            free(path);
        }
        free(name);
    }
    if (d) closedir(d);
    free(directory);
}

FN bool shard_rename_all(const char *prefix, int count, Error *e) {
    for (int k = 1; k <= count; k++) {
        char *path = shard_path(prefix, k, count), *temporary = xprintf("%s.new", path);
        bool ok = rename(temporary, path) == 0;
        if (!ok) fail(e, "%s: cannot be renamed: %s", temporary, strerror(errno));
        free(path);
        free(temporary);
        if (!ok) return false;
    }
    char *first = shard_path(prefix, 1, count);
    bool ok = sync_directory_of(first, e);
    free(first);
    return ok;
}

// Writes the shards with this metadata (besides format, kind and the shard's own counts) and ends the writer, in any case.
FN bool shard_writer_finish(ShardWriter *w, const ShardField *fields, int num_fields, Error *e) {
    Mapped tokens = {NULL, 0}, weights = {NULL, 0}, spool = {NULL, 0};
    int count = w->shard + 1;
    bool ok = w->num_documents > 0 ? true : fail(e, "%s: there is no document to write", w->prefix);
    ok = ok && shard_map_spool(w->tokens, &tokens, w->prefix, e) && shard_map_spool(w->weights, &weights, w->prefix, e) &&
         shard_map_spool(w->records, &spool, w->prefix, e);
    const ShardRecord *records = (const ShardRecord *)spool.data;
    int64_t first = 0, offset = 0;
    for (int k = 0; k < count && ok; k++) {
        int64_t end = first, n = 0;
        while (end < w->num_documents && records[end].shard == k) n += records[end++].length;
        char *path = shard_path(w->prefix, k + 1, count), *temporary = xprintf("%s.new", path);
        ok = shard_write_one(w, temporary, records, first, end, (const int32_t *)tokens.data + offset, weights.data + offset, fields,
                             num_fields, e);
        free(path);
        free(temporary);
        first = end;
        offset += n;
    }
    unmap_file(&tokens);
    unmap_file(&weights);
    unmap_file(&spool);
    ok = ok && shard_rename_all(w->prefix, count, e);
    if (w->prefix) shard_remove_stale(w->prefix, ok ? count : 0);
    shard_writer_abandon(w);
    return ok;
}

#endif
