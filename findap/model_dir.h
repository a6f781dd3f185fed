// model_dir.h: a Hugging Face model directory to a model and back, over the table of tensors and model_get / model_put, so
// that it is the same for the CPU and the GPU. One tensor is in flight at a time; there is never a second copy of the model. With LoRA what is
// read is the base model, and what is written is the base with its adapter merged in; the adapter alone is lora.h's affair.
#ifndef FINDAP_MODEL_DIR_H
#define FINDAP_MODEL_DIR_H
#include "model.h"         // defines: Model, Tensor, model_get, model_put, model_config
#include "safetensors.h"   // defines: Weights, weights_open, SafetensorsWriter
#include <dirent.h>        // defines: opendir
#include <sys/statvfs.h>   // defines: statvfs

// the Hugging Face name of tensor t in layer `layer`
FN void tensor_hf_name(const Tensor *t, int64_t layer, char *out, size_t size) {
    const char *d = strstr(t->hf_name, "%d");
    if (!d) snprintf(out, size, "%s", t->hf_name);
    else snprintf(out, size, "%.*s%" PRId64 "%s", (int)(d - t->hf_name), t->hf_name, layer, d + 2);
}
FN int64_t tensor_numbers(const Tensor *t) { return (t->rows ? t->rows : 1) * t->cols; }
FN int64_t tensor_layers(const Model *m, const Tensor *t) { return t->per_layer ? model_config(m)->num_layers : 1; }

FN int64_t model_largest_tensor(const Model *m) {
    int64_t largest = 1;
    for (int i = 0; i < model_num_tensors(m); i++) if (tensor_numbers(model_tensor(m, i)) > largest) largest = tensor_numbers(model_tensor(m, i));
    return largest;
}

enum { LOAD_PIECE = 1 << 20 };
// Of s what this rank owns into tensor i of a layer, nothing else of it is read; s NULL: the file has no such tensor. `where`: what the file is called; `config`: the file that says what shape it should have
FN bool model_load_tensor(Model *m, int i, int64_t layer, const SafeTensor *s, const char *where, const char *config, float *buffer, int64_t *not_finite, Error *e) {
    const Tensor *t = model_tensor(m, i);
    char name[128];
    tensor_hf_name(t, layer, name, sizeof name);
    if (!s) return fail(e, "%s: the tensor \"%s\" is missing ---> do %s and the weights belong together?", where, name, config);
    bool fits = t->rows ? s->rank == 2 && s->shape[0] == t->rows && s->shape[1] == t->cols : s->rank == 1 && s->shape[0] == t->cols;
    if (!fits) {
        char got[256] = "", want[64];
        for (int k = 0, at = 0; k < s->rank && at < 230; k++) at += snprintf(got + at, sizeof got - (size_t)at, "%s%" PRId64, k ? " x " : "", s->shape[k]);
        if (t->rows) snprintf(want, sizeof want, "%" PRId64 " x %" PRId64, t->rows, t->cols);
        else snprintf(want, sizeof want, "%" PRId64, t->cols);
        return fail(e, "%s: \"%s\" has shape %s, %s says %s", where, name, got, config, want);
    }
    int64_t begin, end, bad = 0;
    model_owned(m, i, &begin, &end);
    bool known = s->dtype == DTYPE_BF16 || s->dtype == DTYPE_F16 || s->dtype == DTYPE_F32 || s->dtype == DTYPE_F64;
    if (!known) return fail(e, "%s: \"%s\" is of type %s, expected BF16, F16, F32 or F64 ---> quantized weights cannot be trained", where, name, dtype_name(s->dtype));
    #pragma omp parallel for schedule(dynamic, 1) reduction(+ : bad)   // the file is mapped: many threads keep a disk busier than one
    for (int64_t at = begin; at < end; at += LOAD_PIECE) {
        int64_t n = end - at < LOAD_PIECE ? end - at : LOAD_PIECE;
        safetensor_to_f32(s, at, n, buffer + (at - begin));
        for (int64_t k = 0; k < n; k++) bad += !isfinite(buffer[at - begin + k]);
    }
    *not_finite += bad;
    model_put_owned(m, KIND_PARAM, i, (int)layer, buffer);
    return true;
}

