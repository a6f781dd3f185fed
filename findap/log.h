// log.h: what a run says - one line a step on stderr, with columns that stay where they are, and the same record as one
// JSON object a line in OUT/log.jsonl, with the unit in every name. On a terminal a bar with the time left follows the line.
//
// Reports and plots are other programs' business; they read log.jsonl. A number that is not finite is written as null,
// never as 0. The file is locked while a run writes to it, so that two runs cannot share an OUT.
#ifndef FINDAP_LOG_H
#define FINDAP_LOG_H
#include "json.h"       // defines: json_t
#include <sys/file.h>   // defines: flock
#ifdef _OPENMP
#include <omp.h>        // defines: omp_get_max_threads
#endif

#ifndef FINDAP_COMMIT
#define FINDAP_COMMIT "unknown"   // the Makefile says -DFINDAP_COMMIT='"..."'
#endif

#ifndef FINDAP_DEVICE
#define FINDAP_DEVICE "CPU, fp32"   // what the banner says; the GPU twin has its own
#endif

typedef struct {
    FILE *file;          // OUT/log.jsonl, NULL: none
    bool quiet, terminal, failed, bar;
    int64_t every;       // a line every so many steps; the file gets all of them
    double start;        // seconds_now() when this process began to train
    int64_t first_step;  // steps done before this process
} Log;

FN bool log_open(Log *l, const char *out, bool quiet, int64_t every, bool truncate, Error *e) {
    memset(l, 0, sizeof *l);
    l->quiet = quiet; l->every = every;
    l->terminal = isatty(2) && !quiet;
    char *path = path_join(out, "log.jsonl");
    l->file = fopen(path, "a");
    bool ok = l->file != NULL || fail(e, "%s: cannot be written: %s", path, strerror(errno));
    if (ok && flock(fileno(l->file), LOCK_EX | LOCK_NB) != 0) ok = fail(e, "%s: another run is writing here ---> use another --out, or wait for it to end", path);
    if (ok && truncate && ftruncate(fileno(l->file), 0) != 0) ok = fail(e, "%s: cannot be emptied: %s", path, strerror(errno));
    char last = '\n';   // a record that a crash or a full disk cut off stays by itself
    int fd = ok ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    struct stat st;
    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0 && pread(fd, &last, 1, st.st_size - 1) == 1 && last != '\n') fputc('\n', l->file);
    if (fd >= 0) close(fd);
    free(path);
    if (!ok && l->file) { fclose(l->file); l->file = NULL; }
    return ok;
}
FN void log_bar_clear(Log *l) { if (l->bar) fputs("\r\033[K", stderr); l->bar = false; }
FN void log_close(Log *l) { log_bar_clear(l); if (l->file) fclose(l->file); l->file = NULL; }

FN json_t *json_finite(double x) { return isfinite(x) ? json_real(x) : json_null(); }

// appends one record and frees it. A full disk costs the log, not the run.
FN void log_record(Log *l, json_t *record) {
    char *text = json_dumps(record, JSON_COMPACT | JSON_REAL_PRECISION(10));
    json_decref(record);
    CHECK(text);
    if (l->file && (fprintf(l->file, "%s\n", text) < 0 || fflush(l->file) != 0)) {
        if (!l->failed) warn("log.jsonl: write failed: %s ---> is the disk full? The run goes on, its records are lost", strerror(errno));
        l->failed = true;
        clearerr(l->file);
    }
    free(text);
}

FN int log_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

// the first lines: what was built, from which commit, on which device, with which command
FN void log_banner(const char *device, int argc, char **argv) {
    fprintf(stderr, "%s, commit %s, built %s %s, %s, %d thread%s\n", program_name, FINDAP_COMMIT, __DATE__, __TIME__, device, log_threads(), log_threads() == 1 ? "" : "s");
    fprintf(stderr, "command:");
    for (int i = 0; i < argc; i++) {
        char text[512];
        escape_text(text, sizeof text, argv[i], strlen(argv[i]));
        fprintf(stderr, " %s", text);
    }
    fprintf(stderr, "\n");
}

typedef struct { const char *name; double loss; int64_t targets; } StreamLoss;   // mean over `targets`; 0 targets: no loss

typedef struct {
    const char *stage;
    int64_t step, steps, stage_step, stage_steps, epoch;    // done, of how many
    int64_t tokens, trained, tokens_total, trained_total;   // tokens: places of real documents
    double fill, lr, loss, grad_norm, seconds;
    bool skipped;
    const StreamLoss *streams;
    int num_streams;
} StepRecord;

