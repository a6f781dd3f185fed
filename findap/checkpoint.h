// checkpoint.h: the whole state of a training run on disk, such that a kill, a crash or a full disk at any instant loses at
// most the steps since the last checkpoint, and a resumed run goes on bit for bit - on this number of ranks or another.
//
//     OUT/checkpoints/step_00000100/state.safetensors   param.* in fp32; m.*, v.*, the optimizer's moments, in fp32 or as they are kept (bf16)
//                                   manifest.json       cursor, AdamW's t, counters, dev losses, hashes of all that must be the same
//
// Several ranks write at the same time, each what it owns (model_owned), to its own state-00002-of-00008.safetensors: whole tensors as with one
// rank, parts of tensors as NAME[begin:end], one-dimensional. Replicas, which own the same, write each a part of it. Reading asks which numbers
// are where, never how many ranks there were.
//
// A thread copies the state to host memory while the next step's forward and backward passes run, which change none of it - only the update after
// them waits for the copy (checkpoint_copied) -, writes it to step_N.tmp, syncs it, reads it back; when every rank's has (checkpoint_poll) rank 0
// writes the manifest, syncs the directory, renames it, syncs the parent: under its name a checkpoint is whole or not there. Old ones are
// deleted after that. Damage that comes later (a truncated copy, a flipped bit) is found by the XXH3 of the files and of the manifest;
// --resume then warns and takes the one before.
#ifndef FINDAP_CHECKPOINT_H
#define FINDAP_CHECKPOINT_H
#include "json.h"          // defines: json_parse_file
#include "log.h"           // defines: FINDAP_COMMIT
#include "model.h"         // defines: Model, Comm, model_owned, model_replicas, model_get_owned, model_put_owned
#include "model_dir.h"     // defines: tensor_hf_name, tensor_numbers, tensor_layers
#include "safetensors.h"   // defines: SafetensorsWriter, safetensors_open, json_bounded
#include <dirent.h>
#include <stddef.h>          // defines: offsetof
#include <sys/statvfs.h>     // defines: statvfs
#include <unistd.h>          // defines: usleep

typedef struct { int64_t stage, step; double loss; } DevPoint;

// everything of a run that is not in the model: what to read next, and what has been
typedef struct {
    int64_t step;                            // all steps done, over all stages
    int64_t stage, stage_step, epoch, row;   // the cursor: the next step's first row
    int64_t adam_t;                          // updates since the moments were zero
    int64_t tokens_total, trained_total, skipped_total, skipped_in_a_row;
    double best_dev;                         // of this stage; infinity: none
    int64_t best_dev_step, dev_without_gain; // evaluations since the best
    int64_t dev_stage_step;                  // the stage_step last evaluated, -1: none in this stage
    DevPoint *dev;
    int64_t num_dev;
} Progress;

FN void progress_dev_add(Progress *p, double loss) {
    p->dev = (DevPoint *)xrealloc(p->dev, p->num_dev + 1, sizeof(DevPoint));
    p->dev[p->num_dev].stage = p->stage;
    p->dev[p->num_dev].step = p->step;
    p->dev[p->num_dev++].loss = loss;
}

typedef struct { const char *key; size_t place; } ProgressField;
FN const ProgressField progress_fields[] = {
    {"step", offsetof(Progress, step)}, {"stage", offsetof(Progress, stage)}, {"stage_step", offsetof(Progress, stage_step)},
    {"epoch", offsetof(Progress, epoch)}, {"row", offsetof(Progress, row)}, {"adam_t", offsetof(Progress, adam_t)},
    {"tokens_total", offsetof(Progress, tokens_total)}, {"trained_targets_total", offsetof(Progress, trained_total)},
    {"skipped_steps_total", offsetof(Progress, skipped_total)}, {"skipped_steps_in_a_row", offsetof(Progress, skipped_in_a_row)},
    {"best_dev_step", offsetof(Progress, best_dev_step)}, {"dev_without_gain", offsetof(Progress, dev_without_gain)},
    {"dev_stage_step", offsetof(Progress, dev_stage_step)},
};
#define NUM_PROGRESS_FIELDS ((int)(sizeof progress_fields / sizeof progress_fields[0]))

FN json_t *progress_to_json(const Progress *p) {
    json_t *j = json_object(), *dev = json_array();
    for (int i = 0; i < NUM_PROGRESS_FIELDS; i++)
        json_object_set_new(j, progress_fields[i].key, json_integer(*(const int64_t *)((const char *)p + progress_fields[i].place)));
    json_object_set_new(j, "best_dev_loss", isfinite(p->best_dev) ? json_real(p->best_dev) : json_null());
    for (int64_t i = 0; i < p->num_dev; i++)
        json_array_append_new(dev, json_pack("[I,I,o]", (json_int_t)p->dev[i].stage, (json_int_t)p->dev[i].step, isfinite(p->dev[i].loss) ? json_real(p->dev[i].loss) : json_null()));
    json_object_set_new(j, "dev_history_stage_step_loss", dev);
    return j;
}

FN bool progress_from_json(const json_t *j, const char *where, Progress *p, Error *e) {
    memset(p, 0, sizeof *p);
    p->best_dev = INFINITY;
    for (int i = 0; i < NUM_PROGRESS_FIELDS; i++)
        if (!json_get_int(j, progress_fields[i].key, where, true, -1, INT64_MAX, (int64_t *)((char *)p + progress_fields[i].place), e)) return false;
    if (!json_get_double(j, "best_dev_loss", where, false, -1e300, 1e300, &p->best_dev, e)) return false;
    const json_t *dev = json_object_get(j, "dev_history_stage_step_loss");
    for (size_t i = 0; i < json_array_size(dev); i++) {
        const json_t *point = json_array_get(dev, i), *loss = json_array_get(point, 2);
        int64_t step = p->step, stage = p->stage;
        p->step = (int64_t)json_integer_value(json_array_get(point, 1));
        p->stage = (int64_t)json_integer_value(json_array_get(point, 0));
        progress_dev_add(p, json_is_null(loss) ? NAN : json_number_value(loss));
        p->step = step; p->stage = stage;
    }
    return true;
}

