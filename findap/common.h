// common.h: what every file of the house needs and nothing more - errors, memory, files, random numbers.
//
// Errors. A function that reads something from outside (a file, a flag) never exits by itself: it returns false
// or NULL and leaves one line in an Error, so that tests and fuzzers can call it with anything. Programs turn that
// line into an exit with die(). The line says what, where, what was expected, what was found, and a hint:
//     tokenizer.json: model.merges[17] is "a b c", expected two tokens ---> was the file cut or edited by hand?
// fail() escapes control characters, because what it quotes comes from files that may be hostile.
//
// This header keeps to the common subset of C11 and C++17: nvcc compiles it too.
#ifndef FINDAP_COMMON_H
#define FINDAP_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

// Every header of the house is a set of static functions; a program uses the ones it needs.
#define FN __attribute__((unused)) static
#ifdef __CUDACC__
#define FN_BOTH FN __host__ __device__   // kernels call it too
#else
#define FN_BOTH FN
#endif

// ---------------------------------------------------------------------------------------------------------------
// errors

typedef struct { char text[1024]; } Error;

// copies `in` to `out` (size n, always terminated) with control characters, DEL and broken UTF-8 made visible as \xNN,
// so that nothing read from a file or a model can move the cursor, clear the screen or forge a second line
FN void escape_text(char *out, size_t n, const char *in, size_t in_len) {
    size_t o = 0;
    for (size_t i = 0; i < in_len && o + 5 < n;) {
        unsigned char c = (unsigned char)in[i];
        size_t k = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
        bool good = k >= 1 && i + k <= in_len && o + k + 1 < n && c >= 0x20 && c != 0x7F;
        for (size_t j = 1; good && j < k; j++) good = ((unsigned char)in[i + j] & 0xC0) == 0x80;
        if (good && k == 2 && c == 0xC2 && (unsigned char)in[i + 1] < 0xA0) good = false;  // C1 controls
        if (good) { memcpy(out + o, in + i, k); o += k; i += k; }
        else { o += (size_t)snprintf(out + o, n - o, "\\x%02x", c); i++; }
    }
    out[o] = 0;
}

// fills *e with one line and returns false, so that callers can `return fail(e, ...)`; e may be NULL
__attribute__((format(printf, 2, 3)))
FN bool fail(Error *e, const char *format, ...) {
    if (!e) return false;
    char raw[sizeof e->text];
    va_list ap;
    va_start(ap, format);
    vsnprintf(raw, sizeof raw, format, ap);
    va_end(ap);
    escape_text(e->text, sizeof e->text, raw, strlen(raw));
    return false;
}

FN const char *program_name = "findap";   // set once by main, never changed after
FN void (*die_with)(int status) = NULL;   // likewise, by comm_begin: a rank that dies takes the others with it

__attribute__((format(printf, 1, 2), noreturn))
FN void die(const char *format, ...) {
    Error e;
    char raw[sizeof e.text];
    va_list ap;
    va_start(ap, format);
    vsnprintf(raw, sizeof raw, format, ap);
    va_end(ap);
    escape_text(e.text, sizeof e.text, raw, strlen(raw));
    fflush(stdout);
    fprintf(stderr, "%s: error: %s\n", program_name, e.text);
    if (die_with) die_with(1);
    exit(1);
}

__attribute__((format(printf, 1, 2)))
FN void warn(const char *format, ...) {
    Error e;
    va_list ap;
    va_start(ap, format);
    char raw[sizeof e.text];
    vsnprintf(raw, sizeof raw, format, ap);
    va_end(ap);
    escape_text(e.text, sizeof e.text, raw, strlen(raw));
    fprintf(stderr, "%s: warning: %s\n", program_name, e.text);
}

// for what cannot happen unless the program itself is wrong; stays on in optimised builds
#define CHECK(condition) do { if (!(condition)) \
    die("internal check failed at %s:%d: %s ---> this is a bug in findap, please report it", __FILE__, __LINE__, #condition); \
} while (0)

// ---------------------------------------------------------------------------------------------------------------
// memory: sizes are 64-bit, products are checked

FN bool mul_size(int64_t a, int64_t b, int64_t *out) { return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, out); }

FN void *xmalloc(int64_t bytes) {
    void *p = bytes >= 0 && bytes < INT64_MAX / 2 ? malloc(bytes > 0 ? (size_t)bytes : 1) : NULL;
    if (!p) die("out of memory: %.1f MiB more were asked for ---> use smaller rows, a smaller model or a larger machine", (double)bytes / 1048576.0);
    return p;
}

FN void *xcalloc(int64_t n, int64_t size) {
    int64_t bytes = 0;
    if (!mul_size(n, size, &bytes)) die("out of memory: %" PRId64 " items of %" PRId64 " bytes were asked for", n, size);
    void *p = xmalloc(bytes);
    memset(p, 0, (size_t)bytes);
    return p;
}

