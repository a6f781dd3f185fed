// fail_shim.c: an LD_PRELOAD library that makes the k-th call by which a program changes files fail, or kills the program there. With every k in
// turn a test shows that no such moment loses what was safe before.
//
//     FAIL_UNDER=DIR    calls on files below DIR are counted, others are left alone
//     FAIL_AT=k         the k-th of them fails, counted from 1 over all threads. A write that fails has written half of its bytes.
//     FAIL_ERRNO=n      with this errno (EIO)
//     FAIL_FOREVER=1    every later one that takes room (open to write, write, mkdir) fails too: a disk that stays full
//     FAIL_KILL=1       SIGKILL instead
//
// Counted: open and fopen for writing, write, pwrite, fwrite, fflush, fsync, fdatasync, ftruncate, close and fclose of what can be written, rename,
// mkdir, unlink, rmdir. fail_shim_calls() says how many there have been; a program finds it with dlsym.
// (stdio's own calls do not come by here, hence fopen, fwrite, fflush and fclose.)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define NEXT(name) static __typeof__(&name) next; if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static long calls;
EXPORT long fail_shim_calls(void) { return __atomic_load_n(&calls, __ATOMIC_RELAXED); }

static long number(const char *name) { const char *v = getenv(name); return v ? atol(v) : 0; }
static int counted(const char *path) {
    const char *under = getenv("FAIL_UNDER");
    return under && *under && strncmp(path, under, strlen(under)) == 0;
}
static int counted_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return counted(path);
}
static int writable(int fd) { int flags = fcntl(fd, F_GETFL); return flags >= 0 && (flags & O_ACCMODE) != O_RDONLY; }

enum { NO, FAIL, KILL };
static int turn(int takes_room) {   // what happens to this call
    long k = __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED), at = number("FAIL_AT");
    if (at <= 0 || k < at || (k > at && !(number("FAIL_FOREVER") && takes_room))) return NO;
    errno = number("FAIL_ERRNO") ? (int)number("FAIL_ERRNO") : EIO;
    return number("FAIL_KILL") ? KILL : FAIL;
}
static void die_here(void) { raise(SIGKILL); }

#define SIMPLE(result, name, parameters, arguments, is_counted, takes_room) \
    EXPORT result name parameters { \
        NEXT(name); \
        int t = (is_counted) ? turn(takes_room) : NO; \
        if (t == KILL) die_here(); \
        return t == FAIL ? (result)-1 : next arguments; \
    }
SIMPLE(int, fsync, (int fd), (fd), counted_fd(fd), 0)
SIMPLE(int, fdatasync, (int fd), (fd), counted_fd(fd), 0)
SIMPLE(int, ftruncate, (int fd, off_t n), (fd, n), counted_fd(fd), 1)
SIMPLE(int, rename, (const char *from, const char *to), (from, to), counted(to), 0)
SIMPLE(int, mkdir, (const char *path, mode_t mode), (path, mode), counted(path), 1)
SIMPLE(int, unlink, (const char *path), (path), counted(path), 0)
SIMPLE(int, rmdir, (const char *path), (path), counted(path), 0)

EXPORT int close(int fd) {   // a close that fails has closed
    NEXT(close);
    int t = writable(fd) && counted_fd(fd) ? turn(0) : NO, error = errno;
    if (t == KILL) die_here();
    int r = next(fd);
    if (t == FAIL) errno = error;
    return t == FAIL ? -1 : r;
}

#define TORN(name, parameters, half, whole) \
    EXPORT ssize_t name parameters { \
        NEXT(name); \
        int t = counted_fd(fd) ? turn(1) : NO, error = errno; \
        if (t == NO) return next whole; \
        ssize_t ignored = next half; \
        (void)ignored; \
        if (t == KILL) die_here(); \
        errno = error; \
        return -1; \
    }
TORN(write, (int fd, const void *p, size_t n), (fd, p, n / 2), (fd, p, n))
TORN(pwrite, (int fd, const void *p, size_t n, off_t at), (fd, p, n / 2, at), (fd, p, n, at))

#define OPEN(name) \
    EXPORT int name(const char *path, int flags, ...) { \
        NEXT(name); \
        va_list ap; \
        va_start(ap, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(ap, mode_t) : 0; \
        va_end(ap); \
        int t = (flags & O_ACCMODE) != O_RDONLY && counted(path) ? turn(1) : NO; \
        if (t == KILL) die_here(); \
        return t == FAIL ? -1 : next(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

EXPORT FILE *fopen(const char *path, const char *mode) {
    NEXT(fopen);
    int t = mode[0] != 'r' && counted(path) ? turn(1) : NO;
    if (t == KILL) die_here();
    return t == FAIL ? NULL : next(path, mode);
}
EXPORT size_t fwrite(const void *p, size_t size, size_t n, FILE *f) {
    NEXT(fwrite);
    int t = counted_fd(fileno(f)) ? turn(1) : NO;
    if (t == NO) return next(p, size, n, f);
    int error = errno;
    size_t k = next(p, size, n / 2, f);
    if (t == KILL) { fflush(f); die_here(); }
    errno = error;
    return k;
}
EXPORT int fflush(FILE *f) {
    NEXT(fflush);
    int t = f && counted_fd(fileno(f)) ? turn(1) : NO;
    if (t == KILL) die_here();
    return t == FAIL ? EOF : next(f);
}
EXPORT int fclose(FILE *f) {
    NEXT(fclose);
    int t = counted_fd(fileno(f)) && writable(fileno(f)) ? turn(0) : NO, error = errno;
    if (t == KILL) die_here();
    int r = next(f);
    if (t == FAIL) errno = error;
    return t == FAIL ? EOF : r;
}