// the first place where two settings differ, as "stages[0].lr: 1e-3, was 2e-3"; false when they are equal
FN bool json_difference(const json_t *now, const json_t *then, const char *path, char *out, size_t size) {
    if (json_equal(now, then)) return false;
    if (json_is_object(now) && json_is_object(then)) {
        const char *key;
        json_t *value;
        for (int side = 0; side < 2; side++) {
            json_object_foreach((json_t *)(side ? then : now), key, value) {
                char below[256];
                snprintf(below, sizeof below, "%s%s%s", path, *path ? "." : "", key);
                if (json_difference(json_object_get(now, key), json_object_get(then, key), below, out, size)) return true;
            }
        }
    }
    if (json_is_array(now) && json_is_array(then) && json_array_size(now) == json_array_size(then)) {
        for (size_t i = 0; i < json_array_size(now); i++) {
            char below[256];
            snprintf(below, sizeof below, "%s[%zu]", path, i);
            if (json_difference(json_array_get(now, i), json_array_get(then, i), below, out, size)) return true;
        }
    }
    char *a = now ? json_dumps(now, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
    char *b = then ? json_dumps(then, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : NULL;
    snprintf(out, size, "%s is %.100s, was %.100s", path, a ? a : "not there", b ? b : "not there");
    free(a);
    free(b);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// directories

// removes a directory and the files in it (one level: checkpoints and model directories have no more)
FN void remove_directory(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        char *file = path_join(path, entry->d_name);
        unlink(file);
        free(file);
    }
    if (d) closedir(d);
    rmdir(path);
}

// suffix: "" committed; ".tmp" being written; ".old" given up, being deleted
FN char *checkpoint_path(const char *out, int64_t step, const char *suffix) { return xprintf("%s/checkpoints/step_%08" PRId64 "%s", out, step, suffix); }

FN int compare_newest_first(const void *a, const void *b) { int64_t x = *(const int64_t *)a, y = *(const int64_t *)b; return x < y ? 1 : x > y ? -1 : 0; }

// the steps of the checkpoints in OUT, newest first; remove_unfinished also removes what a killed run left half-written or half-deleted
FN int64_t *checkpoint_list(const char *out, bool remove_unfinished, int64_t *n) {
    char *directory = path_join(out, "checkpoints");
    int64_t *steps = NULL;
    *n = 0;
    DIR *d = opendir(directory);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        long long step = 0;
        int end = 0;
        if (sscanf(entry->d_name, "step_%lld%n", &step, &end) != 1 || step < 0) continue;
        const char *suffix = entry->d_name + end;
        if (*suffix == 0) {
            steps = (int64_t *)xrealloc(steps, *n + 1, sizeof(int64_t));
            steps[(*n)++] = step;
        } else if (remove_unfinished && (strcmp(suffix, ".tmp") == 0 || strcmp(suffix, ".old") == 0)) {
            char *path = path_join(directory, entry->d_name);
            remove_directory(path);
            free(path);
        }
    }
    if (d) closedir(d);
    free(directory);
    if (steps) qsort(steps, (size_t)*n, sizeof(int64_t), compare_newest_first);
    return steps;
}

// ---------------------------------------------------------------------------------------------------------------
// the state: every tensor of the model's table that is trained, three times, in slices. What is frozen (LoRA's base) comes from --model, and the
// run's identity says that it is the same.

FN const TensorKind state_kinds[3] = {KIND_PARAM, KIND_MOMENT1, KIND_MOMENT2};
FN const char *const state_prefixes[3] = {"param.", "m.", "v."};

// numbers [begin, end) of one tensor of one layer, and where they are. Sorted by the first four members.
typedef struct {
    int32_t kind, tensor, layer;   // kind: index into state_kinds
    int32_t file;                  // reading: index into the manifest's files
    int64_t size;                  // of a number in the file: 4 (fp32) or 2 (bf16)
    int64_t begin, end;
    int64_t place;                 // writing: in the payload, in bytes; reading: in the file
} StateSlice;

// "m.model.norm.weight": the caller frees it
FN char *tensor_state_name(const Tensor *t, int64_t layer, const char *prefix) {
    char name[128];
    tensor_hf_name(t, layer, name, sizeof name);
    return xprintf("%s%s", prefix, name);
}
FN void tensor_declare(SafetensorsWriter *w, const Tensor *t, int64_t layer, const char *prefix, Dtype dtype) {
    int64_t shape[2] = {t->rows, t->cols};
    char *name = tensor_state_name(t, layer, prefix);
    if (t->rows) safetensors_writer_tensor(w, name, dtype, 2, shape);
    else safetensors_writer_tensor(w, name, dtype, 1, shape + 1);
    free(name);
}
FN char *slice_name(const Model *m, const StateSlice *s) {
    const Tensor *t = model_tensor(m, s->tensor);
    char *whole = tensor_state_name(t, s->layer, state_prefixes[s->kind]);
    if (s->begin == 0 && s->end == tensor_numbers(t)) return whole;
    char *name = xprintf("%s[%" PRId64 ":%" PRId64 "]", whole, s->begin, s->end);
    free(whole);
    return name;
}

FN int64_t slice_bytes(const StateSlice *s) { return (s->end - s->begin) * s->size; }
FN Dtype slice_dtype(const StateSlice *s) { return s->size == 2 ? DTYPE_BF16 : DTYPE_F32; }

// all that `owned` (this rank) or everyone has: a table in the order kind, tensor, layer
FN StateSlice *state_slices(const Model *m, bool owned, int64_t *n) {
    int64_t most = 0, place = 0;
    for (int i = 0; i < model_num_tensors(m); i++) most += 3 * tensor_layers(m, model_tensor(m, i));
    StateSlice *all = (StateSlice *)xcalloc(most, sizeof(StateSlice));
    *n = 0;
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < model_num_tensors(m); i++) {
            if (model_tensor(m, i)->frozen) continue;
            int64_t begin = 0, end = tensor_numbers(model_tensor(m, i));
            if (owned) model_owned(m, i, &begin, &end);
            CHECK(0 <= begin && begin <= end && end <= tensor_numbers(model_tensor(m, i)));
            for (int64_t l = 0; l < tensor_layers(m, model_tensor(m, i)) && begin < end; l++) {
                StateSlice *s = &all[(*n)++];
                s->kind = k; s->tensor = i; s->layer = (int32_t)l;
                s->begin = begin; s->end = end;
                s->size = model_copy_is_bf16(m, state_kinds[k]) ? 2 : 4;
                s->place = place;
                place += slice_bytes(s);
            }
        }
    return all;
}
FN int64_t state_bytes(const StateSlice *s, int64_t n) { return n ? s[n - 1].place + slice_bytes(&s[n - 1]) : 0; }
FN int64_t state_largest(const StateSlice *s, int64_t n) {   // in numbers
    int64_t largest = 0;
    for (int64_t i = 0; i < n; i++) if (s[i].end - s[i].begin > largest) largest = s[i].end - s[i].begin;
    return largest;
}

// Of the slices that all replicas own, those that this one writes: a run of them, by where their middle lies among the bytes. Every slice has one writer.
FN void state_spread(const Comm *replicas, StateSlice *s, int64_t *n) {
    int64_t total = state_bytes(s, *n), kept = 0, place = 0;
    for (int64_t i = 0; i < *n; i++) {
        int64_t bytes = slice_bytes(&s[i]);
        if ((s[i].place + bytes / 2) / ((total + replicas->size - 1) / replicas->size) != replicas->rank) continue;
        s[kept] = s[i];
        s[kept++].place = place;
        place += bytes;
    }
    *n = kept;
}

// Have all replicas the same bits of what they own? Collective; at once true where there are none. If not, all get the error. What it costs, a
// copy to the host (50 GB/s) and a hash (20 GB/s) of 12 bytes a number owned, comes to a second for an eighth of 8B parameters: 0.2 % of 500 steps.
FN bool state_same(Model *m, Error *e) {
    Comm *replicas = model_replicas(m);
    int64_t n;
    if (replicas->size == 1) return true;
    StateSlice *s = state_slices(m, true, &n);
    float *scratch = (float *)model_host_alloc(state_largest(s, n) * (int64_t)sizeof(float) + 1);
    XXH3_state_t *state = XXH3_createState();
    CHECK(state && XXH3_128bits_reset(state) == XXH_OK);
    for (int64_t i = 0; i < n; i++) {
        model_get_owned(m, state_kinds[s[i].kind], s[i].tensor, s[i].layer, scratch);
        model_wait(m);
        XXH3_128bits_update(state, scratch, (size_t)((s[i].end - s[i].begin) * (int64_t)sizeof(float)));
    }
    Hash mine = hash_digest(XXH3_128bits_digest(state)), *all = (Hash *)xcalloc(replicas->size, sizeof(Hash));
    XXH3_freeState(state);
    model_host_free(scratch);
    free(s);
    comm_gather_bytes(replicas, &mine, all, (int64_t)sizeof mine, "comparing replicas", true);
    int other = 0;
    for (int r = replicas->size - 1; r > 0; r--) if (strcmp(all[r].hex, all[0].hex) != 0) other = r;
    free(all);
    bool ok = other == 0 || fail(e, "rank %d has other weights or moments than rank %d, whose replica it is ---> have all hosts the same --model? If so, a GPU or its memory may be failing; "
                                    "the same command with --resume goes on from the last checkpoint", comm_job_rank(replicas, other), comm_job_rank(replicas, 0));
    return comm_agree(model_comm(m), ok, e, "comparing replicas");
}

enum { STATE_NAME_SIZE = 48, MAX_STATE_FILES = 99999 };
FN void state_file_name(int64_t rank, int64_t size, char *name) {   // STATE_NAME_SIZE characters
    if (size == 1) snprintf(name, STATE_NAME_SIZE, "state.safetensors");
    else snprintf(name, STATE_NAME_SIZE, "state-%05" PRId64 "-of-%05" PRId64 ".safetensors", rank + 1, size);
}

// ---------------------------------------------------------------------------------------------------------------
// files that are on the disk: every byte hashed on its way out, synced, read back and compared. Written with plain system calls and
// each one checked; they live in step_N.tmp, whose rename makes them appear.

