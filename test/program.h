// program.h: runs a program's main() inside a test, with what it prints kept. Include it after check.h and scratch.h.
FN char *output;   // what the last run printed; the test's main frees it

// Calls program(argc, argv) with these words, an @ that begins one standing for DIRECTORY/; its exit status
FN int run_words(int (*program)(int, char **), const char *name, const char *words) {
    char *copy = xstrdup(words), *argv[64], *made[64], *log = xstrdup(in("stderr.txt"));
    int argc = 0, num_made = 0;
    argv[argc++] = (char *)name;
    for (char *w = strtok(copy, " "); w; w = strtok(NULL, " ")) argv[argc++] = *w == '@' ? (made[num_made++] = path_join(directory, w + 1)) : w;
    fflush(stdout);
    int keep = dup(2), keep_out = dup(1), fd = open(log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
    dup2(fd, 2); dup2(fd, 1);
    close(fd);
    int result = program(argc, argv);
    fflush(stdout);
    dup2(keep, 2); dup2(keep_out, 1);
    close(keep); close(keep_out);
    free(output);
    Mapped m;
    Error e;
    assert_true(map_file(log, &m, &e));
    output = xprintf("%.*s", (int)m.size, m.size ? (const char *)m.data : "");
    unmap_file(&m);
    for (int i = 0; i < num_made; i++) free(made[i]);
    free(copy); free(log);
    return result;
}