FN void log_bar(Log *l, const StepRecord *r) {
    if (!l->terminal) return;
    double left = (seconds_now() - l->start) / (double)(r->step - l->first_step) * (double)(r->steps - r->step);
    int filled = (int)(30 * r->step / r->steps);
    char bar[31];
    for (int i = 0; i < 30; i++) bar[i] = i < filled ? '#' : '.';
    bar[30] = 0;
    fprintf(stderr, "[%s] %5.1f %%  %d:%02d:%02d left", bar, 100.0 * (double)r->step / (double)r->steps, (int)(left / 3600), (int)(left / 60) % 60, (int)left % 60);
    l->bar = true;
}

FN void log_step(Log *l, const StepRecord *r) {
    json_t *j = json_object();
    json_object_set_new(j, "event", json_string("step"));
    json_object_set_new(j, "step", json_integer(r->step));
    json_object_set_new(j, "stage", json_string(r->stage));
    json_object_set_new(j, "stage_step", json_integer(r->stage_step));
    json_object_set_new(j, "epoch", json_integer(r->epoch));
    json_object_set_new(j, "tokens_total", json_integer(r->tokens_total));
    json_object_set_new(j, "trained_targets_total", json_integer(r->trained_total));
    json_object_set_new(j, "tokens", json_integer(r->tokens));
    json_object_set_new(j, "trained_targets", json_integer(r->trained));
    json_object_set_new(j, "fill_share", json_real(r->fill));
    json_object_set_new(j, "loss_nats_per_target", json_finite(r->loss));
    json_object_set_new(j, "lr", json_real(r->lr));
    json_object_set_new(j, "grad_norm", json_finite(r->grad_norm));
    json_object_set_new(j, "skipped", json_boolean(r->skipped));
    json_object_set_new(j, "step_seconds", json_real(r->seconds));
    json_object_set_new(j, "tokens_per_second", json_finite((double)r->tokens / r->seconds));
    json_object_set_new(j, "trained_targets_per_second", json_finite((double)r->trained / r->seconds));
    char streams[256] = "";
    for (int k = 0; k < r->num_streams; k++) {
        const StreamLoss *s = &r->streams[k];
        char name[96];
        snprintf(name, sizeof name, "loss_%s_nats_per_target", s->name);
        if (s->targets) json_object_set_new(j, name, json_finite(s->loss));
        size_t used = strlen(streams);
        if (s->targets) snprintf(streams + used, sizeof streams - used, " %s %.4f", s->name, s->loss);
        else snprintf(streams + used, sizeof streams - used, " %s      -", s->name);
    }
    log_record(l, j);
    if (l->quiet || (r->step % l->every != 0 && r->step != r->steps && !r->skipped)) return;
    log_bar_clear(l);
    fprintf(stderr, "step %6" PRId64 "/%" PRId64 " | %s epoch %" PRId64 " | loss %8.4f |%s | norm %8.3f | lr %.2e | %8.1f ms | %8.0f tok/s | trained %5.1f %%%s\n",
            r->step, r->steps, r->stage, r->epoch, r->loss, streams, r->grad_norm, r->lr, 1e3 * r->seconds, (double)r->tokens / r->seconds,
            r->tokens ? 100.0 * (double)r->trained / (double)r->tokens : 0.0, r->skipped ? " | SKIPPED: not finite" : "");
    log_bar(l, r);
}

// one evaluation: the loss over all dev targets and that of each stream
FN void log_dev(Log *l, const char *stage, int64_t step, int64_t stage_step, double loss, int64_t targets, double best, double seconds, const StreamLoss *streams, int n) {
    json_t *j = json_object();
    char text[256] = "";
    json_object_set_new(j, "event", json_string("dev"));
    json_object_set_new(j, "step", json_integer(step));
    json_object_set_new(j, "stage", json_string(stage));
    json_object_set_new(j, "stage_step", json_integer(stage_step));
    json_object_set_new(j, "dev_loss_nats_per_target", json_finite(loss));
    json_object_set_new(j, "dev_targets", json_integer(targets));
    json_object_set_new(j, "best_dev_loss_nats_per_target", json_finite(best));
    json_object_set_new(j, "dev_seconds", json_real(seconds));
    for (int k = 0; k < n; k++) {
        if (!streams[k].targets) continue;
        char name[96];
        snprintf(name, sizeof name, "dev_loss_%s", streams[k].name);
        json_object_set_new(j, name, json_finite(streams[k].loss));
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, " %s %.4f", streams[k].name, streams[k].loss);
    }
    log_record(l, j);
    if (l->quiet) return;
    log_bar_clear(l);
    fprintf(stderr, "dev  %6" PRId64 " | %s | loss %8.4f |%s | best %8.4f | %" PRId64 " targets in %.1f s\n", step, stage, loss, text, best, targets, seconds);
}

// a line on stderr that does not break the bar
__attribute__((format(printf, 2, 3)))
FN void log_say(Log *l, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    log_bar_clear(l);
    if (!l->quiet) vfprintf(stderr, format, ap);
    va_end(ap);
}

#endif