enum { CHECKPOINT_CHUNK = 8 << 20 };

typedef struct { int fd; const char *path; XXH3_state_t *hash; int64_t bytes; const int *cancel; } DurableFile;

FN bool durable_open(DurableFile *f, const char *path, const int *cancel, Error *e) {
    memset(f, 0, sizeof *f);
    f->path = path;
    f->cancel = cancel;
    f->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f->fd < 0) return fail(e, "%s: cannot be written: %s ---> is the disk full, and is it one that every host sees?", path, strerror(errno));
    f->hash = XXH3_createState();
    CHECK(f->hash && XXH3_128bits_reset(f->hash) == XXH_OK);
    return true;
}
FN bool durable_put(DurableFile *f, const void *data, int64_t n, Error *e) {
    const uint8_t *p = (const uint8_t *)data;
    XXH3_128bits_update(f->hash, p, (size_t)n);
    while (n > 0) {
        if (f->cancel && __atomic_load_n(f->cancel, __ATOMIC_ACQUIRE)) return fail(e, "%s: given up", f->path);
        ssize_t k = write(f->fd, p, (size_t)(n < (int64_t)CHECKPOINT_CHUNK ? n : (int64_t)CHECKPOINT_CHUNK));
        if (k < 0 && errno == EINTR) continue;
        if (k <= 0) return fail(e, "%s: write failed: %s ---> is the disk full?", f->path, strerror(k < 0 ? errno : ENOSPC));
        p += k; n -= k; f->bytes += k;
    }
    return true;
}
// Synced, and dropped from memory as far as the system can, so that what is read back comes from the disk. Closes the file in any case.
FN bool durable_close(DurableFile *f, Hash *hash, Error *e) {
    bool ok = fsync(f->fd) == 0 ? true : fail(e, "%s: cannot be synced: %s ---> is the disk full, or failing?", f->path, strerror(errno));
    *hash = hash_digest(XXH3_128bits_digest(f->hash));
    uint8_t *chunk = ok ? (uint8_t *)malloc(CHECKPOINT_CHUNK) : NULL;
    if (ok && !chunk) ok = fail(e, "%s: no memory to read it back", f->path);
    if (ok) posix_fadvise(f->fd, 0, 0, POSIX_FADV_DONTNEED);
    if (ok && lseek(f->fd, 0, SEEK_SET) != 0) ok = fail(e, "%s: cannot be read back: %s", f->path, strerror(errno));
    int64_t bytes = 0;
    XXH3_128bits_reset(f->hash);
    while (ok) {
        if (f->cancel && __atomic_load_n(f->cancel, __ATOMIC_ACQUIRE)) { ok = fail(e, "%s: given up", f->path); break; }
        ssize_t k = read(f->fd, chunk, CHECKPOINT_CHUNK);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) ok = fail(e, "%s: cannot be read back: %s ---> is the disk failing?", f->path, strerror(errno));
        if (k <= 0) break;
        XXH3_128bits_update(f->hash, chunk, (size_t)k);
        bytes += k;
    }
    if (ok && (bytes != f->bytes || strcmp(hash->hex, hash_digest(XXH3_128bits_digest(f->hash)).hex) != 0))
        ok = fail(e, "%s: what was read back is not what was written ---> is the disk failing?", f->path);
    free(chunk);
    XXH3_freeState(f->hash);
    if (close(f->fd) != 0 && ok) ok = fail(e, "%s: cannot be closed: %s", f->path, strerror(errno));
    return ok;
}
FN void durable_abandon(DurableFile *f) { XXH3_freeState(f->hash); close(f->fd); }

// ---------------------------------------------------------------------------------------------------------------
// the manifest

// The manifest carries the hash of its own text, computed with zeros in the hash's place; this swaps zeros in and returns what
// stood there (32 digits, to be freed), or NULL where the text has no such field.
FN char *manifest_take_hash(char *text) {
    static const char field[] = "\"manifest_hash\": \"";
    char *p = strstr(text, field);
    if (!p || strlen(p) < sizeof field - 1 + 32) return NULL;
    p += sizeof field - 1;
    char *stood = xprintf("%.32s", p);
    memset(p, '0', 32);
    return stood;
}
FN void manifest_put_hash(char *text) {
    free(manifest_take_hash(text));
    Hash h = hash_bytes(text, (int64_t)strlen(text));
    memcpy(strstr(text, "\"manifest_hash\": \"") + strlen("\"manifest_hash\": \""), h.hex, 32);
}

enum { MAX_MANIFEST = 64 << 20 };

// The manifest's text, to be freed, when it is what was written, else NULL.
FN char *manifest_text(const char *path, int64_t *size, Error *e) {
    Mapped m;
    if (!map_file(path, &m, e)) return NULL;
    char *text = NULL;
    *size = m.size;
    if (m.size > MAX_MANIFEST) fail(e, "%s: is %" PRId64 " bytes, expected at most %d", path, m.size, MAX_MANIFEST);
    else {
        text = (char *)xmalloc(m.size + 1);
        memcpy(text, m.size ? (const char *)m.data : "", (size_t)m.size);
        text[m.size] = 0;
    }
    unmap_file(&m);
    if (!text) return NULL;
    char *want = manifest_take_hash(text);
    bool ok = want && strcmp(want, hash_bytes(text, *size).hex) == 0;
    if (!ok) fail(e, "%s: its hash does not match", path);
    ok = ok && json_bounded(path, text, *size, 64, MAX_HEADER_OBJECTS, e);
    free(want);
    if (ok) return text;
    free(text);
    return NULL;
}

// rank 0 reads it, all get it: collective
FN json_t *manifest_read(Comm *c, const char *path, Error *e) {
    int64_t size = 0;
    char *text = c->rank == 0 ? manifest_text(path, &size, e) : NULL;
    if (!comm_agree(c, c->rank != 0 || text, e, "reading a checkpoint's manifest")) return NULL;
    comm_broadcast(c, &size, (int64_t)sizeof size, 0, "a checkpoint's manifest");
    if (c->rank != 0) text = (char *)xmalloc(size + 1);
    comm_broadcast(c, text, size, 0, "a checkpoint's manifest");
    json_t *j = json_parse(path, text, size, e);
    free(text);
    return j;
}

typedef struct { char name[STATE_NAME_SIZE]; int64_t bytes; Hash hash; } StateFile;   // bytes -1: the manifest does not say (format 1)

// the files that the manifest names, one a rank of the run that wrote it; NULL with an error
FN StateFile *manifest_files(const json_t *j, const char *where, int *n, Error *e) {
    const char *format = NULL, *text = NULL;
    if (!json_get_string(j, "format", where, true, &format, e)) return NULL;
    if (strcmp(format, "findap-checkpoint-1") == 0) {   // as written until there were several ranks
        if (!json_get_string(j, "state_hash", where, true, &text, e)) return NULL;
        if (strlen(text) != 32) { fail(e, "%s: \"state_hash\" is not a hash", where); return NULL; }
        StateFile *file = (StateFile *)xcalloc(1, sizeof(StateFile));
        state_file_name(0, 1, file->name);
        file->bytes = -1;
        memcpy(file->hash.hex, text, 33);
        *n = 1;
        return file;
    }
    if (strcmp(format, "findap-checkpoint-2") != 0) { fail(e, "%s: \"format\" is \"%.40s\", expected findap-checkpoint-1 or -2 ---> was it written by a newer findap?", where, format); return NULL; }
    const json_t *list = json_object_get(j, "files");
    if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > MAX_STATE_FILES) {
        fail(e, "%s: \"files\" is %s, expected a list of 1 to %d files", where, json_is_array(list) ? "a list of another length" : json_type_name(list), MAX_STATE_FILES);
        return NULL;
    }
    *n = (int)json_array_size(list);
    StateFile *files = (StateFile *)xcalloc(*n, sizeof(StateFile));
    for (int i = 0; i < *n; i++) {
        const json_t *f = json_array_get(list, (size_t)i);
        state_file_name(i, *n, files[i].name);   // a name that comes from a file opens nothing: it must be the one that we would have given
        if (!json_get_string(f, "name", where, true, &text, e)) break;
        if (strcmp(text, files[i].name) != 0) { fail(e, "%s: \"files\" has \"%.100s\" where %s belongs: it was written by %d ranks ---> was it put together from two checkpoints?", where, text, files[i].name, *n); break; }
        if (!json_get_int(f, "bytes", where, true, 0, INT64_MAX, &files[i].bytes, e) || !json_get_string(f, "hash", where, true, &text, e)) break;
        if (strlen(text) != 32) { fail(e, "%s: the hash of %s is not a hash", where, files[i].name); break; }
        memcpy(files[i].hash.hex, text, 33);
        if (i + 1 == *n) return files;
    }
    free(files);
    return NULL;
}