// is `hf_name` that of a tensor of the model itself, or (adapter) of its adapter?
FN bool model_tensor_named(const Model *m, const char *hf_name, bool adapter) {
    char name[128];
    for (int i = 0; i < model_num_tensors(m); i++) {
        const Tensor *t = model_tensor(m, i);
        const char *d = strstr(t->hf_name, "%d");
        int64_t layer = d && strlen(hf_name) > (size_t)(d - t->hf_name) ? strtoll(hf_name + (d - t->hf_name), NULL, 10) : 0;
        if (t->adapter != adapter || layer < 0 || layer >= tensor_layers(m, t)) continue;
        tensor_hf_name(t, layer, name, sizeof name);
        if (strcmp(name, hf_name) == 0) return true;
    }
    return false;
}

// every tensor of the files must be one of ours: an unknown one means another architecture than config.json claims
FN bool model_check_tensor(const Model *m, const SafeTensor *s, const Weights *w, const char *dir, Error *e) {
    if (model_tensor_named(m, s->name, false)) return true;
    size_t n = strlen(s->name);
    if (n > 20 && strcmp(s->name + n - 20, ".rotary_emb.inv_freq") == 0) return true;   // a buffer that old transformers stored
    if (strcmp(s->name, "lm_head.weight") == 0) {   // tied: a copy is harmless when it is one
        const SafeTensor *embed = weights_find(w, "model.embed_tokens.weight");
        if (embed && embed->dtype == s->dtype && embed->bytes == s->bytes && memcmp(embed->data, s->data, (size_t)s->bytes) == 0) return true;
        return fail(e, "%s: config.json ties the embeddings, but lm_head.weight differs from model.embed_tokens.weight ---> set \"tie_word_embeddings\" to false", dir);
    }
    return fail(e, "%s: unexpected tensor \"%.100s\" ---> is config.json that of these weights?", dir, s->name);
}

// Loads every parameter of m from the weights in `dir`, which may be of any float type. False with one line in e. Collective: each rank reads what it owns.
FN bool model_load_dir(Model *m, const char *dir, Error *e) {
    Weights *w = weights_open(dir, e);
    bool ok = w != NULL;
    for (int f = 0; ok && f < w->num_files; f++)
        for (int64_t k = 0; ok && k < w->files[f]->count; k++) ok = model_check_tensor(m, &w->files[f]->tensors[k], w, dir, e);
    int64_t largest = 1, not_finite = 0;
    for (int i = 0; i < model_num_tensors(m); i++) {
        int64_t begin, end;
        model_owned(m, i, &begin, &end);
        largest = end - begin > largest ? end - begin : largest;
    }
    float *buffer = ok ? (float *)model_host_alloc(largest * (int64_t)sizeof(float)) : NULL;
    for (int i = 0; ok && i < model_num_tensors(m); i++) {
        const Tensor *t = model_tensor(m, i);
        for (int64_t l = 0; ok && !t->adapter && l < tensor_layers(m, t); l++) {
            char name[128];
            tensor_hf_name(t, l, name, sizeof name);
            ok = model_load_tensor(m, i, l, weights_find(w, name), dir, "config.json", buffer, &not_finite, e);
        }
    }
    model_host_free(buffer);
    if (w) weights_close(w);
    if (!comm_agree(model_comm(m), ok, e, "reading the weights")) return false;
    model_share(m);
    comm_sum_i64(model_comm(m), &not_finite, 1, "weights that are not finite");
    not_finite /= model_replicas(m)->size;   // each of which has counted its own copy
    if (not_finite && model_comm(m)->rank == 0) warn("%s: %" PRId64 " weights are NaN or infinite ---> every loss will be; is the download damaged?", dir, not_finite);
    return true;
}