FN void *xrealloc(void *old, int64_t n, int64_t size) {
    int64_t bytes = 0;
    if (!mul_size(n, size, &bytes)) die("out of memory: %" PRId64 " items of %" PRId64 " bytes were asked for", n, size);
    void *p = realloc(old, bytes > 0 ? (size_t)bytes : 1);
    if (!p) die("out of memory: %.1f MiB were asked for ---> use smaller rows, a smaller model or a larger machine", (double)bytes / 1048576.0);
    return p;
}

FN char *xstrdup(const char *s) { size_t n = strlen(s) + 1; char *p = (char *)xmalloc((int64_t)n); memcpy(p, s, n); return p; }

FN char *xvprintf(const char *format, va_list ap) {   // a new string; the caller frees it
    char *s = NULL;
    if (vasprintf(&s, format, ap) < 0) die("out of memory while formatting a string");
    return s;
}
__attribute__((format(printf, 1, 2)))
FN char *xprintf(const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    char *s = xvprintf(format, ap);
    va_end(ap);
    return s;
}

// a growing array of bytes
typedef struct { char *data; int64_t len, cap; } Buffer;

FN void buffer_reserve(Buffer *b, int64_t more) {
    if (b->len + more <= b->cap) return;
    int64_t cap = b->cap ? b->cap : 256;
    while (cap < b->len + more) cap *= 2;
    b->data = (char *)xrealloc(b->data, cap, 1);
    b->cap = cap;
}
FN void buffer_add(Buffer *b, const void *p, int64_t n) { if (n <= 0) return; buffer_reserve(b, n); memcpy(b->data + b->len, p, (size_t)n); b->len += n; }
FN void buffer_free(Buffer *b) { free(b->data); memset(b, 0, sizeof *b); }

// a growing array of token ids
typedef struct { int32_t *data; int64_t len, cap; } Ids;

FN void ids_reserve(Ids *a, int64_t more) {
    if (a->len + more <= a->cap) return;
    int64_t cap = a->cap ? a->cap : 256;
    while (cap < a->len + more) cap *= 2;
    a->data = (int32_t *)xrealloc(a->data, cap, sizeof(int32_t));
    a->cap = cap;
}
FN void ids_add(Ids *a, int32_t id) { if (a->len == a->cap) ids_reserve(a, 1); a->data[a->len++] = id; }
FN void ids_free(Ids *a) { free(a->data); memset(a, 0, sizeof *a); }

// ---------------------------------------------------------------------------------------------------------------
// files

// A file mapped read-only. It may be larger than memory. If somebody truncates it while we read, the kernel sends
// SIGBUS; sigbus_message() turns that into one line instead of a core dump.
typedef struct { const uint8_t *data; int64_t size; } Mapped;

FN void on_sigbus(int signal_number) {
    (void)signal_number;
    static const char text[] = "error: a mapped file could not be read ---> was it truncated or replaced while it was in use, or is the disk failing?\n";
    ssize_t ignored = write(2, text, sizeof text - 1);
    (void)ignored;
    _exit(1);
}
FN void sigbus_message(void) { signal(SIGBUS, on_sigbus); }

FN bool map_file(const char *path, Mapped *m, Error *e) {
    m->data = NULL; m->size = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);   // a named pipe in place of a file must be refused, not waited for
    if (fd < 0) return fail(e, "%s: cannot be opened: %s ---> check the path", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) { close(fd); return fail(e, "%s: is not a regular file", path); }
    m->size = (int64_t)st.st_size;
    if (m->size > 0) {
        void *p = mmap(NULL, (size_t)m->size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) { int err = errno; close(fd); m->size = 0; return fail(e, "%s: cannot be mapped: %s", path, strerror(err)); }
        m->data = (const uint8_t *)p;
    }
    close(fd);
    return true;
}
FN void unmap_file(Mapped *m) { if (m->data) munmap((void *)m->data, (size_t)m->size); m->data = NULL; m->size = 0; }

FN bool file_exists(const char *path) { struct stat st; return stat(path, &st) == 0; }
FN bool is_directory(const char *path) { struct stat st; return stat(path, &st) == 0 && S_ISDIR(st.st_mode); }

FN bool same_file(const char *a, const char *b) {   // by whatever names
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}
// before anything is written to what `flag` names: it is none of the files that are read
FN bool output_is_apart(const char *flag, const char *out, const char *in, Error *e) {
    return !out || !in || !same_file(out, in) || fail(e, "%s %s is one of the files that are read (%s) ---> another name: it would be lost", flag, out, in);
}

