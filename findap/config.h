// config.h: config.json of the model families the house knows - Llama 3 / 3.1 / 3.2 and Qwen2.5 - in both spellings
// (transformers 4: rope_theta, rope_scaling, torch_dtype; transformers 5: rope_parameters, dtype).
//
// What would change the mathematics and is not implemented is refused by name: a model that trains with a setting
// silently ignored is worse than one that does not start.
#ifndef FINDAP_CONFIG_H
#define FINDAP_CONFIG_H
#include "json.h"   // defines: json_parse_file, json_get_*

typedef enum { FAMILY_LLAMA, FAMILY_QWEN2 } Family;

typedef struct {
    Family family;
    int64_t vocab_size, hidden_size, num_layers, num_heads, num_kv_heads, head_dim, intermediate_size, max_position;
    double rms_norm_eps, rope_theta, initializer_range;
    bool rope_llama3;                 // Llama-3.1's frequency scaling; the next four say how
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_max_position;
    bool tied_embeddings, qkv_bias;
    int64_t bos, eos[8];              // -1: none
    int num_eos;
    char dtype[16];                   // "bfloat16", "float32" or "float16": of the weights on disk
} Config;

// Number of parameters; a tied embedding counts once.
FN int64_t config_num_parameters(const Config *c) {
    int64_t C = c->hidden_size, q = c->num_heads * c->head_dim, kv = c->num_kv_heads * c->head_dim;
    int64_t layer = C * q + 2 * C * kv + q * C + 3 * C * c->intermediate_size + 2 * C + (c->qkv_bias ? q + 2 * kv : 0);
    return c->num_layers * layer + C + c->vocab_size * C * (c->tied_embeddings ? 1 : 2);
}

// inv_freq (head_dim/2): theta^(-2j/head_dim) in fp32, with Llama-3.1's scaling where the config asks for it: wavelengths
// above original/low are slowed by `factor`, those below original/high are kept, those between are blended. The order of
// operations is Hugging Face's (modeling_rope_utils), so that the fp32 results agree bit for bit, but for the last bit of
// torch's own pow, which is not always correctly rounded (one of the 64 at head_dim 128, theta 1e6).
FN void config_rope_inv_freq(const Config *c, float *inv_freq) {
    float factor = (float)c->rope_factor, low = (float)c->rope_low_freq_factor, high = (float)c->rope_high_freq_factor;
    float original = (float)c->rope_original_max_position;
    for (int64_t j = 0; j < c->head_dim / 2; j++) {
        float exponent = (float)(2 * j) / (float)c->head_dim;
        float f = 1.0f / (float)pow(c->rope_theta, (double)exponent);
        if (c->rope_llama3) {
            float wavelength = (1.0f / f) * (float)(2.0 * 3.14159265358979323846);   // torch divides a number by a tensor so
            if (wavelength > original / low) f = f / factor;
            else if (!(wavelength < original / high)) {
                volatile float ratio = (1.0f / wavelength) * original;   // volatile: torch rounds every product, a fused multiply-add would not
                float smooth = (ratio - low) / (high - low);
                volatile float slow = (1.0f - smooth) * f / factor, fast = smooth * f;
                f = slow + fast;
            }
        }
        inv_freq[j] = f;
    }
}

FN bool config_refuse_true(const json_t *j, const char *key, const char *where, Error *e) {
    bool on = false;
    if (!json_get_bool(j, key, where, false, &on, e)) return false;
    return on ? fail(e, "%s: \"%s\" is true, which is not supported, expected false", where, key) : true;
}

FN bool config_family(const json_t *j, const char *where, Family *out, Error *e) {
    const json_t *list = json_object_get(j, "architectures");
    if (!json_is_array(list) || json_array_size(list) != 1 || !json_is_string(json_array_get(list, 0)))
        return fail(e, "%s: \"architectures\" is %s, expected a list of one name ---> is this a model's config.json?", where, json_is_array(list) ? "not a list of one name" : json_type_name(list));
    const char *name = json_string_value(json_array_get(list, 0));
    if (strcmp(name, "LlamaForCausalLM") == 0) *out = FAMILY_LLAMA;
    else if (strcmp(name, "Qwen2ForCausalLM") == 0) *out = FAMILY_QWEN2;
    else return fail(e, "%s: the architecture is \"%s\", expected LlamaForCausalLM or Qwen2ForCausalLM", where, name);
    return true;
}

