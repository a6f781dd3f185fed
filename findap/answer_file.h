// answer_file.h: a JSONL file that grows by a line an answer while a run goes on, and is taken up again by the next start of the same command.
//
// Lines are whole or cut off at the end of the file, so a kill loses what was being made and nothing else; the next start removes the rest of a cut line. OUT.run says
// what run the answers are of; one with other settings is refused, for its answers would be draws from another distribution in the same file.
//
// Several ranks. Rank 0 writes OUT, rank k OUT.part.k; at the end rank 0 appends what is in the parts and removes them. A job that is killed leaves its
// parts behind, and whoever starts next, with any number of ranks, takes them in first: lines that OUT has already are passed over, so a kill in the middle of that does no harm either.
#ifndef FINDAP_ANSWER_FILE_H
#define FINDAP_ANSWER_FILE_H
#include "comm.h"       // defines: Comm, comm_agree
#include "json.h"       // defines: json_t, json_parse
#include <dirent.h>     // defines: opendir
#include <sys/file.h>   // defines: flock

typedef struct {
    const char *path;               // OUT
    const char *row_key, *sample_key;   // a line says which answer it is: "row" and "sample"; sample_key NULL: one a row
    int64_t rows, samples;          // answers there can be: rows * samples
    bool (*had)(void *user, json_t *line, const char *where, Error *e);   // on rank 0, for the sums: an answer that this rank did not make
    void *user;
    Comm *comm;
    bool quiet;
    uint8_t *done;                  // (rows * samples) is that answer there?
    FILE *file;
    char *part;                     // OUT.part.RANK; NULL on rank 0
    int64_t resumed;
} AnswerFile;

// Refuses a run whose settings are not those of `path`
FN bool same_identity(const char *path, json_t *mine, Error *e) {
    json_t *theirs = json_parse_file(path, 1 << 20, e), *value;
    bool ok = theirs != NULL;
    const char *key;
    if (ok) json_object_foreach(mine, key, value) {
        const json_t *other = json_object_get(theirs, key);
        if (!ok || json_equal(value, other)) continue;
        char *a = other ? json_dumps(other, JSON_ENCODE_ANY | JSON_REAL_PRECISION(10)) : xstrdup("missing"), *b = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(10));
        ok = fail(e, "%s: the answers there are of another run: \"%s\" is %.100s, here %.100s ---> give the same settings, or another --out", path, key, a, b);
        free(a); free(b);
    }
    json_decref(theirs);
    return ok;
}

FN bool answer_file_write(AnswerFile *f, const void *line, int64_t n, Error *e) {   // by one write: a kill leaves it whole or cut, never mixed
    if (fwrite(line, 1, (size_t)n, f->file) == (size_t)n && fflush(f->file) == 0) return true;
    return fail(e, "%s: write failed: %s ---> is the disk full? Answers before this one are there; the same command goes on", f->part ? f->part : f->path, strerror(errno));
}

// Takes in the whole lines of `path`, *end bytes. A part's are appended to OUT, those apart that are there.
FN bool answer_file_read(AnswerFile *f, const char *path, bool part, int64_t *end, Error *e) {
    Mapped m;
    if (!map_file(path, &m, e)) return false;
    bool ok = true;
    int64_t line = 0;
    *end = 0;
    for (const uint8_t *newline; ok && *end < m.size && (newline = (const uint8_t *)memchr(m.data + *end, '\n', (size_t)(m.size - *end))) != NULL;) {
        char *where = xprintf("%s:%" PRId64, path, ++line);
        int64_t row = 0, sample = 0, begin = *end;
        *end = newline + 1 - m.data;
        json_t *j = json_parse_line(where, (const char *)m.data + begin, *end - begin - 1, e);
        ok = j && json_get_int(j, f->row_key, where, true, 0, f->rows - 1, &row, e) && (!f->sample_key || json_get_int(j, f->sample_key, where, true, 0, f->samples - 1, &sample, e));
        uint8_t *done = ok ? &f->done[row * f->samples + sample] : NULL;
        if (ok && *done && !part) ok = f->sample_key ? fail(e, "%s: %s %" PRId64 ", %s %" PRId64 " is there twice ---> remove one of the lines", where, f->row_key, row, f->sample_key, sample)
                                                     : fail(e, "%s: %s %" PRId64 " is there twice ---> remove one of the lines", where, f->row_key, row);
        if (ok && !*done) {
            ok = f->had(f->user, j, where, e) && (!part || answer_file_write(f, m.data + begin, *end - begin, e));
            *done = 1;
        }
        json_decref(j);
        free(where);
    }
    if (ok && *end < m.size && !part && !f->quiet) fprintf(stderr, "%s: the last line was cut off by a kill; it is removed and made again\n", path);
    unmap_file(&m);
    return ok;
}