// ---------------------------------------------------------------------------------------------------------------
// writing

// One per run; zeros to begin with. Of use to the caller: the members up to `memory_limit`.
typedef struct {
    bool pending;                // a save is begun, and neither committed nor given up
    int64_t step;                // the one that is pending, or was last
    int64_t commits, committed_step;   // how many have been committed; the newest of them
    int64_t bytes;               // of the last save, all ranks
    double begun, blocked;       // when (seconds_now); for how long training stood still
    double waited;               // and, besides, until the disk had this one, since the next was due
    double seconds;              // from begun to the commit
    int64_t memory_limit;        // for tests: bytes that the host copy may take, 0: what the machine has, -1: none
    // of this rank
    Model *model;
    StateSlice *slices;          // what it writes: what it owns, or its part of what it and its replicas own
    int64_t num_slices, payload, header_bytes;
    uint8_t *header;             // of its file, without the data
    uint8_t *host;               // the copy that the thread writes from: payload bytes, kept until the end; NULL: none
    bool host_tried, in_pieces;  // in_pieces: some rank has no host copy and writes while training waits
    // the save that is pending
    char *out, *path;
    int64_t keep;
    json_t *progress, *identity;
    pthread_t thread;
    bool threaded, ok;
    int copied, done, cancel;    // read and written by both threads, with __atomic
    Hash hash;
    Error error;
    // the deletion of old ones, on rank 0
    pthread_t cleaner;
    bool cleaning;
} CheckpointWriter;

FN void checkpoint_tables(CheckpointWriter *w, Model *m) {
    CHECK(!w->model || w->model == m);
    if (w->model) return;
    w->model = m;
    w->slices = state_slices(m, true, &w->num_slices);
    state_spread(model_replicas(m), w->slices, &w->num_slices);
    w->payload = state_bytes(w->slices, w->num_slices);
    SafetensorsWriter *s = safetensors_writer_new("checkpoint");
    safetensors_writer_metadata(s, "format", "findap-state-1");
    for (int64_t i = 0; i < w->num_slices; i++) {
        const StateSlice *slice = &w->slices[i];
        const Tensor *t = model_tensor(m, slice->tensor);
        int64_t count = slice->end - slice->begin;
        if (count == tensor_numbers(t)) { tensor_declare(s, t, slice->layer, state_prefixes[slice->kind], slice_dtype(slice)); continue; }
        char *name = slice_name(m, slice);
        safetensors_writer_tensor(s, name, slice_dtype(slice), 1, &count);
        free(name);
    }
    Error e;
    w->header = safetensors_writer_header(s, &w->header_bytes, &e);
    if (!w->header) die("%s", e.text);
    safetensors_writer_free(s);
}

// what follows `key` in a file of /proc or /sys, times unit; key "": the number that the file begins with; -1: not there
FN int64_t system_number(const char *path, const char *key, int64_t unit) {
    FILE *f = fopen(path, "re");
    char line[256];
    int64_t value = -1;
    while (f && value < 0 && fgets(line, sizeof line, f)) {
        char *end;
        if (strncmp(line, key, strlen(key)) != 0) continue;
        long long v = strtoll(line + strlen(key), &end, 10);
        if (end == line + strlen(key) || v < 0 || v > INT64_MAX / unit) break;   // "max"
        value = (int64_t)v * unit;
    }
    if (f) fclose(f);
    return value;
}
// Memory that can be taken without anything being killed. The number of free pages would not do: after a day of reading data the page
// cache has them all, and gives them back when asked. A container's own limit counts too.
FN int64_t host_memory_free(void) {
    int64_t bytes = system_number("/proc/meminfo", "MemAvailable:", 1024);
    if (bytes < 0) bytes = (int64_t)sysconf(_SC_AVPHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    static const char *const limits[2][4] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat", "file "},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes", "/sys/fs/cgroup/memory/memory.stat", "cache "}};
    for (int i = 0; i < 2; i++) {
        int64_t limit = system_number(limits[i][0], "", 1), used = system_number(limits[i][1], "", 1), cache = system_number(limits[i][2], limits[i][3], 1);
        if (limit < 0 || used < 0) continue;
        int64_t left = limit - used + (cache > 0 ? cache : 0);
        if (left < bytes) bytes = left;
    }
    return bytes;
}

// Takes the host memory for checkpoints that are written while training goes on: for every number that this rank writes 12 bytes (fp32
// parameter, m and v; 8B parameters on one rank: 96 GB, on eight: 12 GB each) or, with moments in bf16, 8. Collective. checkpoint_begin does it when it needs to; a
// program that calls it before its first step has it paid for there, since pinning memory for a GPU takes seconds.
FN void checkpoint_prepare(CheckpointWriter *w, Model *m) {
    checkpoint_tables(w, m);
    if (w->host_tried) return;
    w->host_tried = true;
    typedef struct { char host[64]; int64_t bytes; } Need;   // ranks of one host share its memory
    Comm *c = model_comm(m);
    Need mine, *all = (Need *)xcalloc(c->size, sizeof(Need));
    memset(&mine, 0, sizeof mine);
    if (gethostname(mine.host, sizeof mine.host - 1) != 0) mine.host[0] = 0;
    mine.bytes = w->payload;
    comm_gather_bytes(c, &mine, all, (int64_t)sizeof mine, "memory for checkpoints", true);
    double needed = 0, has = (double)(w->memory_limit > 0 ? w->memory_limit : w->memory_limit < 0 ? 0 : host_memory_free());
    for (int r = 0; r < c->size; r++) if (strcmp(all[r].host, mine.host) == 0) needed += (double)all[r].bytes;
    free(all);
    bool enough = needed * 1.0625 <= has;   // a sixteenth for everyone else
    w->in_pieces = comm_max_i64(c, !enough, "memory for checkpoints") != 0;   // also lets everyone have read what is free before anybody takes it
    if (enough) w->host = (uint8_t *)model_host_alloc(w->payload ? w->payload : 1);
    else if (c->local_rank == 0)
        warn("checkpoints need a copy of %.1f GiB in this host's memory, %.1f GiB are free ---> training will wait while they are written", needed / 1073741824, has / 1073741824);
    comm_agree(c, true, NULL, "memory for checkpoints");
}

// From the model to w->host. False: given up
FN bool checkpoint_copy(CheckpointWriter *w) {
    for (int64_t i = 0; i < w->num_slices; i++) {
        if (__atomic_load_n(&w->cancel, __ATOMIC_ACQUIRE)) return fail(&w->error, "%s: given up", w->path);
        model_copy_owned(w->model, state_kinds[w->slices[i].kind], w->slices[i].tensor, w->slices[i].layer, w->host + w->slices[i].place);
    }
    return true;
}

// writes this rank's file: from w->host, or piece by piece from the model
FN bool checkpoint_write(CheckpointWriter *w, bool from_host, Error *e) {
    DurableFile f;
    if (!durable_open(&f, w->path, &w->cancel, e)) return false;
    bool ok = durable_put(&f, w->header, w->header_bytes, e);
    if (from_host) ok = ok && durable_put(&f, w->host, w->payload, e);
    else {
        void *scratch = xmalloc(state_largest(w->slices, w->num_slices) * (int64_t)sizeof(float));
        for (int64_t i = 0; i < w->num_slices && ok; i++) {
            const StateSlice *s = &w->slices[i];
            model_copy_owned(w->model, state_kinds[s->kind], s->tensor, s->layer, scratch);
            ok = durable_put(&f, scratch, slice_bytes(s), e);
        }
        free(scratch);
    }
    if (ok) return durable_close(&f, &w->hash, e);
    durable_abandon(&f);
    return false;
}