FN bool config_rope(const json_t *j, const char *where, Config *c, Error *e) {
    const json_t *p = json_object_get(j, "rope_parameters");            // transformers 5
    if (!p || json_is_null(p)) p = json_object_get(j, "rope_scaling");  // transformers 4
    c->rope_theta = 10000.0;   // the default of both families' config classes
    if (!json_get_double(j, "rope_theta", where, false, 1, 1e15, &c->rope_theta, e)) return false;
    if (!p || json_is_null(p)) return true;
    if (!json_is_object(p)) return fail(e, "%s: \"rope_parameters\" or \"rope_scaling\" is %s, expected an object", where, json_type_name(p));
    if (!json_get_double(p, "rope_theta", where, false, 1, 1e15, &c->rope_theta, e)) return false;
    const char *type = NULL;
    if (!json_get_string(p, "rope_type", where, false, &type, e) || (!type && !json_get_string(p, "type", where, false, &type, e))) return false;
    double rotary_share = 1;
    if (!json_get_double(p, "partial_rotary_factor", where, false, 1, 1, &rotary_share, e)) return false;
    if (!type && json_object_get(p, "factor")) return fail(e, "%s: the rope scaling has a \"factor\" but no \"rope_type\", expected default or llama3", where);
    if (type && strcmp(type, "default") != 0 && strcmp(type, "llama3") != 0) return fail(e, "%s: \"rope_type\" is \"%s\", expected default or llama3", where, type);
    // any other key (a section for each layer type, an attention factor) would change the mathematics
    static const char *const known[] = {"rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "partial_rotary_factor", NULL};
    if (!json_only_keys((json_t *)p, where, known, e)) return false;
    if (!type || strcmp(type, "default") == 0) return true;
    c->rope_llama3 = true;
    if (!json_get_double(p, "factor", where, true, 1, 1e6, &c->rope_factor, e) || !json_get_double(p, "low_freq_factor", where, true, 1e-6, 1e6, &c->rope_low_freq_factor, e) ||
        !json_get_double(p, "high_freq_factor", where, true, 1e-6, 1e6, &c->rope_high_freq_factor, e) ||
        !json_get_int(p, "original_max_position_embeddings", where, true, 1, 1 << 30, &c->rope_original_max_position, e)) return false;
    if (c->rope_high_freq_factor <= c->rope_low_freq_factor)
        return fail(e, "%s: \"high_freq_factor\" is %g, expected more than low_freq_factor = %g", where, c->rope_high_freq_factor, c->rope_low_freq_factor);
    return true;
}

FN bool config_token(const json_t *j, const char *key, const char *where, int64_t vocab_size, int64_t *out, int max, int *n, Error *e) {   // one id or a list
    const json_t *v = json_object_get(j, key);
    *n = 0;
    if (!v || json_is_null(v)) return true;
    size_t count = json_is_array(v) ? json_array_size(v) : 1;
    if (count > (size_t)max) return fail(e, "%s: \"%s\" has %zu ids, expected at most %d", where, key, count, max);
    for (size_t i = 0; i < count; i++) {
        const json_t *x = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(x)) return fail(e, "%s: \"%s\" is %s, expected a token id", where, key, json_type_name(x));
        int64_t id = (int64_t)json_integer_value(x);
        // ids outside the embedding stand in real files (a padded vocabulary's); they are kept out of ours, not refused
        if (id < -1 || id >= ((int64_t)1 << 31)) return fail(e, "%s: \"%s\" is %" PRId64 ", expected a token id below %" PRId64, where, key, id, vocab_size);
        if (id >= 0 && id < vocab_size) out[(*n)++] = id;
    }
    return true;
}