// what a model directory's log-probs depend on: its weight files and config.json
FN bool model_hash(const char *dir, Hash *out, Error *e) {
    Hash config;
    char *path = path_join(dir, "config.json");
    Weights *w = hash_file(path, &config, e) ? weights_open(dir, e) : NULL;
    free(path);
    if (!w) return false;
    XXH3_state_t *state = XXH3_createState();
    CHECK(state && XXH3_128bits_reset(state) == XXH_OK);
    XXH3_128bits_update(state, config.hex, sizeof config.hex);
    for (int i = 0; i < w->num_files; i++) XXH3_128bits_update(state, w->files[i]->file.data, (size_t)w->files[i]->file.size);
    *out = hash_digest(XXH3_128bits_digest(state));
    XXH3_freeState(state);
    weights_close(w);
    return true;
}

// ---------------------------------------------------------------------------------------------------------------
// saving

FN bool copy_file(const char *from_dir, const char *to_dir, const char *name, Error *e) {   // a missing source is no error
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name);
    bool ok = true;
    Mapped m;
    if (file_exists(from)) {
        ok = map_file(from, &m, e) && write_file(to, m.data, m.size, e);
        unmap_file(&m);
    }
    free(from);
    free(to);
    return ok;
}

// config.json as it is, but for the dtype where that changes
FN bool save_config(const char *from_dir, const char *to_dir, const char *dtype, Error *e) {
    char *from = path_join(from_dir, "config.json"), *to = path_join(to_dir, "config.json");
    json_t *j = json_parse_file(from, 1 << 20, e);
    bool ok = j != NULL;
    static const char *const spellings[] = {"dtype", "torch_dtype"};   // both, when both are there: readers differ in which they believe
    bool known = false, changed = false;
    for (int i = 0; ok && i < 2; i++) {
        const json_t *have = json_object_get(j, spellings[i]);
        known = known || have;
        if (!have || (json_is_string(have) && strcmp(json_string_value(have), dtype) == 0)) continue;
        json_object_set_new(j, spellings[i], json_string(dtype));
        changed = true;
    }
    if (ok && !known) json_object_set_new(j, "dtype", json_string(dtype));
    if (ok && known && !changed) ok = copy_file(from_dir, to_dir, "config.json", e);
    else if (ok) {
        char *text = json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
        CHECK(text);
        ok = write_file(to, text, (int64_t)strlen(text), e);
        free(text);
    }
    json_decref(j);
    free(from);
    free(to);
    return ok;
}

typedef struct { int tensor; int64_t layer, bytes; int shard; } SavePiece;

// With several ranks the first one writes; what the others own of a tensor they give when it asks for it (save_serve), until it asks for
// none. So a failure on its side cannot leave them waiting.
FN void save_get(const Model *m, TensorKind kind, int i, int layer, float *out) {
    int64_t request[2] = {i, layer};
    comm_request(model_comm(m), request);
    model_get(m, kind, i, layer, out);
}
FN void save_no_more(const Model *m) {
    int64_t request[2] = {-1, 0};
    comm_request(model_comm(m), request);
}
FN void save_serve(const Model *m) {
    int64_t request[2] = {-1, 0};
    float *buffer = (float *)xmalloc(model_largest_tensor(m) * (int64_t)sizeof(float));
    for (;;) {
        comm_request(model_comm(m), request);
        if (request[0] < 0) break;
        model_get(m, KIND_PARAM, (int)request[0], (int)request[1], buffer);
    }
    free(buffer);
}