FN void *checkpoint_thread(void *argument) {
    CheckpointWriter *w = (CheckpointWriter *)argument;
    w->ok = checkpoint_copy(w);
    __atomic_store_n(&w->copied, 1, __ATOMIC_RELEASE);
    w->ok = w->ok && checkpoint_write(w, true, &w->error);
    __atomic_store_n(&w->done, 1, __ATOMIC_RELEASE);
    return NULL;
}

// To be called before every update: waits until the state that it changes has been copied
FN void checkpoint_copied(CheckpointWriter *w) {
    if (!w->pending || __atomic_load_n(&w->copied, __ATOMIC_ACQUIRE)) return;
    double begin = seconds_now();
    comm_wait_begin(model_comm(w->model), "the copy for the checkpoint", false);
    while (!__atomic_load_n(&w->copied, __ATOMIC_ACQUIRE)) usleep(200);
    comm_wait_end(model_comm(w->model));
    w->blocked += seconds_now() - begin;
}

// Signals go to the thread that trains. False: there is no thread to be had.
FN bool checkpoint_start_thread(pthread_t *thread, void *(*work)(void *), CheckpointWriter *w) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = pthread_create(thread, NULL, work, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
}

FN void *checkpoint_clean(void *argument) {   // deletes what was given up; a file of 96 GB can take a second
    CheckpointWriter *w = (CheckpointWriter *)argument;
    char *directory = path_join(w->out, "checkpoints");
    DIR *d = opendir(directory);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        size_t length = strlen(entry->d_name);
        if (strncmp(entry->d_name, "step_", 5) != 0 || length < 4 || strcmp(entry->d_name + length - 4, ".old") != 0) continue;
        char *path = path_join(directory, entry->d_name);
        remove_directory(path);
        free(path);
    }
    if (d) closedir(d);
    free(directory);
    return NULL;
}
FN void checkpoint_join_cleaner(CheckpointWriter *w) {
    if (w->cleaning) pthread_join(w->cleaner, NULL);
    w->cleaning = false;
}

FN char *checkpoint_manifest(const CheckpointWriter *w, const StateFile *files, int n) {
    json_t *j = json_object(), *list = json_array();
    json_object_set_new(j, "format", json_string("findap-checkpoint-2"));
    json_object_set_new(j, "commit", json_string(FINDAP_COMMIT));
    json_object_set(j, "progress", w->progress);
    json_object_set(j, "identity", w->identity);
    for (int i = 0; i < n; i++) {
        json_t *f = json_object();
        json_object_set_new(f, "name", json_string(files[i].name));
        json_object_set_new(f, "bytes", json_integer(files[i].bytes));
        json_object_set_new(f, "hash", json_string(files[i].hash.hex));
        json_array_append_new(list, f);
    }
    json_object_set_new(j, "files", list);
    json_object_set_new(j, "manifest_hash", json_string("00000000000000000000000000000000"));
    char *text = json_dumps(j, JSON_INDENT(1) | JSON_SORT_KEYS);
    json_decref(j);
    CHECK(text);
    manifest_put_hash(text);
    return text;
}

// Rank 0, when every rank's file is on the disk: manifest, rename; then the old ones are given up.
FN bool checkpoint_commit(CheckpointWriter *w, const StateFile *files, int n, bool wait, Error *e) {
    char *final = checkpoint_path(w->out, w->step, ""), *temporary = checkpoint_path(w->out, w->step, ".tmp"), *replaced = checkpoint_path(w->out, w->step, ".old");
    char *manifest = path_join(temporary, "manifest.json"), *text = checkpoint_manifest(w, files, n), *directory = path_join(w->out, "checkpoints");
    bool ok = true;
    Hash ignored;
    for (int i = 0; i < n && ok; i++) {
        char *path = path_join(temporary, files[i].name);
        struct stat st;
        if (stat(path, &st) != 0) ok = fail(e, "%s: is not seen by rank 0: %s ---> --out must be on a disk that all hosts share", path, strerror(errno));
        else if ((int64_t)st.st_size != files[i].bytes) ok = fail(e, "%s: rank %d wrote %" PRId64 " bytes, rank 0 sees %" PRId64, path, i, files[i].bytes, (int64_t)st.st_size);
        free(path);
    }
    DurableFile f;
    ok = ok && durable_open(&f, manifest, NULL, e);
    if (ok) {
        ok = durable_put(&f, text, (int64_t)strlen(text), e);
        if (ok) ok = durable_close(&f, &ignored, e); else durable_abandon(&f);
    }
    ok = ok && sync_directory_of(manifest, e);
    bool there = ok && file_exists(final);   // a damaged one of the same step, that --resume stepped over: aside, so that it can come back
    if (there) {
        remove_directory(replaced);
        if (rename(final, replaced) != 0) ok = fail(e, "%s: cannot be renamed: %s", final, strerror(errno));
    }
    if (ok && rename(temporary, final) != 0) {
        ok = fail(e, "%s: cannot be renamed: %s", temporary, strerror(errno));
        if (there && rename(replaced, final) != 0) warn("%s: cannot be renamed back: %s", replaced, strerror(errno));
    }
    ok = ok && sync_directory_of(final, e) && sync_directory_of(directory, e);   // the second: `checkpoints` itself may be new
    int64_t kept = 0, later = 0, *steps = ok ? checkpoint_list(w->out, false, &kept) : NULL;
    while (later < kept && steps[later] > w->step) later++;   // damaged ones, which --resume stepped over: they are none of those to keep
    for (int64_t i = later + w->keep; i < kept; i++) {   // renamed first: one that is deleted by half must not be found under its name
        char *old = checkpoint_path(w->out, steps[i], ""), *aside = checkpoint_path(w->out, steps[i], ".old");
        if (rename(old, aside) != 0) remove_directory(old);
        free(old); free(aside);
    }
    if (ok && (there || kept - later > w->keep)) {
        w->cleaning = !wait && checkpoint_start_thread(&w->cleaner, checkpoint_clean, w);
        if (!w->cleaning) checkpoint_clean(w);
    }
    free(steps); free(directory); free(text); free(manifest); free(replaced); free(temporary); free(final);
    return ok;
}

FN void checkpoint_forget(CheckpointWriter *w) {   // what belongs to one save
    checkpoint_join_cleaner(w);
    free(w->out); free(w->path);
    json_decref(w->progress);
    json_decref(w->identity);
    w->out = w->path = NULL;
    w->progress = w->identity = NULL;
}

// Called at the end of every step: when the pending save is on the disk of every rank it is committed. wait: until it is. Collective while
// a save is pending, else returns at once. False: the save failed on some rank and is given up; all ranks get the error of the first
// that has one, the checkpoints that were there before are still there, and the next save may be begun.
FN bool checkpoint_poll(CheckpointWriter *w, bool wait, bool *committed, Error *e) {
    if (committed) *committed = false;
    if (!w->pending) return true;
    Comm *c = model_comm(w->model);
    if (!wait && comm_max_i64(c, !__atomic_load_n(&w->done, __ATOMIC_ACQUIRE), "is the checkpoint written?") != 0) return true;
    double begin = seconds_now();
    const bool late = wait && w->threaded;   // the next is due, or the run at its end
    if (w->threaded) pthread_join(w->thread, NULL);
    w->threaded = w->pending = false;
    Error why = w->error;
    bool ok = comm_agree(c, w->ok, &why, "the checkpoint's files");
    if (ok) {
        StateFile mine, *all = (StateFile *)xcalloc(c->size, sizeof(StateFile));
        memset(&mine, 0, sizeof mine);
        state_file_name(c->rank, c->size, mine.name);
        mine.bytes = w->header_bytes + w->payload;
        mine.hash = w->hash;
        comm_gather_bytes(c, &mine, all, (int64_t)sizeof mine, "the checkpoint's hashes", false);
        ok = comm_agree(c, c->rank != 0 || checkpoint_commit(w, all, c->size, wait, &why), &why, "the checkpoint's commit");
        free(all);
    }
    if (!ok && c->rank == 0) {
        char *temporary = checkpoint_path(w->out, w->step, ".tmp");
        remove_directory(temporary);
        free(temporary);
    }
    if (ok) { w->commits++; w->committed_step = w->step; }
    if (ok && committed) *committed = true;
    if (!ok && e) *e = why;
    *(late ? &w->waited : &w->blocked) += seconds_now() - begin;
    w->seconds = seconds_now() - w->begun;
    return ok;
}

