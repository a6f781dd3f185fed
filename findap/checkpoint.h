// checkpoint.h: the whole state of a training run on disk, such that a kill, a crash or a full disk at any instant loses at
// most the steps since the last checkpoint, and a resumed run goes on bit for bit.
//
//     OUT/checkpoints/step_00000100/state.safetensors   param.*, m.*, v.* in fp32 (the optimizer's moments are m and v)
//                                   manifest.json       cursor, AdamW's t, counters, dev losses, hashes of all that must be the same
//
// A checkpoint is written as step_N.tmp, every file synced, the directory synced, renamed, the parent synced: under its name
// it is whole or not there. Damage that comes later (a truncated copy, a flipped bit) is found by the XXH3 of the state and of
// the manifest; --resume then warns and takes the one before. The oldest is deleted only when the newest has been read back.
#ifndef FINDAP_CHECKPOINT_H
#define FINDAP_CHECKPOINT_H
#include "json.h"          // defines: json_parse_file
#include "log.h"           // defines: FINDAP_COMMIT
#include "model.h"         // defines: Model, model_get, model_put
#include "model_dir.h"     // defines: tensor_hf_name, tensor_numbers, tensor_layers
#include "safetensors.h"   // defines: SafetensorsWriter, safetensors_open
#include <dirent.h>
#include <stddef.h>          // defines: offsetof
#include <sys/statvfs.h>     // defines: statvfs

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

FN char *checkpoint_path(const char *out, int64_t step, const char *suffix) { return xprintf("%s/checkpoints/step_%08" PRId64 "%s", out, step, suffix); }

FN int compare_newest_first(const void *a, const void *b) { int64_t x = *(const int64_t *)a, y = *(const int64_t *)b; return x < y ? 1 : x > y ? -1 : 0; }