// LoRA: w (O, K), which is tensor i of a layer, += s B (O, R) A (R, K) where it has an adapter. All in fp32; the caller rounds once.
FN void save_merge(const Model *m, int i, int layer, float *w) {
    enum { BLOCK = 256 };
    char name[2][32];
    float *x[2];
    int at[2];
    for (int side = 0; side < 2; side++) {
        snprintf(name[side], sizeof name[side], "%s_%c", model_tensor(m, i)->name, "AB"[side]);
        at[side] = model_find_tensor(m, name[side]);
        if (at[side] < 0) return;
    }
    for (int side = 0; side < 2; side++) {
        x[side] = (float *)xmalloc(tensor_numbers(model_tensor(m, at[side])) * (int64_t)sizeof(float));
        save_get(m, KIND_PARAM, at[side], layer, x[side]);
    }
    int64_t O = model_tensor(m, i)->rows, K = model_tensor(m, i)->cols, R = model_tensor(m, at[0])->rows;
    float scale = (float)lora_scale(model_lora(m));
    #pragma omp parallel for
    for (int64_t o = 0; o < O; o++) {
        for (int64_t k0 = 0; k0 < K; k0 += BLOCK) {
            float sum[BLOCK] = {0};
            int64_t n = K - k0 < BLOCK ? K - k0 : BLOCK;
            for (int64_t r = 0; r < R; r++)
                for (int64_t k = 0; k < n; k++) sum[k] += x[1][o * R + r] * x[0][r * K + k0 + k];
            for (int64_t k = 0; k < n; k++) w[o * K + k0 + k] += scale * sum[k];
        }
    }
    free(x[0]); free(x[1]);
}

FN bool save_shard(const Model *m, const SavePiece *pieces, int64_t n, int shard, Dtype dtype, const char *path, float *buffer, void *converted, Error *e) {
    SafetensorsWriter *w = safetensors_writer_new(path);
    safetensors_writer_metadata(w, "format", "pt");
    char name[128];
    for (int64_t i = 0; i < n; i++) {
        if (pieces[i].shard != shard) continue;
        const Tensor *t = model_tensor(m, pieces[i].tensor);
        int64_t shape[2] = {t->rows ? t->rows : t->cols, t->cols};
        tensor_hf_name(t, pieces[i].layer, name, sizeof name);
        safetensors_writer_tensor(w, name, dtype, t->rows ? 2 : 1, shape);
    }
    bool ok = safetensors_writer_begin(w, e);
    for (int64_t i = 0; ok && i < n; i++) {
        if (pieces[i].shard != shard) continue;
        save_get(m, KIND_PARAM, pieces[i].tensor, (int)pieces[i].layer, buffer);
        save_merge(m, pieces[i].tensor, (int)pieces[i].layer, buffer);
        safetensor_from_f32(dtype, buffer, tensor_numbers(model_tensor(m, pieces[i].tensor)), converted);
        int64_t numbers = tensor_numbers(model_tensor(m, pieces[i].tensor)), lost = 0;
        if (dtype == DTYPE_F16) for (int64_t k = 0; k < numbers; k++) lost += fabsf(buffer[k]) >= 65520.0f;   // where rounding to half gives infinity
        if (lost) ok = fail(e, "%s: %" PRId64 " weights of tensor %s are beyond float16's 65504 ---> save as bfloat16", path, lost, model_tensor(m, pieces[i].tensor)->name);
        ok = ok && safetensors_writer_data(w, converted, pieces[i].bytes, e);
    }
    if (!ok) { safetensors_writer_abandon(w); return false; }
    return safetensors_writer_commit(w, e);
}

FN void shard_file_name(int shard, int shards, char *out, size_t size) {
    if (shards == 1) snprintf(out, size, "model.safetensors");
    else snprintf(out, size, "model-%05d-of-%05d.safetensors", shard + 1, shards);
}

FN char *save_index(const Model *m, const SavePiece *pieces, int64_t n, int shards) {   // the text of model.safetensors.index.json
    json_t *map = json_object(), *metadata = json_object(), *j = json_object();
    int64_t total = 0;
    char name[128], file[64];
    for (int64_t i = 0; i < n; i++) {
        tensor_hf_name(model_tensor(m, pieces[i].tensor), pieces[i].layer, name, sizeof name);
        shard_file_name(pieces[i].shard, shards, file, sizeof file);
        json_object_set_new(map, name, json_string(file));
        total += pieces[i].bytes;
    }
    json_object_set_new(metadata, "total_size", json_integer(total));
    json_object_set_new(j, "metadata", metadata);
    json_object_set_new(j, "weight_map", map);
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    json_decref(j);
    CHECK(text);
    return text;
}

