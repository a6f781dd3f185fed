// lora.h: adapters (LoRA) as PEFT keeps them: a directory with adapter_config.json and adapter_model.safetensors, to a model and back. What an
// adapter computes stands in train_findap.c; how it is merged into saved weights in model_dir.h.
//
// PEFT knows many kinds of adapter under the name LoRA. Here there is the plain one on any of the seven projections of a layer; a directory
// that asks for more is refused in one line, since the rest of it alone would be another model.
#ifndef FINDAP_LORA_H
#define FINDAP_LORA_H
#include "json.h"        // defines: json_parse_file, json_get_*
#include "model.h"       // defines: Lora, lora_targets, model_lora
#include "model_dir.h"   // defines: model_load_tensor, model_tensor_named, save_get, save_serve

enum { LORA_MAX_RANK = 65536, LORA_TEXT_SIZE = 64 };

FN int lora_target(const char *name, size_t length) {   // index into lora_targets, -1: none of them
    for (int k = 0; k < LORA_TARGETS; k++) if (strlen(lora_targets[k]) == length && strncmp(lora_targets[k], name, length) == 0) return k;
    return -1;
}
FN bool lora_parse_targets(const char *text, uint32_t *targets, Error *e) {   // "q,k,v,o,gate,up,down", or some of them
    *targets = 0;
    for (const char *p = text;; p++) {
        size_t length = strcspn(p, ",");
        int k = lora_target(p, length);
        if (k < 0) return fail(e, "--lora-targets is \"%s\", expected some of q,k,v,o,gate,up,down joined by commas", text);
        if (*targets >> k & 1) return fail(e, "--lora-targets is \"%s\": %s is there twice", text, lora_targets[k]);
        *targets |= 1u << k;
        p += length;
        if (!*p) return true;
    }
}
FN const char *lora_targets_text(uint32_t targets, char *text) {   // text: LORA_TEXT_SIZE characters
    size_t at = 0;
    text[0] = 0;
    for (int k = 0; k < LORA_TARGETS; k++) if (targets >> k & 1) at += (size_t)snprintf(text + at, LORA_TEXT_SIZE - at, "%s%s", at ? "," : "", lora_targets[k]);
    return text;
}
FN void lora_print(const Lora *l) {   // nothing without an adapter
    char targets[LORA_TEXT_SIZE];
    if (l->rank) fprintf(stderr, "LoRA: rank %" PRId64 ", alpha %g, scale %g, on %s\n", l->rank, l->alpha, lora_scale(l), lora_targets_text(l->targets, targets));
}
FN json_t *lora_to_json(const Lora *l) {
    char targets[LORA_TEXT_SIZE];
    return json_pack("{s:I,s:f,s:b,s:s}", "rank", (json_int_t)l->rank, "alpha", l->alpha, "rslora", (int)l->rslora, "targets", lora_targets_text(l->targets, targets));
}

