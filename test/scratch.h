// scratch.h: a directory under /tmp for one test program, made by setup, removed with all that is in it by teardown.
// Include it after check.h and the headers under test.
#include <dirent.h>

FN char directory[] = "/tmp/findap_test_XXXXXX";
FN void remove_tree(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));) {
        if (strcmp(f->d_name, ".") == 0 || strcmp(f->d_name, "..") == 0) continue;
        char *child = path_join(path, f->d_name);
        struct stat st;
        if (lstat(child, &st) == 0 && S_ISDIR(st.st_mode)) remove_tree(child); else unlink(child);
        free(child);
    }
    if (d) closedir(d);
    rmdir(path);
}
FN int setup(void **state) { (void)state; return mkdtemp(directory) ? 0 : -1; }
FN int teardown(void **state) { (void)state; remove_tree(directory); return is_directory(directory); }

FN const char *in(const char *name) {   // DIRECTORY/name; good until the eighth call after
    static char paths[8][256];
    static int turn = 0;
    char *p = paths[turn++ % 8];
    snprintf(p, sizeof paths[0], "%s/%s", directory, name);
    return p;
}