// Begins a checkpoint of the state that m and p have now, under OUT/checkpoints/step_N; when it is committed all but the newest `keep` are
// deleted. `identity` is what --resume compares. Collective. A thread copies the state to host memory, which checkpoint_copied waits for, and writes
// it, and checkpoint_poll commits it. wait: writes and commits it here, and needs no host copy. No MPI in the thread. A save that
// is still being written is finished first; if it fails rank 0 warns.
FN bool checkpoint_begin(CheckpointWriter *w, const char *out, Model *m, const Progress *p, const json_t *identity, int64_t keep, bool wait, Error *e) {
    Comm *c = model_comm(m);
    Error why;
    if (!checkpoint_poll(w, true, NULL, &why) && c->rank == 0) warn("no checkpoint of step %" PRId64 ": %s", w->step, why.text);
    checkpoint_forget(w);
    w->begun = seconds_now();
    w->waited = 0;
    checkpoint_tables(w, m);
    char name[STATE_NAME_SIZE];
    state_file_name(c->rank, c->size, name);
    char *temporary = checkpoint_path(out, p->step, ".tmp");
    w->out = xstrdup(out);
    w->path = path_join(temporary, name);
    w->step = p->step;
    w->keep = keep;
    w->bytes = w->header_bytes + w->payload;
    comm_barrier(c, "the end of the last checkpoint", true);   // rank 0 may still delete an old one
    comm_sum_i64(c, &w->bytes, 1, "the checkpoint's size");
    bool ok = true;
    if (c->rank == 0) {
        struct statvfs disk;
        remove_directory(temporary);
        ok = make_directory(temporary, e);
        if (ok && statvfs(temporary, &disk) == 0 && (double)disk.f_bavail * (double)disk.f_frsize < (double)w->bytes + 4194304.0)
            ok = fail(e, "%s: %.1f MiB are needed, %.1f MiB are free ---> make room on the disk", temporary, (double)w->bytes / 1048576, (double)disk.f_bavail * (double)disk.f_frsize / 1048576);
        if (!ok) remove_directory(temporary);
    }
    free(temporary);
    if (!comm_agree(c, ok, e, "the checkpoint's directory")) return false;
    if (!wait) checkpoint_prepare(w, m);
    w->progress = progress_to_json(p);
    w->identity = json_deep_copy(identity);
    w->ok = false;
    w->copied = w->done = w->cancel = 0;
    w->error.text[0] = 0;
    w->pending = true;
    model_copy_begin(m);
    w->threaded = w->host && !wait && checkpoint_start_thread(&w->thread, checkpoint_thread, w);
    if (!w->threaded) {
        w->ok = checkpoint_write(w, false, &w->error);
        w->copied = w->done = 1;
    }
    if (!wait && w->in_pieces) comm_agree(c, true, NULL, "ranks without memory for a copy write their checkpoint");   // patient: the next collective may not be
    w->blocked = seconds_now() - w->begun;
    return wait ? checkpoint_poll(w, true, NULL, e) : true;
}

// Not collective with several ranks: a save that is still pending is then given up (a run that ends in good order has polled with `wait`); a
// single rank finishes it.
FN void checkpoint_free(CheckpointWriter *w) {
    Error e;
    if (w->pending && model_comm(w->model)->size == 1) {
        if (!checkpoint_poll(w, true, NULL, &e)) warn("no checkpoint of step %" PRId64 ": %s", w->step, e.text);
    } else if (w->threaded) {
        __atomic_store_n(&w->cancel, 1, __ATOMIC_RELEASE);
        pthread_join(w->thread, NULL);
    }
    checkpoint_forget(w);
    if (w->host) model_host_free(w->host);
    free(w->slices);
    free(w->header);
    memset(w, 0, sizeof *w);
}

// one checkpoint, begun and committed: collective
FN bool checkpoint_save(const char *out, Model *m, const Progress *p, const json_t *identity, int64_t keep, Error *e) {
    CheckpointWriter w;
    memset(&w, 0, sizeof w);
    bool ok = checkpoint_begin(&w, out, m, p, identity, keep, true, e);
    checkpoint_free(&w);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// reading

typedef enum { CHECKPOINT_LOADED, CHECKPOINT_DAMAGED, CHECKPOINT_OTHER } CheckpointResult;

FN bool state_check_file(const char *path, const StateFile *f, Error *e) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return fail(e, "%s: cannot be opened: %s", path, strerror(errno));
    struct stat st;
    bool ok = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) ? true : fail(e, "%s: is not a regular file", path);
    if (ok && f->bytes >= 0 && (int64_t)st.st_size != f->bytes) ok = fail(e, "%s: is %" PRId64 " bytes, its manifest says %" PRId64 " ---> was the copy cut off?", path, (int64_t)st.st_size, f->bytes);
    XXH3_state_t *hash = XXH3_createState();
    CHECK(hash && XXH3_128bits_reset(hash) == XXH_OK);
    uint8_t *chunk = (uint8_t *)xmalloc(CHECKPOINT_CHUNK);
    while (ok) {
        ssize_t k = read(fd, chunk, CHECKPOINT_CHUNK);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) ok = fail(e, "%s: cannot be read: %s ---> is the disk failing?", path, strerror(errno));
        if (k <= 0) break;
        XXH3_128bits_update(hash, chunk, (size_t)k);
    }
    if (ok && strcmp(hash_digest(XXH3_128bits_digest(hash)).hex, f->hash.hex) != 0) ok = fail(e, "%s: its hash does not match", path);
    free(chunk);
    XXH3_freeState(hash);
    close(fd);
    return ok;
}

typedef struct { char *name; StateSlice slice; } StateName;
FN int state_name_order(const void *a, const void *b) { return strcmp(((const StateName *)a)->name, ((const StateName *)b)->name); }

// "[12:345]" and nothing else: no sign, no space, no zero in front, no number that does not fit
FN bool slice_range(const char *text, int64_t *begin, int64_t *end) {
    int64_t value[2];
    for (int i = 0; i < 2; i++) {
        if (*text++ != (i ? ':' : '[')) return false;
        int digits = 0;
        for (value[i] = 0; *text >= '0' && *text <= '9'; digits++) {
            if (digits == 18) return false;
            value[i] = value[i] * 10 + (*text++ - '0');
        }
        if (digits == 0 || (digits > 1 && text[-digits] == '0')) return false;
    }
    *begin = value[0]; *end = value[1];
    return strcmp(text, "]") == 0;
}

// which slice is tensor t of a file? All that it says about itself is compared with the model's table.
FN bool state_slice_of(const Model *m, const StateName *names, int64_t n, const SafeTensor *t, const char *path, StateSlice *out, Error *e) {
    char base[256];
    const char *bracket = strrchr(t->name, '[');
    snprintf(base, sizeof base, "%.*s", bracket ? (int)(bracket - t->name < 255 ? bracket - t->name : 255) : 255, t->name);
    StateName key = {base, {0, 0, 0, 0, 0, 0, 0, 0}};
    const StateName *found = (const StateName *)bsearch(&key, names, (size_t)n, sizeof key, state_name_order);
    if (!found) return fail(e, "%s: \"%.200s\" is not a tensor of this model", path, t->name);
    const Tensor *tensor = model_tensor(m, found->slice.tensor);
    int64_t numbers = tensor_numbers(tensor);
    *out = found->slice;
    bool fits;
    if (!bracket) fits = tensor->rows ? t->rank == 2 && t->shape[0] == tensor->rows && t->shape[1] == tensor->cols : t->rank == 1 && t->shape[0] == tensor->cols;
    else {
        if (!slice_range(bracket, &out->begin, &out->end) || out->begin >= out->end || out->end > numbers)
            return fail(e, "%s: \"%.200s\" is no slice of a tensor of %" PRId64 " numbers, expected [begin:end] with 0 <= begin < end <= %" PRId64, path, t->name, numbers, numbers);
        fits = t->rank == 1 && t->count == out->end - out->begin;
    }
    out->size = dtype_size(t->dtype);
    if (!fits || (t->dtype != DTYPE_F32 && t->dtype != DTYPE_BF16)) return fail(e, "%s: \"%.200s\" is of another type or size", path, t->name);
    return true;
}

