// fuzz_config.c: config_parse on anything that is JSON. What is accepted must be usable: sane dimensions, a positive number of
// parameters, finite rotary frequencies.
#include "../../findap/config.h"   // defines: config_parse, config_rope_inv_freq

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Error e;
    e.text[0] = 0;
    json_t *j = json_parse("fuzz", (const char *)data, (int64_t)size, &e);
    Config c;
    bool ok = j && config_parse("fuzz", j, &c, &e);
    if (!ok && (!e.text[0] || strchr(e.text, '\n'))) abort();   // a refusal is exactly one line
    if (ok) {
        float inv_freq[512];
        config_rope_inv_freq(&c, inv_freq);
        for (int64_t i = 0; i < c.head_dim / 2; i++) if (!isfinite(inv_freq[i]) || inv_freq[i] < 0) abort();
        if (config_num_parameters(&c) <= 0 || c.num_heads % c.num_kv_heads || c.num_eos < 0 || c.num_eos > 8) abort();
        for (int i = 0; i < c.num_eos; i++) if (c.eos[i] < 0) abort();
    }
    json_decref(j);
    return 0;
}