// PEFT's beginning: A uniform in +-1/sqrt(in), which is nn.Linear's own, and B zero, so that nothing is changed yet
FN void lora_init(Model *m, uint64_t seed) {
    for (int i = 0; i < model_num_tensors(m); i++) {
        const Tensor *t = model_tensor(m, i);
        if (!t->adapter) continue;
        double bound = t->name[strlen(t->name) - 1] == 'A' ? 1.0 / sqrt((double)t->cols) : 0;
        float *x = (float *)xmalloc(tensor_numbers(t) * (int64_t)sizeof(float));
        for (int64_t l = 0; l < tensor_layers(m, t); l++) {
            for (int64_t j = 0; j < tensor_numbers(t); j++) x[j] = (float)(bound * (2 * random_uniform(seed, (uint64_t)(l * 64 + i), (uint64_t)j) - 1));
            model_put(m, KIND_PARAM, i, (int)l, x);
        }
        free(x);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// reading

// PEFT adds a key for every new kind of adapter. One that we don't know is harmless while it is off - null, false, empty - and when it is a number
// or a word, which only says more about something that another key turns on.
FN bool lora_plain(json_t *config, const char *path, Error *e) {
    static const char *const known[] = {"auto_mapping", "ensure_weight_tying", "eva_config", "inference_mode", "init_lora_weights", "target_modules", "use_rslora", NULL};
    const char *key, *init = json_string_value(json_object_get(config, "init_lora_weights"));
    json_t *value;
    json_object_foreach(config, key, value) {
        bool ours = false, on = json_is_true(value) || json_object_size(value) > 0 || json_array_size(value) > 0;
        for (int k = 0; known[k]; k++) ours = ours || strcmp(known[k], key) == 0;
        if (strcmp(key, "layers_to_transform") == 0 || strcmp(key, "exclude_modules") == 0 || strcmp(key, "target_parameters") == 0) on = on || json_is_integer(value) || json_is_string(value);
        if (on && !ours) return fail(e, "%s: \"%s\" is set (%s), expected a plain LoRA adapter without it ---> merge it with PEFT and give the merged model as --model", path, key, json_type_name(value));
    }
    if (init && strcmp(init, "gaussian") != 0 && strcmp(init, "orthogonal") != 0 && strcmp(init, "eva") != 0)
        return fail(e, "%s: \"init_lora_weights\" is \"%s\", which changes the base model too ---> merge it with PEFT and give the merged model as --model", path, init);
    return true;
}

FN bool lora_read_targets(const json_t *config, const char *path, uint32_t *targets, Error *e) {
    const json_t *list = json_object_get(config, "target_modules");
    if (!json_is_array(list) || json_array_size(list) == 0) return fail(e, "%s: \"target_modules\" is %s, expected a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj", path,
                                                                        json_is_array(list) ? "empty" : json_type_name(list));
    *targets = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        const char *name = json_is_string(item) ? json_string_value(item) : json_type_name(item);
        size_t length = strlen(name);
        int k = length > 5 && strcmp(name + length - 5, "_proj") == 0 ? lora_target(name, length - 5) : -1;
        if (k < 0) return fail(e, "%s: \"target_modules\" has \"%.80s\", expected some of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj", path, name);
        *targets |= 1u << k;
    }
    return true;
}

// adapter_config.json of DIR
FN bool lora_read_config(const char *dir, Lora *out, Error *e) {
    char *path = path_join(dir, "adapter_config.json");
    const char *kind = NULL, *bias = "none", *task = "CAUSAL_LM";
    memset(out, 0, sizeof *out);
    json_t *j = json_parse_file(path, 1 << 20, e);
    bool ok = j && (json_is_object(j) || fail(e, "%s: is %s, expected an object", path, json_type_name(j)));
    ok = ok && json_get_string(j, "peft_type", path, true, &kind, e) && json_get_string(j, "bias", path, false, &bias, e) && json_get_string(j, "task_type", path, false, &task, e);
    if (ok && strcmp(kind, "LORA") != 0) ok = fail(e, "%s: \"peft_type\" is \"%.40s\", expected LORA", path, kind);
    if (ok && strcmp(bias, "none") != 0) ok = fail(e, "%s: \"bias\" is \"%.40s\", expected none ---> merge it with PEFT and give the merged model as --model", path, bias);
    if (ok && strcmp(task, "CAUSAL_LM") != 0) ok = fail(e, "%s: \"task_type\" is \"%.40s\", expected CAUSAL_LM", path, task);
    ok = ok && lora_plain(j, path, e) && lora_read_targets(j, path, &out->targets, e) && json_get_int(j, "r", path, true, 1, LORA_MAX_RANK, &out->rank, e) &&
         json_get_double(j, "lora_alpha", path, true, 1e-9, 1e9, &out->alpha, e) && json_get_bool(j, "use_rslora", path, false, &out->rslora, e);
    json_decref(j);
    free(path);
    return ok;
}

// DIR's adapter into m, which was made with the same settings
FN bool lora_load_dir(Model *m, const char *dir, Error *e) {
    char a[LORA_TEXT_SIZE], b[LORA_TEXT_SIZE];
    const Lora *want = model_lora(m);
    Lora have;
    bool ok = lora_read_config(dir, &have, e);   // one that cannot be read says so below, where all ranks meet
    if (ok && (have.rank != want->rank || have.alpha != want->alpha || have.rslora != want->rslora || have.targets != want->targets))
        ok = fail(e, "%s/adapter_config.json: rank %" PRId64 ", alpha %g, rslora %d on %s, the model was made for rank %" PRId64 ", alpha %g, rslora %d on %s", dir, have.rank, have.alpha, have.rslora,
                    lora_targets_text(have.targets, a), want->rank, want->alpha, want->rslora, lora_targets_text(want->targets, b));
    char *path = path_join(dir, "adapter_model.safetensors"), *pickle = path_join(dir, "adapter_model.bin");
    Safetensors *s = NULL;
    if (ok && !file_exists(path) && file_exists(pickle)) fail(e, "%s: is a pickle, which can run any program when it is read ---> save the adapter as safetensors", pickle);
    else if (ok) s = safetensors_open(path, e);
    ok = s != NULL;
    int64_t not_finite = 0;
    for (int64_t k = 0; ok && k < s->count; k++)
        if (!model_tensor_named(m, s->tensors[k].name, true)) ok = fail(e, "%s: unexpected tensor \"%.150s\" ---> is adapter_config.json that of these weights, and the adapter that of this model?", path, s->tensors[k].name);
    for (int i = 0; ok && i < model_num_tensors(m); i++) {
        const Tensor *t = model_tensor(m, i);
        float *buffer = t->adapter ? (float *)xmalloc(tensor_numbers(t) * (int64_t)sizeof(float)) : NULL;
        for (int64_t l = 0; ok && t->adapter && l < tensor_layers(m, t); l++) {
            char name[128];
            tensor_hf_name(t, l, name, sizeof name);
            ok = model_load_tensor(m, i, l, safetensors_find(s, name), path, "the model with adapter_config.json", buffer, &not_finite, e);
        }
        free(buffer);
    }
    safetensors_close(s);
    ok = comm_agree(model_comm(m), ok, e, "reading the adapter");
    if (ok) model_share(m);
    if (ok) comm_sum_i64(model_comm(m), &not_finite, 1, "weights that are not finite");
    not_finite /= model_replicas(m)->size;   // each of which has counted its own copy
    if (ok && not_finite && model_comm(m)->rank == 0) warn("%s: %" PRId64 " weights are NaN or infinite ---> every loss will be; is the download damaged?", path, not_finite);
    free(path);
    free(pickle);
    return ok;
}

// ---------------------------------------------------------------------------------------------------------------
// writing

// adapter_config.json's text, to be freed: the keys that PEFT has known since it has had rsLoRA and DoRA. Old versions refuse a key they don't know.
FN char *lora_config_text(const Lora *l, const char *base) {
    char word[4096];
    escape_text(word, sizeof word, base, strlen(base));   // JSON holds UTF-8 only
    json_t *targets = json_array();
    for (int k = 0; k < LORA_TARGETS; k++) if (l->targets >> k & 1) json_array_append_new(targets, json_sprintf("%s_proj", lora_targets[k]));
    json_t *alpha = l->alpha == floor(l->alpha) ? json_integer((json_int_t)l->alpha) : json_real(l->alpha);   // PEFT declares an integer
    json_t *j = json_pack("{s:{},s:n,s:s,s:s,s:b,s:b,s:b,s:n,s:n,s:o,s:f,s:n,s:s,s:I,s:{},s:n,s:o,s:s,s:b,s:b}", "alpha_pattern", "auto_mapping", "base_model_name_or_path", word, "bias", "none",
                          "fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1, "layers_pattern", "layers_to_transform", "lora_alpha", alpha, "lora_dropout", 0.0, "modules_to_save",
                          "peft_type", "LORA", "r", (json_int_t)l->rank, "rank_pattern", "revision", "target_modules", targets, "task_type", "CAUSAL_LM", "use_dora", 0, "use_rslora", (int)l->rslora);
    CHECK(j);
    char *text = json_dumps(j, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    json_decref(j);
    CHECK(text);
    return text;
}

// Weights first, then the config without which PEFT sees no adapter; one that says something else goes before, so that a kill in between leaves
// a directory that does not load instead of a mixture that does.
FN bool lora_save_alone(const Model *m, const char *base, const char *dir, Error *e) {
    if (!make_directory(dir, e)) return false;
    char *config = path_join(dir, "adapter_config.json"), *path = path_join(dir, "adapter_model.safetensors"), *text = lora_config_text(model_lora(m), base);
    Mapped old;
    memset(&old, 0, sizeof old);
    bool there = file_exists(config) && map_file(config, &old, NULL), same = there && old.size == (int64_t)strlen(text) && memcmp(old.data, text, (size_t)old.size) == 0;
    unmap_file(&old);
    if (there && !same) unlink(config);
    SafetensorsWriter *w = safetensors_writer_new(path);
    safetensors_writer_metadata(w, "format", "pt");
    int64_t largest = 1;
    for (int i = 0; i < model_num_tensors(m); i++) {
        const Tensor *t = model_tensor(m, i);
        int64_t shape[2] = {t->rows, t->cols};
        char name[128];
        for (int64_t l = 0; t->adapter && l < tensor_layers(m, t); l++) { tensor_hf_name(t, l, name, sizeof name); safetensors_writer_tensor(w, name, DTYPE_F32, 2, shape); }
        if (t->adapter && tensor_numbers(t) > largest) largest = tensor_numbers(t);
    }
    float *buffer = (float *)xmalloc(largest * (int64_t)sizeof(float));
    bool ok = safetensors_writer_begin(w, e);
    for (int i = 0; i < model_num_tensors(m); i++) {
        const Tensor *t = model_tensor(m, i);
        for (int64_t l = 0; ok && t->adapter && l < tensor_layers(m, t); l++) {
            save_get(m, KIND_PARAM, i, (int)l, buffer);
            ok = safetensors_writer_data(w, buffer, tensor_numbers(t) * (int64_t)sizeof(float), e);
        }
    }
    if (ok) ok = safetensors_writer_commit(w, e);
    else safetensors_writer_abandon(w);
    ok = ok && (same || write_file(config, text, (int64_t)strlen(text), e));
    free(buffer); free(text); free(config); free(path);
    return ok;
}

// Writes m's adapter to DIR as PEFT, transformers and vLLM read it, in fp32 as PEFT trains it; `base`: what it belongs to. Collective: rank 0 writes.
FN bool lora_save_dir(const Model *m, const char *base, const char *dir, Error *e) {
    bool ok = true;
    if (model_comm(m)->rank == 0) {
        ok = lora_save_alone(m, base, dir, e);
        save_no_more(m);
    } else save_serve(m);
    return comm_agree(model_comm(m), ok, e, "saving the adapter");
}

#endif