// the steps of the checkpoints in OUT, newest first; remove_unfinished also removes what a killed run left half-written
FN int64_t *checkpoint_list(const char *out, bool remove_unfinished, int64_t *n) {
    char *directory = path_join(out, "checkpoints");
    int64_t *steps = NULL;
    *n = 0;
    DIR *d = opendir(directory);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        long long step = 0;
        int end = 0;
        if (sscanf(entry->d_name, "step_%lld%n", &step, &end) != 1 || step < 0) continue;
        if (entry->d_name[end] == 0) {
            steps = (int64_t *)xrealloc(steps, *n + 1, sizeof(int64_t));
            steps[(*n)++] = step;
        } else if (remove_unfinished && strcmp(entry->d_name + end, ".tmp") == 0) {
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
// the state: every tensor of the model's table, three times

FN const TensorKind state_kinds[3] = {KIND_PARAM, KIND_MOMENT1, KIND_MOMENT2};
FN const char *const state_prefixes[3] = {"param.", "m.", "v."};

// "m.model.norm.weight": the caller frees it
FN char *tensor_state_name(const Tensor *t, int64_t layer, const char *prefix) {
    char name[128];
    tensor_hf_name(t, layer, name, sizeof name);
    return xprintf("%s%s", prefix, name);
}
FN int64_t model_largest_tensor(const Model *m) {
    int64_t largest = 0;
    for (int i = 0; i < model_num_tensors(m); i++) if (tensor_numbers(model_tensor(m, i)) > largest) largest = tensor_numbers(model_tensor(m, i));
    return largest;
}
FN int64_t model_count(const Model *m) {
    int64_t n = 0;
    for (int i = 0; i < model_num_tensors(m); i++) n += tensor_numbers(model_tensor(m, i)) * tensor_layers(m, model_tensor(m, i));
    return n;
}
FN void tensor_declare(SafetensorsWriter *w, const Tensor *t, int64_t layer, const char *prefix) {
    int64_t shape[2] = {t->rows, t->cols};
    char *name = tensor_state_name(t, layer, prefix);
    if (t->rows) safetensors_writer_tensor(w, name, DTYPE_F32, 2, shape);
    else safetensors_writer_tensor(w, name, DTYPE_F32, 1, shape + 1);
    free(name);
}

FN bool checkpoint_write_state(Model *m, const char *path, XXH128_hash_t *payload, Error *e) {
    SafetensorsWriter *w = safetensors_writer_new(path);
    safetensors_writer_metadata(w, "format", "findap-state-1");
    float *scratch = (float *)xmalloc(model_largest_tensor(m) * (int64_t)sizeof(float));
    XXH3_state_t *hash = XXH3_createState();
    CHECK(hash && XXH3_128bits_reset(hash) == XXH_OK);
    for (int k = 0; k < 3; k++)
        for (int i = 0; i < model_num_tensors(m); i++)
            for (int64_t l = 0; l < tensor_layers(m, model_tensor(m, i)); l++) tensor_declare(w, model_tensor(m, i), l, state_prefixes[k]);
    bool ok = safetensors_writer_begin(w, e);
    for (int k = 0; k < 3 && ok; k++)
        for (int i = 0; i < model_num_tensors(m) && ok; i++)
            for (int64_t l = 0; l < tensor_layers(m, model_tensor(m, i)) && ok; l++) {
                int64_t bytes = tensor_numbers(model_tensor(m, i)) * (int64_t)sizeof(float);
                model_get(m, state_kinds[k], i, (int)l, scratch);
                XXH3_128bits_update(hash, scratch, (size_t)bytes);
                ok = safetensors_writer_data(w, scratch, bytes, e);
            }
    *payload = XXH3_128bits_digest(hash);
    XXH3_freeState(hash);
    free(scratch);
    if (ok) return safetensors_writer_commit(w, e);
    safetensors_writer_abandon(w);
    return false;
}

// reads back what was written: the tensors' bytes must be those that were in memory. Also gives the hash of the whole file.
FN bool checkpoint_verify_state(const char *path, int64_t payload_bytes, XXH128_hash_t payload, Hash *file, Error *e) {
    Mapped m;
    if (!map_file(path, &m, e)) return false;
    bool ok = m.size > payload_bytes && XXH128_isEqual(XXH3_128bits(m.data + (m.size - payload_bytes), (size_t)payload_bytes), payload);
    if (ok) *file = hash_bytes(m.data, m.size);
    else fail(e, "%s: what was read back is not what was written ---> is the disk failing?", path);
    unmap_file(&m);
    return ok;
}

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

// the manifest's JSON when its text is what was written, else NULL
FN json_t *manifest_read(const char *path, Error *e) {
    Mapped m;
    if (!map_file(path, &m, e)) return NULL;
    char *text = (char *)xmalloc(m.size + 1);
    memcpy(text, m.size ? (const char *)m.data : "", (size_t)m.size);
    text[m.size] = 0;
    int64_t size = m.size;
    unmap_file(&m);
    json_t *j = json_parse(path, text, size, e);
    char *want = j ? manifest_take_hash(text) : NULL;
    if (j && (!want || strcmp(want, hash_bytes(text, size).hex) != 0)) {
        fail(e, "%s: its hash does not match", path);
        json_decref(j);
        j = NULL;
    }
    free(want);
    free(text);
    return j;
}

// Saves the run under OUT/checkpoints/step_N and then deletes all but the newest `keep`. `identity` is what --resume
// compares. On an error the checkpoints that were there before are still there.
FN bool checkpoint_save(const char *out, Model *m, const Progress *p, const json_t *identity, int64_t keep, Error *e) {
    char *final = checkpoint_path(out, p->step, ""), *temporary = checkpoint_path(out, p->step, ".tmp");
    char *state = path_join(temporary, "state.safetensors"), *manifest = path_join(temporary, "manifest.json"), *text = NULL;
    int64_t bytes = 3 * model_count(m) * (int64_t)sizeof(float), n = 0;
    Hash file_hash;
    XXH128_hash_t payload;
    struct statvfs disk;
    remove_directory(temporary);
    bool ok = make_directory(temporary, e);
    if (ok && statvfs(temporary, &disk) == 0 && (double)disk.f_bavail * (double)disk.f_frsize < (double)bytes + 4194304.0)
        ok = fail(e, "%s: %.1f MiB are needed, %.1f MiB are free ---> make room on the disk", temporary, (double)bytes / 1048576, (double)disk.f_bavail * (double)disk.f_frsize / 1048576);
    ok = ok && checkpoint_write_state(m, state, &payload, e) && checkpoint_verify_state(state, bytes, payload, &file_hash, e);
    if (ok) {
        json_t *j = json_object();
        json_object_set_new(j, "format", json_string("findap-checkpoint-1"));
        json_object_set_new(j, "commit", json_string(FINDAP_COMMIT));
        json_object_set_new(j, "progress", progress_to_json(p));
        json_object_set(j, "identity", (json_t *)identity);
        json_object_set_new(j, "state_hash", json_string(file_hash.hex));
        json_object_set_new(j, "manifest_hash", json_string("00000000000000000000000000000000"));
        text = json_dumps(j, JSON_INDENT(1) | JSON_SORT_KEYS);
        json_decref(j);
        CHECK(text);
        manifest_put_hash(text);
        ok = write_file(manifest, text, (int64_t)strlen(text), e);   // syncs the file and the directory it is in
        free(text);
    }
    if (ok) {
        remove_directory(final);   // a damaged one of the same step, that --resume stepped over
        ok = rename(temporary, final) == 0 ? sync_directory_of(final, e) : fail(e, "%s: cannot be renamed: %s", temporary, strerror(errno));
    }
    if (!ok) remove_directory(temporary);
    int64_t *steps = ok ? checkpoint_list(out, false, &n) : NULL;
    for (int64_t i = keep; i < n; i++) {
        char *old = checkpoint_path(out, steps[i], "");
        remove_directory(old);
        free(old);
    }
    free(steps); free(manifest); free(state); free(temporary); free(final);
    return ok;
}

typedef enum { CHECKPOINT_LOADED, CHECKPOINT_DAMAGED, CHECKPOINT_OTHER } CheckpointResult;

FN bool checkpoint_load_state(Model *m, const char *path, Error *e) {
    Safetensors *s = safetensors_open(path, e);
    if (!s) return false;
    float *scratch = (float *)xmalloc(model_largest_tensor(m) * (int64_t)sizeof(float));
    bool ok = true;
    for (int k = 0; k < 3 && ok; k++)
        for (int i = 0; i < model_num_tensors(m) && ok; i++)
            for (int64_t l = 0; l < tensor_layers(m, model_tensor(m, i)) && ok; l++) {
                char *name = tensor_state_name(model_tensor(m, i), l, state_prefixes[k]);
                int64_t count = tensor_numbers(model_tensor(m, i));
                const SafeTensor *t = safetensors_find(s, name);
                if (!t || t->dtype != DTYPE_F32 || t->count != count) ok = fail(e, "%s: %s is %s", path, name, t ? "of another type or size" : "missing");
                else if (!safetensor_to_f32(t, 0, count, scratch)) ok = fail(e, "%s: %s cannot be read", path, name);
                else model_put(m, state_kinds[k], i, (int)l, scratch);
                free(name);
            }
    free(scratch);
    safetensors_close(s);
    return ok;
}

// Loads one checkpoint. DAMAGED: an older one may do. OTHER: it belongs to another recipe, model or data; e names the difference.
FN CheckpointResult checkpoint_load(const char *out, int64_t step, Model *m, Progress *p, const json_t *identity, Error *e) {
    char *directory = checkpoint_path(out, step, ""), *state = path_join(directory, "state.safetensors"), *manifest = path_join(directory, "manifest.json");
    CheckpointResult result = CHECKPOINT_DAMAGED;
    const char *state_hash = NULL;
    char difference[600];
    Hash found;
    Progress loaded;
    memset(&loaded, 0, sizeof loaded);
    json_t *j = manifest_read(manifest, e);
    bool ok = j && json_get_string(j, "state_hash", manifest, true, &state_hash, e);
    if (ok && json_difference(identity, json_object_get(j, "identity"), "", difference, sizeof difference)) {
        result = CHECKPOINT_OTHER;
        ok = fail(e, "%s: belongs to another run: %s ---> give the same flags, recipe, model and data, or another --out", directory, difference);
    }
    ok = ok && progress_from_json(json_object_get(j, "progress"), manifest, &loaded, e) && hash_file(state, &found, e);
    if (ok && strcmp(found.hex, state_hash) != 0) ok = fail(e, "%s: its hash does not match", state);
    ok = ok && checkpoint_load_state(m, state, e);
    if (ok) { free(p->dev); *p = loaded; result = CHECKPOINT_LOADED; }
    else free(loaded.dev);
    json_decref(j);
    free(manifest); free(state); free(directory);
    return result;
}

// Loads the newest good checkpoint of OUT; warns about damaged ones. False with an error when there are some and none will
// do; *found false (and true) when there is none at all.
FN bool checkpoint_resume(const char *out, Model *m, Progress *p, const json_t *identity, bool *found, Error *e) {
    int64_t n = 0, *steps = checkpoint_list(out, true, &n);
    *found = false;
    bool ok = true;
    for (int64_t i = 0; i < n; i++) {
        Error why;
        CheckpointResult r = checkpoint_load(out, steps[i], m, p, identity, &why);
        if (r == CHECKPOINT_LOADED) { *found = true; break; }
        if (r == CHECKPOINT_OTHER) { ok = fail(e, "%s", why.text); break; }
        warn("checkpoint of step %" PRId64 " is damaged (%s) ---> the one before it is tried", steps[i], why.text);
    }
    if (ok && n > 0 && !*found) ok = fail(e, "%s/checkpoints: none of the %" PRId64 " checkpoints is whole ---> start again with --overwrite", out, n);
    free(steps);
    return ok;
}

#endif