// What ranks have left in OUT.part.*, into OUT; or, with `look`, only how many of them there are
FN bool answer_file_join(AnswerFile *f, bool look, int64_t *parts, Error *e) {
    const char *slash = strrchr(f->path, '/'), *name = slash ? slash + 1 : f->path;
    char *directory = slash ? xprintf("%.*s", (int)(slash - f->path + 1), f->path) : xstrdup("."), *prefix = xprintf("%s.part.", name);
    DIR *d = opendir(directory);
    bool ok = d != NULL || fail(e, "%s: cannot be read: %s", directory, strerror(errno));
    for (struct dirent *entry; ok && (entry = readdir(d)) != NULL;) {
        const char *rank = entry->d_name + strlen(prefix);
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0 || !*rank || rank[strspn(rank, "0123456789")]) continue;
        ++*parts;
        if (look) continue;
        char *path = path_join(directory, entry->d_name);
        int64_t end = 0;
        ok = answer_file_read(f, path, true, &end, e) && (fsync(fileno(f->file)) == 0 || fail(e, "%s: cannot be synced: %s", f->path, strerror(errno)));
        if (ok && unlink(path) != 0) ok = fail(e, "%s: cannot be removed: %s", path, strerror(errno));
        free(path);
    }
    if (d) closedir(d);
    free(directory); free(prefix);
    return ok;
}

// On rank 0: the file, its lock, its identity, what is there
FN bool answer_file_take_up(AnswerFile *f, json_t *identity, Error *e) {
    char *run = xprintf("%s.run", f->path), *text = json_dumps(identity, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    CHECK(text);
    f->file = fopen(f->path, "ab");
    bool ok = f->file || fail(e, "%s: cannot be written: %s ---> is the directory there and writable?", f->path, strerror(errno));
    if (ok && flock(fileno(f->file), LOCK_EX | LOCK_NB) != 0) ok = fail(e, "%s: another run is writing here ---> use another --out, or wait for it to end", f->path);
    struct stat st;
    ok = ok && (fstat(fileno(f->file), &st) == 0 || fail(e, "%s: %s", f->path, strerror(errno)));
    int64_t end = 0, parts = 0;
    ok = ok && answer_file_join(f, true, &parts, e);
    if (ok && st.st_size == 0 && parts == 0) ok = write_file(run, text, (int64_t)strlen(text), e);   // there is nothing that could be of another run
    else if (ok && !file_exists(run)) ok = fail(e, "%s: is there and not of this program: no %s.run ---> use another --out, or remove the file", f->path, f->path);
    else ok = ok && same_identity(run, identity, e);
    ok = ok && answer_file_read(f, f->path, false, &end, e);
    if (ok && ftruncate(fileno(f->file), end) != 0) ok = fail(e, "%s: cannot be shortened: %s", f->path, strerror(errno));
    ok = ok && answer_file_join(f, false, &parts, e);
    free(text); free(run);
    return ok;
}

// Collective. identity: all that an answer depends on, freed here; NULL on the other ranks.
FN bool answer_file_open(AnswerFile *f, json_t *identity, Error *e) {
    int64_t all = f->rows * f->samples;
    f->done = (uint8_t *)xcalloc(all, 1);
    bool ok = comm_agree(f->comm, f->comm->rank != 0 || answer_file_take_up(f, identity, e), e, "taking up --out");
    json_decref(identity);
    if (!ok) return false;
    comm_broadcast(f->comm, f->done, all, 0, "what is in --out");
    for (int64_t i = 0; i < all; i++) f->resumed += f->done[i];
    if (f->comm->rank != 0) {
        f->part = xprintf("%s.part.%d", f->path, f->comm->rank);
        f->file = fopen(f->part, "wb");
        ok = f->file || fail(e, "%s: cannot be written: %s", f->part, strerror(errno));
    }
    if (ok && f->resumed && !f->quiet) fprintf(stderr, "resumed: %" PRId64 " of %" PRId64 " answers are in %s\n", f->resumed, all, f->path);
    return ok;
}

// Collective, after errors too: what there is is kept
FN bool answer_file_close(AnswerFile *f, bool ok, Error *e) {
    if (f->part && f->file) {
        if (fclose(f->file) != 0 && ok) ok = fail(e, "%s: write failed: %s", f->part, strerror(errno));
        f->file = NULL;
    }
    Error inner;
    int64_t parts = 0;
    bool all = comm_agree(f->comm, ok, e, "the other ranks' answers");
    if (f->comm->rank == 0 && f->file) {
        if (f->comm->size > 1 && !answer_file_join(f, false, &parts, &inner) && all) { all = false; *e = inner; }
        if (fclose(f->file) != 0 && all) all = fail(e, "%s: write failed: %s", f->path, strerror(errno));
        f->file = NULL;
    }
    free(f->done); free(f->part);
    f->done = NULL; f->part = NULL;
    return comm_agree(f->comm, all, e, "joining the answers");
}

#endif