// Reads a parsed config.json into *c; `where` names it in errors. Every value is bounded, so that no later product of them overflows.
FN bool config_parse(const char *where, const json_t *j, Config *c, Error *e) {
    memset(c, 0, sizeof *c);
    if (!json_is_object(j)) return fail(e, "%s: is %s, expected an object", where, json_type_name(j));
    if (!config_family(j, where, &c->family, e)) return false;
    int64_t big = (int64_t)1 << 20;
    if (!json_get_int(j, "vocab_size", where, true, 1, (int64_t)1 << 24, &c->vocab_size, e) || !json_get_int(j, "hidden_size", where, true, 1, big, &c->hidden_size, e) ||
        !json_get_int(j, "num_hidden_layers", where, true, 1, 1000, &c->num_layers, e) || !json_get_int(j, "num_attention_heads", where, true, 1, 4096, &c->num_heads, e) ||
        !json_get_int(j, "intermediate_size", where, true, 1, big, &c->intermediate_size, e)) return false;
    c->num_kv_heads = c->num_heads;
    c->max_position = 2048;
    c->rms_norm_eps = 1e-6;
    c->initializer_range = 0.02;
    c->tied_embeddings = false;
    if (!json_get_int(j, "num_key_value_heads", where, false, 1, 4096, &c->num_kv_heads, e) ||
        !json_get_int(j, "max_position_embeddings", where, false, 1, (int64_t)1 << 30, &c->max_position, e) ||
        !json_get_double(j, "rms_norm_eps", where, false, 0, 1, &c->rms_norm_eps, e) || !json_get_double(j, "initializer_range", where, false, 0, 10, &c->initializer_range, e) ||
        !json_get_bool(j, "tie_word_embeddings", where, false, &c->tied_embeddings, e)) return false;
    if (c->num_kv_heads > c->num_heads || c->num_heads % c->num_kv_heads != 0)
        return fail(e, "%s: \"num_key_value_heads\" is %" PRId64 ", expected a divisor of num_attention_heads = %" PRId64, where, c->num_kv_heads, c->num_heads);
    const json_t *head_dim = json_object_get(j, "head_dim");
    if (head_dim && !json_is_null(head_dim)) { if (!json_get_int(j, "head_dim", where, true, 2, 1024, &c->head_dim, e)) return false; }
    else if (c->hidden_size % c->num_heads != 0)
        return fail(e, "%s: \"hidden_size\" is %" PRId64 ", expected a multiple of num_attention_heads = %" PRId64 " (or a \"head_dim\")", where, c->hidden_size, c->num_heads);
    else c->head_dim = c->hidden_size / c->num_heads;
    if (c->head_dim < 2 || c->head_dim > 1024 || c->head_dim % 2 != 0) return fail(e, "%s: the head dimension is %" PRId64 ", expected an even number from 2 to 1024", where, c->head_dim);
    const char *act = "silu", *dtype = NULL;
    if (!json_get_string(j, "hidden_act", where, false, &act, e)) return false;
    if (strcmp(act, "silu") != 0) return fail(e, "%s: \"hidden_act\" is \"%s\", expected silu", where, act);
    if (!config_refuse_true(j, "attention_bias", where, e) || !config_refuse_true(j, "mlp_bias", where, e) || !config_refuse_true(j, "use_sliding_window", where, e)) return false;
    const json_t *quantized = json_object_get(j, "quantization_config");
    if (quantized && !json_is_null(quantized)) return fail(e, "%s: the model is quantized (\"quantization_config\"), expected plain weights ---> use the original model", where);
    double rotary_share = 1;
    if (!json_get_double(j, "partial_rotary_factor", where, false, 1, 1, &rotary_share, e)) return false;
    const json_t *layer_types = json_object_get(j, "layer_types");
    for (size_t i = 0; i < json_array_size(layer_types); i++) {
        const char *kind = json_string_value(json_array_get(layer_types, i));
        if (!kind || strcmp(kind, "full_attention") != 0) return fail(e, "%s: layer_types[%zu] is \"%.40s\", expected full_attention", where, i, kind ? kind : "not a string");
    }
    c->qkv_bias = c->family == FAMILY_QWEN2;
    if (!config_rope(j, where, c, e)) return false;
    if (!json_get_string(j, "dtype", where, false, &dtype, e) || (!dtype && !json_get_string(j, "torch_dtype", where, false, &dtype, e))) return false;
    if (!dtype) dtype = "float32";
    if (strcmp(dtype, "bfloat16") != 0 && strcmp(dtype, "float32") != 0 && strcmp(dtype, "float16") != 0)
        return fail(e, "%s: the dtype is \"%s\", expected bfloat16, float16 or float32", where, dtype);
    snprintf(c->dtype, sizeof c->dtype, "%s", dtype);
    int64_t bos = -1;
    int n = 0;
    if (!config_token(j, "bos_token_id", where, c->vocab_size, &bos, 1, &n, e) || !config_token(j, "eos_token_id", where, c->vocab_size, c->eos, 8, &c->num_eos, e)) return false;
    c->bos = n ? bos : -1;
    return true;
}

// reads DIR/config.json
FN bool config_load(const char *dir, Config *c, Error *e) {
    char *path = path_join(dir, "config.json"), *adapter = path_join(dir, "adapter_config.json");
    json_t *j = NULL;
    if (!file_exists(path) && file_exists(adapter)) fail(e, "%s: is an adapter, expected a model ---> give the model it was trained on, and this with --adapter; or the merged model", dir);
    else j = json_parse_file(path, 1 << 20, e);   // real ones are a few KB
    bool ok = j && config_parse(path, j, c, e);
    json_decref(j);
    free(path); free(adapter);
    return ok;
}

#endif