FN char *path_join(const char *dir, const char *name) {
    size_t n = strlen(dir);
    return xprintf("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

FN bool make_directory(const char *path, Error *e) {   // with its parents
    char *p = xstrdup(path);
    for (char *s = p + 1; ; s++) {
        if (*s != '/' && *s != 0) continue;
        char c = *s;
        *s = 0;
        if (mkdir(p, 0777) != 0 && errno != EEXIST) {
            bool r = fail(e, "%s: cannot make the directory: %s ---> choose an output path you may write to", p, strerror(errno));
            free(p);
            return r;
        }
        *s = c;
        if (c == 0) break;
    }
    free(p);
    return is_directory(path) ? true : fail(e, "%s: is not a directory", path);
}

FN bool sync_directory_of(const char *path, Error *e) {   // makes a rename in path's directory survive a power cut
    char *p = xstrdup(path);
    char *slash = strrchr(p, '/');
    if (slash) slash[slash == p] = 0;
    int fd = open(slash ? p : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (!ok) fail(e, "%s: cannot be synced: %s", slash ? p : ".", strerror(errno));
    if (fd >= 0) close(fd);
    free(p);
    return ok;
}

// A file that appears under its name only when it is whole: written to path.tmp.PID, synced, renamed. An error or a
// kill at any moment leaves what was under `path` before.
typedef struct { FILE *f; char *path, *temporary; } AtomicFile;

FN bool atomic_open(AtomicFile *a, const char *path, Error *e) {
    memset(a, 0, sizeof *a);
    if (is_directory(path)) return fail(e, "%s: is a directory, expected the name of a file to write", path);
    a->path = xstrdup(path);
    a->temporary = xprintf("%s.tmp.%d", path, (int)getpid());
    a->f = fopen(a->temporary, "wb");
    if (a->f) return true;
    fail(e, "%s: cannot be written: %s ---> is the directory there and writable?", a->temporary, strerror(errno));
    free(a->path); free(a->temporary);
    a->path = a->temporary = NULL;
    return false;
}
FN void atomic_abandon(AtomicFile *a) {
    if (a->f) fclose(a->f);
    if (a->temporary) unlink(a->temporary);
    free(a->path); free(a->temporary);
    memset(a, 0, sizeof *a);
}
FN bool atomic_write(AtomicFile *a, const void *p, int64_t n, Error *e) {
    if (n == 0 || fwrite(p, 1, (size_t)n, a->f) == (size_t)n) return true;
    return fail(e, "%s: write failed: %s ---> is the disk full? What was at %s before is untouched", a->temporary, strerror(errno), a->path);
}
FN bool atomic_commit(AtomicFile *a, Error *e) {
    bool ok = fflush(a->f) == 0 && fsync(fileno(a->f)) == 0;
    ok = (fclose(a->f) == 0) && ok;
    a->f = NULL;
    ok = ok && rename(a->temporary, a->path) == 0;
    if (!ok) fail(e, "%s: write failed: %s ---> is the disk full? What was there before is untouched", a->path, strerror(errno));
    ok = ok && sync_directory_of(a->path, e);
    atomic_abandon(a);   // after the rename there is no temporary left to unlink
    return ok;
}
FN bool write_file(const char *path, const void *data, int64_t size, Error *e) {
    AtomicFile a;
    if (!atomic_open(&a, path, e)) return false;
    if (!atomic_write(&a, data, size, e)) { atomic_abandon(&a); return false; }
    return atomic_commit(&a, e);
}

// ---------------------------------------------------------------------------------------------------------------
// hashes: XXH3-128, as 32 hexadecimal digits

typedef struct { char hex[33]; } Hash;

FN Hash hash_digest(XXH128_hash_t h) {
    Hash out;
    snprintf(out.hex, sizeof out.hex, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
    return out;
}
FN Hash hash_bytes(const void *data, int64_t size) { return hash_digest(XXH3_128bits(data, (size_t)size)); }
FN bool hash_file(const char *path, Hash *out, Error *e) {
    Mapped m;
    if (!map_file(path, &m, e)) return false;
    *out = hash_bytes(m.data, m.size);
    unmap_file(&m);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// random numbers: counter based (splitmix64's finaliser over a keyed counter), so that number i of stream s under
// seed k is a pure function of (k, s, i): no state to save, the same on any number of threads or ranks

FN_BOTH uint64_t mix64(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}
FN_BOTH uint64_t random_u64(uint64_t seed, uint64_t stream, uint64_t i) { return mix64(mix64(mix64(seed) ^ stream) ^ i); }
FN_BOTH double random_uniform(uint64_t seed, uint64_t stream, uint64_t i) {   // in (0, 1): never 0, so that log() is finite
    return ((double)(random_u64(seed, stream, i) >> 11) + 0.5) * (1.0 / 9007199254740992.0);
}
FN double random_normal(uint64_t seed, uint64_t stream, uint64_t i) {    // mean 0, variance 1 (Box-Muller)
    return sqrt(-2.0 * log(random_uniform(seed, stream, 2 * i))) * cos(6.283185307179586 * random_uniform(seed, stream, 2 * i + 1));
}
FN uint64_t random_below(uint64_t seed, uint64_t stream, uint64_t i, uint64_t n) {   // in [0, n), n > 0 (Lemire's multiply)
    return (uint64_t)(((unsigned __int128)random_u64(seed, stream, i) * n) >> 64);
}

// ---------------------------------------------------------------------------------------------------------------
// time

FN double seconds_now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec; }

#endif
