// prompt.h: prompts are files (data/prompts/), so that they can be read, replaced and compared; {{name}} marks where a value goes.
//
// A template is checked when it is loaded: each placeholder must be one that the program fills, and each that it fills must be there, for a prompt that
// forgets the answer is judged just as willingly. It is cut into parts once, and values are put between the parts: whatever a value says,
// "{{reference}}" included, is never looked at. That special tokens in a value stay text is chat_render's business.
#ifndef FINDAP_PROMPT_H
#define FINDAP_PROMPT_H
#include "text.h"   // defines: Text
#define PROMPT_MAX_BYTES (1ll << 20)

typedef struct { Text before; int value; } PromptPart;   // text, then value number `value`; -1: nothing, the last part
typedef struct { char *text; PromptPart *parts; int num_parts; } PromptTemplate;

// what each template of data/prompts/ is given, in this order; ends with NULL
FN const char *const prompt_judge[] = {"question", "answer", NULL};
FN const char *const prompt_judge_reference[] = {"question", "reference", "answer", NULL};   // judge_reference.txt and correct.txt
FN const char *const prompt_next_step[] = {"question", "prefix", NULL};
FN const char *const prompt_reason[] = {"question", NULL};
FN const char *const prompt_rate[] = {"reference", "conversation", NULL};
FN const char *const prompt_prefer[] = {"reference", "first", "second", NULL};

FN void prompt_free(PromptTemplate *p) { free(p->text); free(p->parts); memset(p, 0, sizeof *p); }

// False with one line in e, and nothing to free. One newline at the end of a file is the editor's and goes.
FN bool prompt_parse(const char *where, Text t, const char *const *names, PromptTemplate *p, Error *e) {
    memset(p, 0, sizeof *p);
    if (t.length > PROMPT_MAX_BYTES) return fail(e, "%s: is %" PRId64 " bytes, expected at most %lld ---> is this the right file?", where, t.length, PROMPT_MAX_BYTES);
    if (t.length && t.data[t.length - 1] == '\n') t.length--;
    if (memchr(t.data ? t.data : "", 0, (size_t)t.length)) return fail(e, "%s: contains a NUL character, expected a text", where);
    for (int64_t i = 0, size; i < t.length; i += size) {
        utf8proc_int32_t c;
        size = utf8proc_iterate((const utf8proc_uint8_t *)t.data + i, t.length - i, &c);
        if (size <= 0) return fail(e, "%s: byte %" PRId64 " is not UTF-8", where, i);
    }
    p->text = text_copy(t);
    t.data = p->text;
    bool ok = true, seen[16] = {false};
    int64_t at = 0;
    while (ok) {
        int64_t open = text_find(t, text_of("{{"), at), close = open < 0 ? -1 : text_find(t, text_of("}}"), open), value = -1;
        if (open >= 0) {
            int64_t line = 1;
            for (int64_t i = 0; i < open; i++) line += t.data[i] == '\n';
            Text name = text_slice(t, open + 2, close < 0 ? open + 2 : close);
            for (int k = 0; names[k]; k++) if (close >= 0 && text_equal(name, text_of(names[k]))) { value = k; CHECK(k < 16); seen[k] = true; }
            if (close < 0) ok = fail(e, "%s:%" PRId64 ": \"{{\" is never closed ---> a placeholder is written {{%s}}", where, line, names[0]);
            else if (value < 0) {
                Buffer known = {NULL, 0, 0};
                for (int k = 0; names[k]; k++) { buffer_add(&known, k ? ", {{" : "{{", k ? 4 : 2); buffer_add(&known, names[k], (int64_t)strlen(names[k])); buffer_add(&known, "}}", 2); }
                ok = fail(e, "%s:%" PRId64 ": unknown placeholder {{%.*s}}, expected one of: %.*s", where, line, (int)(name.length < 64 ? name.length : 64), name.data, (int)known.len, known.data);
                buffer_free(&known);
            }
        }
        p->parts = (PromptPart *)xrealloc(p->parts, p->num_parts + 1, sizeof(PromptPart));
        p->parts[p->num_parts].before = text_slice(t, at, open < 0 ? t.length : open);
        p->parts[p->num_parts++].value = (int)value;
        if (open < 0) break;
        at = close + 2;
    }
    for (int k = 0; ok && names[k]; k++) if (!seen[k]) ok = fail(e, "%s: has no placeholder {{%s}} ---> without it the model is not shown what the prompt is about", where, names[k]);
    if (!ok) prompt_free(p);
    return ok;
}

FN bool prompt_load(const char *path, const char *const *names, PromptTemplate *p, Error *e) {
    Mapped m;
    memset(p, 0, sizeof *p);
    if (!map_file(path, &m, e)) return false;
    bool ok = prompt_parse(path, text_make((const char *)m.data, m.size), names, p, e);
    unmap_file(&m);
    return ok;
}

// data/prompts/NAME under the working directory, else one or two above the program's (build/x, build/sanitize/x); the caller frees it
FN char *prompt_path(const char *name) {
    char *here = xprintf("data/prompts/%s", name), program[4096];
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n < 0) n = 0;
    program[n] = 0;
    for (int up = 0; up < 3 && !file_exists(here); up++) {   // if it is nowhere, the last place is what the error names
        char *slash = strrchr(program, '/');
        if (!slash) break;
        *slash = 0;
        free(here);
        here = xprintf("%s/data/prompts/%s", program, name);
    }
    return here;
}

FN void prompt_render(const PromptTemplate *p, const Text *values, Buffer *out) {   // behind what `out` holds; values in the order of `names`
    for (int i = 0; i < p->num_parts; i++) {
        buffer_add(out, p->parts[i].before.data, p->parts[i].before.length);
        if (p->parts[i].value >= 0) buffer_add(out, values[p->parts[i].value].data, values[p->parts[i].value].length);
    }
}

#endif