// removes weights of an earlier save with another number of shards, which would contradict the new ones
FN void remove_stale_weights(const char *dir, int shards) {
    char name[64], keep[64];
    if (shards > 1) { char *p = path_join(dir, "model.safetensors"); unlink(p); free(p); }
    else { char *p = path_join(dir, "model.safetensors.index.json"); unlink(p); free(p); }
    for (int of = 2; of <= 999; of++) {
        snprintf(name, sizeof name, "model-00001-of-%05d.safetensors", of);
        char *p = path_join(dir, name);
        bool there = of != shards && file_exists(p);
        free(p);
        for (int k = 0; there && k < of; k++) {
            shard_file_name(k, of, keep, sizeof keep);
            char *q = path_join(dir, keep);
            unlink(q);
            free(q);
        }
    }
}

FN void remove_directory_of_files(const char *path) {   // what a killed save left behind: plain files only, not their directories
    if (unlink(path) == 0) return;   // a link or a file in its place: what it points to is not ours
    DIR *d = opendir(path);
    if (!d) return;
    for (struct dirent *f; (f = readdir(d)) != NULL;) { char *p = path_join(path, f->d_name); unlink(p); free(p); }
    closedir(d);
    rmdir(path);
}

// Writes all shards into DIR/.saving and renames them into place only when all are whole and synced. A kill before leaves the old
// weights. Among the renames: a single file is replaced in one; shards of another number have other names, and the index, which
// decides, is replaced in one; shards of the same number take the old names one by one, and there the old index goes first, so
// that a kill in between leaves a directory which does not load instead of a mixture which does.
FN bool save_weights(const Model *m, const SavePiece *pieces, int64_t n, int shards, Dtype dtype, const char *out_dir, Error *e) {
    int64_t largest = model_largest_tensor(m);
    float *buffer = (float *)xmalloc(largest * (int64_t)sizeof(float));
    void *converted = xmalloc(largest * (int64_t)sizeof(float));
    char *temporary = path_join(out_dir, ".saving"), name[64];
    remove_directory_of_files(temporary);
    bool ok = make_directory(temporary, e);
    for (int k = 0; ok && k < shards; k++) {
        shard_file_name(k, shards, name, sizeof name);
        char *path = path_join(temporary, name);
        ok = save_shard(m, pieces, n, k, dtype, path, buffer, converted, e);
        free(path);
    }
    shard_file_name(0, shards, name, sizeof name);
    char *first = path_join(out_dir, name), *old_index = path_join(out_dir, "model.safetensors.index.json");
    if (ok && shards > 1 && file_exists(first)) { unlink(old_index); ok = sync_directory_of(old_index, e); }
    free(first);
    free(old_index);
    for (int k = 0; k < shards; k++) {   // into place, or, after a failure, away
        shard_file_name(k, shards, name, sizeof name);
        char *from = path_join(temporary, name), *to = path_join(out_dir, name);
        if (ok && rename(from, to) != 0) ok = fail(e, "%s: cannot be renamed: %s", from, strerror(errno));
        if (!ok) unlink(from);
        free(from);
        free(to);
    }
    rmdir(temporary);
    if (ok && shards > 1) {
        char *text = save_index(m, pieces, n, shards), *path = path_join(out_dir, "model.safetensors.index.json");
        ok = write_file(path, text, (int64_t)strlen(text), e);
        free(text);
        free(path);
    }
    ok = ok && sync_directory_of(temporary, e);   // the new names are on the disk before the old ones go
    if (ok) remove_stale_weights(out_dir, shards);
    free(temporary);
    free(buffer);
    free(converted);
    return ok;
}