// The slices of the files that this rank reads the headers of: every `size`th. Also compares their hashes.
FN bool state_read_tables(Model *m, const char *directory, const StateFile *files, int num_files, StateSlice **slices, int64_t *n, Error *e) {
    Comm *c = model_comm(m);
    int64_t num_names, most;
    StateSlice *all = state_slices(m, false, &num_names);
    StateName *names = (StateName *)xcalloc(num_names, sizeof(StateName));
    for (int64_t i = 0; i < num_names; i++) { names[i].slice = all[i]; names[i].name = slice_name(m, &all[i]); }
    free(all);
    if (num_names) qsort(names, (size_t)num_names, sizeof(StateName), state_name_order);
    bool ok = true;
    *slices = NULL;
    *n = 0;
    for (int i = c->rank; i < num_files && ok; i += c->size) {
        char *path = path_join(directory, files[i].name);
        Safetensors *s = state_check_file(path, &files[i], e) ? safetensors_open(path, e) : NULL;
        ok = s != NULL;
        if (ok && s->count > num_names) ok = fail(e, "%s: has %" PRId64 " tensors, expected at most %" PRId64, path, s->count, num_names);   // a rank writes one slice of each
        most = *n + (ok ? s->count : 0);
        if (ok && most) *slices = (StateSlice *)xrealloc(*slices, most, sizeof(StateSlice));
        for (int64_t k = 0; ok && k < s->count; k++) {
            StateSlice *slice = *slices + *n;
            ok = state_slice_of(m, names, num_names, &s->tensors[k], path, slice, e);
            if (!ok) break;
            slice->file = i;
            slice->place = (int64_t)(s->tensors[k].data - s->file.data);
            (*n)++;
        }
        safetensors_close(s);
        free(path);
    }
    for (int64_t i = 0; i < num_names; i++) free(names[i].name);
    free(names);
    return ok;
}

FN int state_slice_order(const void *a, const void *b) {
    const StateSlice *x = (const StateSlice *)a, *y = (const StateSlice *)b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    if (x->tensor != y->tensor) return x->tensor < y->tensor ? -1 : 1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return x->file < y->file ? -1 : x->file > y->file;
}

// the slices of all ranks on every rank, sorted: collective
FN bool state_gather(Comm *c, StateSlice **slices, int64_t *n, Error *e) {
    int64_t *counts = (int64_t *)xcalloc(c->size, sizeof(int64_t)), most = 0, total = 0;
    comm_gather_bytes(c, n, counts, (int64_t)sizeof *n, "the checkpoint's tables", false);
    for (int r = 0; r < c->size; r++) { total += counts[r]; if (counts[r] > most) most = counts[r]; }
    bool ok = most <= (1 << 30) / (int64_t)sizeof(StateSlice) ? true : fail(e, "the checkpoint has %" PRId64 " slices, too many", total);
    if (ok) {
        StateSlice *mine = (StateSlice *)xcalloc(most + 1, sizeof(StateSlice)), *all = (StateSlice *)xcalloc(most * c->size + 1, sizeof(StateSlice));
        if (*n) memcpy(mine, *slices, (size_t)*n * sizeof(StateSlice));
        comm_gather_bytes(c, mine, all, most * (int64_t)sizeof(StateSlice), "the checkpoint's tables", false);
        int64_t at = 0;
        for (int r = 0; r < c->size; r++) { memmove(all + at, all + r * most, (size_t)counts[r] * sizeof(StateSlice)); at += counts[r]; }
        if (at) qsort(all, (size_t)at, sizeof(StateSlice), state_slice_order);
        free(mine);
        free(*slices);
        *slices = all;
        *n = at;
    }
    free(counts);
    return ok;
}

// every number of every tensor once: no hole, no overlap. Every rank comes to the same result.
FN bool state_check_cover(const Model *m, const char *directory, const StateFile *files, const StateSlice *s, int64_t n, Error *e) {
    int64_t num_whole, at = 0;
    StateSlice *whole = state_slices(m, false, &num_whole);
    bool ok = true;
    for (int64_t i = 0; i < num_whole && ok; i++) {
        int64_t reached = 0;
        const char *before = "";   // the file of the slice before
        char *name = slice_name(m, &whole[i]);
        for (; at < n && s[at].kind == whole[i].kind && s[at].tensor == whole[i].tensor && s[at].layer == whole[i].layer && ok; at++) {
            if (s[at].begin < reached)
                ok = fail(e, "%s/%s: %s[%" PRId64 ":%" PRId64 "] overlaps what %s has, which reaches to %" PRId64, directory, files[s[at].file].name, name, s[at].begin, s[at].end, before, reached);
            else if (s[at].begin > reached)
                ok = fail(e, "%s/%s: %s[%" PRId64 ":%" PRId64 "]: the numbers before it, from %" PRId64 " on, are missing", directory, files[s[at].file].name, name, s[at].begin, s[at].end, reached);
            reached = s[at].end;
            before = files[s[at].file].name;
        }
        if (ok && !*before) ok = fail(e, "%s/%s: %s is missing", directory, files[0].name, name);
        if (ok && reached < whole[i].end) ok = fail(e, "%s/%s: %s ends at number %" PRId64 " of %" PRId64 ", the rest is missing", directory, before, name, reached, whole[i].end);
        free(name);
    }
    free(whole);
    return ok;
}

// Reads what this rank owns into the model, from those files only that have it: kinds from `first_kind` on.
FN bool state_read_owned(Model *m, const char *directory, const StateFile *files, int num_files, const StateSlice *s, int64_t n, int first_kind, Error *e) {
    enum { MOST_OPEN = 256 };
    int64_t num_owned, at = 0;
    StateSlice *owned = state_slices(m, true, &num_owned);
    float *scratch = (float *)model_host_alloc(state_largest(owned, num_owned) * (int64_t)sizeof(float) + 1);
    int *fds = (int *)xcalloc(num_files, sizeof(int)), num_open = 0;   // 0: closed
    bool ok = true;
    for (int64_t i = 0; i < num_owned && ok; i++) {
        const StateSlice *o = &owned[i];
        if (o->kind < first_kind) continue;
        while (at < n && (s[at].kind != o->kind || s[at].tensor != o->tensor || s[at].layer != o->layer)) at++;
        for (; at < n && s[at].kind == o->kind && s[at].tensor == o->tensor && s[at].layer == o->layer && ok; at++) {
            int64_t begin = s[at].begin > o->begin ? s[at].begin : o->begin, end = s[at].end < o->end ? s[at].end : o->end;
            if (begin >= end) continue;
            int f = s[at].file;
            char *path = path_join(directory, files[f].name);
            if (!fds[f]) {
                for (int k = 0; num_open == MOST_OPEN && k < num_files; k++) if (fds[k]) { close(fds[k]); fds[k] = 0; }
                if (num_open == MOST_OPEN) num_open = 0;
                fds[f] = open(path, O_RDONLY | O_CLOEXEC);
                if (fds[f] <= 0) { ok = fail(e, "%s: cannot be opened: %s", path, strerror(errno)); fds[f] = 0; } else num_open++;
            }
            float *numbers = scratch + (begin - o->begin);
            const int64_t size = s[at].size;
            char *to = (char *)numbers + (end - begin) * (4 - size);   // bf16: into the second half of their place, then widened from the front
            int64_t left = (end - begin) * size, place = s[at].place + (begin - s[at].begin) * size;
            const char *narrow = to;
            while (ok && left > 0) {
                ssize_t k = pread(fds[f], to, (size_t)(left < 1 << 30 ? left : 1 << 30), (off_t)place);
                if (k < 0 && errno == EINTR) continue;
                if (k <= 0) { ok = fail(e, "%s: cannot be read: %s ---> is the disk failing?", path, k < 0 ? strerror(errno) : "it has become shorter"); break; }
                to += k; place += k; left -= k;
            }
            for (int64_t k = 0; size == 2 && k < end - begin; k++) {
                uint16_t h;
                memcpy(&h, narrow + 2 * k, 2);   // number k ends at byte 4k + 4, what is still to be read begins at 2n + 2k + 2: never before that
                numbers[k] = bf16_to_f32(h);
            }
            free(path);
        }
        if (ok) model_put_owned(m, state_kinds[o->kind], o->tensor, o->layer, scratch);
    }
    for (int k = 0; k < num_files; k++) if (fds[k]) close(fds[k]);
    free(fds);
    model_host_free(scratch);
    free(owned);
    return ok;
}

// Collective. The files' hashes and headers are spread over the ranks, every file is looked at by one of them, and all get the table of
// slices; then each reads the numbers it owns, of the kinds from `first_kind` on.
FN bool checkpoint_load_state(Model *m, const char *directory, const StateFile *files, int num_files, int first_kind, Error *e) {
    Comm *c = model_comm(m);
    StateSlice *slices = NULL;
    int64_t n = 0;
    bool ok = comm_agree(c, state_read_tables(m, directory, files, num_files, &slices, &n, e), e, "the checkpoint's hashes");
    ok = ok && state_gather(c, &slices, &n, e) && state_check_cover(m, directory, files, slices, n, e);   // the same on all
    if (ok) ok = comm_agree(c, state_read_owned(m, directory, files, num_files, slices, n, first_kind, e), e, "reading the checkpoint");
    free(slices);
    if (ok) model_share(m);
    return ok;
}

// Loads one checkpoint: collective, the same result on all ranks. DAMAGED: an older one may do. OTHER: it belongs to another recipe, model or
// data; e names the difference.
FN CheckpointResult checkpoint_load(const char *out, int64_t step, Model *m, Progress *p, const json_t *identity, Error *e) {
    Comm *c = model_comm(m);
    char *directory = checkpoint_path(out, step, ""), *manifest = path_join(directory, "manifest.json");
    CheckpointResult result = CHECKPOINT_DAMAGED;
    char difference[600];
    int num_files = 0;
    Progress loaded;
    memset(&loaded, 0, sizeof loaded);
    json_t *j = manifest_read(c, manifest, e);
    StateFile *files = j ? manifest_files(j, manifest, &num_files, e) : NULL;
    bool ok = files != NULL, differs = ok && json_difference(identity, json_object_get(j, "identity"), "", difference, sizeof difference);
    if (differs) ok = fail(e, "%s: belongs to another run: %s ---> give the same flags, recipe, model and data, or another --out", directory, difference);
    ok = ok && progress_from_json(json_object_get(j, "progress"), manifest, &loaded, e);
    if (ok && loaded.step != step) ok = fail(e, "%s: is of step %" PRId64 ", its directory's name says %" PRId64, manifest, loaded.step, step);
    if (comm_max_i64(c, differs, "whose checkpoint is it?") != 0) result = CHECKPOINT_OTHER;
    ok = comm_agree(c, ok, e, "a checkpoint's manifest") && checkpoint_load_state(m, directory, files, num_files, 0, e);
    if (ok) { free(p->dev); *p = loaded; result = CHECKPOINT_LOADED; }
    else free(loaded.dev);
    json_decref(j);
    free(files); free(manifest); free(directory);
    return result;
}

// The steps of the checkpoints in OUT, the newest first, on every rank: collective. remove_unfinished: OUT is this run's own.
FN int64_t *checkpoint_steps(Comm *c, const char *out, bool remove_unfinished, int64_t *n) {
    int64_t *steps = c->rank == 0 ? checkpoint_list(out, remove_unfinished, n) : NULL;
    comm_agree(c, true, NULL, "the list of checkpoints");   // removing what is unfinished may take long
    comm_broadcast(c, n, (int64_t)sizeof *n, 0, "the list of checkpoints");
    if (c->rank != 0) steps = (int64_t *)xcalloc(*n, sizeof(int64_t));
    if (*n) comm_broadcast(c, steps, *n * (int64_t)sizeof(int64_t), 0, "the list of checkpoints");
    return steps;
}

// What cannot be opened, for want of rights or of a working disk, is not damaged: it may be whole, and to go on from an older one would throw work away.
FN bool checkpoint_readable(const char *out, int64_t step, Error *e) {
    char *directory = checkpoint_path(out, step, ""), *path = xstrdup(directory);
    DIR *d = opendir(directory);
    int why = d || errno == ENOENT || errno == ENOTDIR ? 0 : errno;
    for (struct dirent *entry; !why && d && (entry = readdir(d));) {
        free(path);
        path = path_join(directory, entry->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 && errno != ENOENT && errno != ELOOP && errno != ENXIO) why = errno;   // what is not there, or no file, is damage
        if (fd >= 0) close(fd);
    }
    bool ok = !why || fail(e, "%s: cannot be read: %s ---> put that right; --resume goes on from an older checkpoint only when this one is away", path, strerror(why));
    if (d) closedir(d);
    free(path); free(directory);
    return ok;
}

// Loads the newest good checkpoint of OUT; warns about damaged ones. Collective. False with an error when there are some and none will
// do; *found false (and true) when there is none at all.
FN bool checkpoint_resume(const char *out, Model *m, Progress *p, const json_t *identity, bool *found, Error *e) {
    Comm *c = model_comm(m);
    int64_t n = 0, *steps = checkpoint_steps(c, out, true, &n);
    *found = false;
    bool ok = true;
    for (int64_t i = 0; i < n; i++) {
        Error why;
        CheckpointResult r = checkpoint_load(out, steps[i], m, p, identity, &why);
        if (r == CHECKPOINT_LOADED) { *found = true; break; }
        if (r == CHECKPOINT_OTHER) { ok = fail(e, "%s", why.text); break; }
        if (!comm_agree(c, checkpoint_readable(out, steps[i], e), e, "reading a checkpoint")) { ok = false; break; }
        if (c->rank == 0) warn("checkpoint of step %" PRId64 " is damaged (%s) ---> the one before it is tried", steps[i], why.text);
    }
    if (ok && n > 0 && !*found) ok = fail(e, "%s/checkpoints: none of the %" PRId64 " checkpoints is whole ---> start again with --overwrite", out, n);
    free(steps);
    return ok;
}

// The optimizer's moments of the newest checkpoint of another run's OUT, of a model with the same tensors, into m; adam_t: the updates they have seen. The
// weights stay what they are. Collective. A damaged checkpoint is an error: an older one would be another optimizer.
FN bool checkpoint_load_moments(const char *out, Model *m, int64_t *adam_t, Error *e) {
    Comm *c = model_comm(m);
    int64_t n = 0, *steps = checkpoint_steps(c, out, false, &n);
    if (n == 0) { free(steps); return fail(e, "%s/checkpoints: there is no checkpoint to take the optimizer from ---> give the --out of an earlier run that still has its last one", out); }
    char *directory = checkpoint_path(out, steps[0], ""), *manifest = path_join(directory, "manifest.json");
    int num_files = 0;
    Progress p;
    memset(&p, 0, sizeof p);
    json_t *j = manifest_read(c, manifest, e);
    StateFile *files = j ? manifest_files(j, manifest, &num_files, e) : NULL;
    bool ok = comm_agree(c, files && progress_from_json(json_object_get(j, "progress"), manifest, &p, e), e, "a checkpoint's manifest") &&
              checkpoint_load_state(m, directory, files, num_files, 1, e);
    if (ok) *adam_t = p.adam_t;
    free(p.dev); free(steps); free(files); free(manifest); free(directory);
    json_decref(j);
    return ok;
}

#endif