// Writes m to out_dir so that transformers, vLLM and PEFT load it: weights of type `dtype` ("bfloat16", "float16", "float32") in
// one file or in shards of at most max_shard_bytes (0: 5e9), config.json of source_dir with that dtype, and the tokenizer's files.
// LoRA: the adapter is merged in. What was in out_dir stays usable until the new weights are complete. False with one line in e. Collective: rank 0 writes.
FN bool save_dir_alone(const Model *m, const char *source_dir, const char *out_dir, const char *dtype, int64_t max_shard_bytes, Error *e) {
    static const char *const side_files[] = {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "tokenizer.model", "chat_template.jinja", "vocab.json", "merges.txt", "LICENSE", "LICENSE.txt", "NOTICE", "USE_POLICY.md", NULL};
    Dtype type = strcmp(dtype, "bfloat16") == 0 ? DTYPE_BF16 : strcmp(dtype, "float16") == 0 ? DTYPE_F16 : DTYPE_F32;
    if (type == DTYPE_F32 && strcmp(dtype, "float32") != 0) return fail(e, "the dtype to save in is \"%s\", expected bfloat16, float16 or float32", dtype);
    if (max_shard_bytes <= 0) max_shard_bytes = 5000000000ll;
    if (!make_directory(out_dir, e)) return false;
    char *a = realpath(source_dir, NULL), *b = realpath(out_dir, NULL);
    bool same = a && b && strcmp(a, b) == 0;
    free(a);
    free(b);
    if (same) return fail(e, "%s: is the directory the model was read from ---> choose another output directory", out_dir);

    int64_t n = 0, total = 0, used = 0;
    for (int i = 0; i < model_num_tensors(m); i++) n += model_tensor(m, i)->adapter ? 0 : tensor_layers(m, model_tensor(m, i));
    SavePiece *pieces = (SavePiece *)xcalloc(n, sizeof(SavePiece));
    int64_t k = 0;
    int shards = 1;
    // order of the layers, as a reader would stream them: per-layer tensors of one layer stand together
    for (int pass = 0; pass < 3; pass++)   // before the layers, the layers, behind them
        for (int64_t l = 0; l < (pass == 1 ? model_config(m)->num_layers : 1); l++)
            for (int i = 0, seen = 0; i < model_num_tensors(m); i++) {
                const Tensor *t = model_tensor(m, i);
                if (t->adapter) continue;
                seen = seen || t->per_layer;
                if ((pass == 1) != t->per_layer || (pass == 2) != (!t->per_layer && seen)) continue;
                SavePiece *p = &pieces[k++];
                p->tensor = i; p->layer = l; p->bytes = tensor_numbers(t) * dtype_size(type);
                if (used > 0 && used + p->bytes > max_shard_bytes) { shards++; used = 0; }
                p->shard = shards - 1;
                used += p->bytes;
                total += p->bytes;
            }
    CHECK(k == n);
    struct statvfs disk;
    bool ok = true;
    if (statvfs(out_dir, &disk) == 0 && (double)disk.f_bavail * (double)disk.f_frsize < (double)total + 16e6)
        ok = fail(e, "%s: %.2f GB are free, the model needs %.2f GB ---> make room or choose another disk; nothing was written", out_dir,
                  (double)disk.f_bavail * (double)disk.f_frsize / 1e9, (double)total / 1e9);
    for (int i = 0; ok && side_files[i]; i++) ok = copy_file(source_dir, out_dir, side_files[i], e);
    ok = ok && save_config(source_dir, out_dir, dtype, e) && save_weights(m, pieces, n, shards, type, out_dir, e);
    free(pieces);
    return ok;
}

FN bool model_save_dir(const Model *m, const char *source_dir, const char *out_dir, const char *dtype, int64_t max_shard_bytes, Error *e) {
    Comm *c = model_comm(m);
    bool ok = true;
    if (c->rank == 0) {
        ok = save_dir_alone(m, source_dir, out_dir, dtype, max_shard_bytes, e);
        save_no_more(m);
    } else save_serve(m);
    return comm_agree(c, ok, e, "saving the model");
}

#endif
