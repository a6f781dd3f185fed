// chat.h: conversations to token ids, by the template the model was (or will be) trained with. Training, preference pairs,
// generation and evaluation all come through chat_render(), so they cannot drift apart.
//
// Ids, not a string: the template's special tokens are put in by id, and all text - the template's own and the
// conversation's - is encoded with special-token parsing off. A user who writes "<|eot_id|>" gets the letters.
//
// Text between two special tokens is encoded in one piece, as Hugging Face's apply_chat_template does when it encodes the
// rendered string; so "user\n" + "\nhello" gives the token "\n\n" there and here. With one deliberate exception: an
// assistant turn is cut where generation begins, after the generation prompt ("assistant\n" in ChatML). The model will
// only ever see that cut at inference, so it has to be trained on it; and a token that is half header, half answer could be
// neither masked nor trained. The ids differ from Hugging Face's only when an answer starts with white space that would merge
// into the header's newline (ChatML with an answer that starts with a newline; Llama trims it away).
//
// Each template is one row of a table, and chat_hash() is the hash of that row: a changed template has another hash.
#ifndef FINDAP_CHAT_H
#define FINDAP_CHAT_H
#include "common.h"      // defines: Ids, Buffer, Error, fail, Hash
#include "tokenizer.h"   // defines: tokenizer_encode, tokenizer_find, tokenizer_bos, tokenizer_eos

typedef enum { TEMPLATE_NONE, TEMPLATE_LLAMA3, TEMPLATE_LLAMA31, TEMPLATE_QWEN2, TEMPLATE_DEEPSEEK_R1, NUM_TEMPLATES } ChatTemplate;

typedef struct { const char *role; const char *content; int64_t length; } Message;   // role: "system", "user" or "assistant"

enum { CHAT_SYSTEM, CHAT_USER, CHAT_ASSISTANT, CHAT_NUM_ROLES };
FN const char *const chat_role_names[CHAT_NUM_ROLES] = {"system", "user", "assistant"};

// One turn is: open, role, close, gap, content, end, tail. open, close and end are special tokens, the others text; "" is nothing.
typedef struct { const char *open, *role, *close, *gap, *end, *tail; } ChatTurn;

#define CHAT_BOS "(bos)"   // whatever the tokenizer says, nothing when it has none
#define CHAT_EOS "(eos)"

typedef struct {
    const char *name;
    const char *bos;              // special token before everything
    ChatTurn turns[CHAT_NUM_ROLES];
    const char *default_system;   // system text when the conversation brings none; NULL: no system turn then
    const char *system_prefix;    // text before every first system turn's content
    bool trim;                    // white space around the content goes, as Jinja's trim does
    bool reasoning;               // <think> ... </think>: dropped from all but the last turn, token ids in the last
    bool system_first;            // a system turn is possible at the beginning only
} ChatDefinition;

#define LLAMA3_TURN(role) {"<|start_header_id|>", role, "<|end_header_id|>", "\n\n", "<|eot_id|>", ""}
#define CHATML_TURN(role) {"<|im_start|>", role, "", "\n", "<|im_end|>", "\n"}
#define LLAMA3_TURNS {LLAMA3_TURN("system"), LLAMA3_TURN("user"), LLAMA3_TURN("assistant")}
#define R1_BOS "<\xEF\xBD\x9C" "begin\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"   // full-width bars, U+2581 for the spaces
#define R1_EOS "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"
#define R1_USER "<\xEF\xBD\x9C" "User\xEF\xBD\x9C>"
#define R1_ASSISTANT "<\xEF\xBD\x9C" "Assistant\xEF\xBD\x9C>"

// Sources: the chat_template of each model's tokenizer_config.json (without tools). Llama 3.1's date is the one its template
// falls back to. R1's is the first release's: the generation prompt ends with <|Assistant|>, and the answer opens <think> itself.
FN const ChatDefinition chat_definitions[NUM_TEMPLATES] = {
    {"none", CHAT_BOS, {{"", "", "", "", "", ""}, {"", "", "", "", "", ""}, {"", "", "", "", CHAT_EOS, ""}}, NULL, "", false, false, false},
    {"llama3", "<|begin_of_text|>", LLAMA3_TURNS, NULL, "", true, false, false},
    {"llama3.1", "<|begin_of_text|>", LLAMA3_TURNS, "",
     "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n", true, false, false},
    {"qwen2", "", {CHATML_TURN("system"), CHATML_TURN("user"), CHATML_TURN("assistant")},
     "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", "", false, false, false},
    {"deepseek-r1", R1_BOS, {{"", "", "", "", "", ""}, {R1_USER, "", "", "", "", ""}, {R1_ASSISTANT, "", "", "", R1_EOS, ""}},
     NULL, "", false, true, true},
};

FN const char *chat_name(ChatTemplate t) { return chat_definitions[t].name; }

FN bool chat_find(const char *name, ChatTemplate *out, Error *e) {
    for (int i = 0; i < NUM_TEMPLATES; i++)
        if (strcmp(name, chat_definitions[i].name) == 0) { *out = (ChatTemplate)i; return true; }
    return fail(e, "unknown chat template \"%s\", expected one of: none, llama3, llama3.1, qwen2, deepseek-r1", name);
}

// the template whose special tokens this tokenizer has; TEMPLATE_NONE when it has none of them
FN ChatTemplate chat_guess(const Tokenizer *t) {
    if (tokenizer_find(t, "<|eom_id|>") >= 0 && tokenizer_find(t, "<|eot_id|>") >= 0) return TEMPLATE_LLAMA31;   // a token that came with 3.1
    for (int i = 1; i < NUM_TEMPLATES; i++) {
        const ChatTurn *a = &chat_definitions[i].turns[CHAT_ASSISTANT];
        if (tokenizer_find(t, a->open) >= 0 && tokenizer_find(t, a->end) >= 0) return (ChatTemplate)i;
    }
    return TEMPLATE_NONE;
}

// 32 hexadecimal digits over everything in the template's row (and a number for the rules in the code below)
FN const char *chat_hash(ChatTemplate t) {
    static __thread Hash hash;   // per thread, and the same value for the same template whenever it is asked for again
    const ChatDefinition *d = &chat_definitions[t];
    Buffer b = {NULL, 0, 0};
    const char *head[] = {"findap-chat-1", d->name, d->bos, d->default_system ? d->default_system : "(no system turn)", d->system_prefix,
                          d->trim ? "trim" : "", d->reasoning ? "reasoning" : "", d->system_first ? "system first" : ""};
    for (size_t i = 0; i < sizeof head / sizeof *head; i++) buffer_add(&b, head[i], (int64_t)strlen(head[i]) + 1);
    for (int r = 0; r < CHAT_NUM_ROLES; r++) {
        const char *turn[] = {d->turns[r].open, d->turns[r].role, d->turns[r].close, d->turns[r].gap, d->turns[r].end, d->turns[r].tail};
        for (size_t i = 0; i < sizeof turn / sizeof *turn; i++) buffer_add(&b, turn[i], (int64_t)strlen(turn[i]) + 1);
    }
    hash = hash_bytes(b.data, b.len);
    buffer_free(&b);
    return hash.hex;
}

// The code point at s (n > 0 bytes left), its bytes in *size; broken UTF-8 is one byte and no code point of interest.
FN uint32_t chat_code_point(const unsigned char *s, int64_t n, int64_t *size) {
    *size = 1;
    if (s[0] < 0x80) return s[0];
    if (n >= 2 && (s[0] & 0xE0) == 0xC0 && (s[1] & 0xC0) == 0x80) { *size = 2; return (uint32_t)(s[0] & 0x1F) << 6 | (s[1] & 0x3F); }
    if (n >= 3 && (s[0] & 0xF0) == 0xE0 && (s[1] & 0xC0) == 0x80 && (s[2] & 0xC0) == 0x80) {
        *size = 3;
        return (uint32_t)(s[0] & 0x0F) << 12 | (uint32_t)(s[1] & 0x3F) << 6 | (s[2] & 0x3F);
    }
    return 0xFFFD;
}

// what Python's str.strip() (hence Jinja's trim) takes for white space; all of it lies below U+10000
FN bool chat_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

FN void chat_trim(const char **text, int64_t *length) {
    const unsigned char *s = (const unsigned char *)*text;
    int64_t begin = 0, end = *length, size = 0;
    while (begin < end && chat_is_space(chat_code_point(s + begin, end - begin, &size))) begin += size;
    while (end > begin) {
        int64_t last = end - 1;
        while (last > begin && end - last < 3 && (s[last] & 0xC0) == 0x80) last--;
        if (!chat_is_space(chat_code_point(s + last, end - last, &size)) || last + size != end) break;
        end = last;
    }
    *text += begin;
    *length = end - begin;
}

typedef struct {
    const Tokenizer *tokenizer;
    const ChatDefinition *definition;
    Buffer pending;      // text since the last special token or cut; encoded in one piece
    Ids *ids;
    Buffer *weights;     // may be NULL
    Error *e;
} ChatWriter;

FN void chat_text(ChatWriter *w, const char *text, int64_t length) { buffer_add(&w->pending, text, length); }
FN void chat_string(ChatWriter *w, const char *text) { buffer_add(&w->pending, text, (int64_t)strlen(text)); }

FN void chat_mark(ChatWriter *w, bool trained) {   // gives the ids written since the last mark their weight
    if (!w->weights) return;
    int64_t more = w->ids->len - w->weights->len;
    if (more == 0) return;
    buffer_reserve(w->weights, more);
    memset(w->weights->data + w->weights->len, trained, (size_t)more);
    w->weights->len += more;
}

FN void chat_flush(ChatWriter *w, bool trained) {
    if (w->pending.len > 0) tokenizer_encode(w->tokenizer, w->pending.data, w->pending.len, false, w->ids);
    w->pending.len = 0;
    chat_mark(w, trained);
}

FN bool chat_special(ChatWriter *w, const char *name, bool trained) {
    if (!*name) return true;
    chat_flush(w, trained);
    bool from_tokenizer = strcmp(name, CHAT_BOS) == 0 || strcmp(name, CHAT_EOS) == 0;
    int32_t id = !from_tokenizer ? tokenizer_find(w->tokenizer, name)
               : strcmp(name, CHAT_BOS) == 0 ? tokenizer_bos(w->tokenizer) : tokenizer_eos(w->tokenizer);
    if (id < 0 && from_tokenizer) return true;
    if (id < 0) return fail(w->e, "template %s needs the token %s, which this tokenizer does not have ---> is --template that of this model?",
                            w->definition->name, name);
    ids_add(w->ids, id);
    chat_mark(w, trained);
    return true;
}

FN bool chat_header(ChatWriter *w, const ChatTurn *t) {   // up to where the content begins
    if (!chat_special(w, t->open, false)) return false;
    chat_string(w, t->role);
    if (!chat_special(w, t->close, false)) return false;
    chat_string(w, t->gap);
    return true;
}

// the content of an assistant turn of a reasoning model: the thoughts belong to the turn that is being answered only, and
// there the opening <think> and the last </think> are the template's markers, so they become their tokens
FN bool chat_reasoning(ChatWriter *w, const char *text, int64_t length, bool is_last) {
    static const char open[] = "<think>", close[] = "</think>";
    const int64_t open_length = 7, close_length = 8;
    int64_t end = -1;   // where the last </think> begins
    for (const char *p = text; length > 0 && (p = (const char *)memmem(p, (size_t)(text + length - p), close, (size_t)close_length)); p++)
        end = p - text;
    if (end >= 0 && !is_last) { text += end + close_length; length -= end + close_length; end = -1; }
    if (length >= open_length && memcmp(text, open, (size_t)open_length) == 0 && is_last) {
        if (!chat_special(w, open, true)) return false;
        text += open_length; length -= open_length; end -= end >= 0 ? open_length : 0;
    }
    if (end >= 0) {
        chat_text(w, text, end);
        if (!chat_special(w, close, true)) return false;
        text += end + close_length; length -= end + close_length;
    }
    chat_text(w, text, length);
    return true;
}

FN int chat_role(const char *role) {   // -1: unknown
    for (int r = 0; r < CHAT_NUM_ROLES; r++) if (strcmp(role, chat_role_names[r]) == 0) return r;
    return -1;
}

FN bool chat_turn(ChatWriter *w, int role, const char *text, int64_t length, bool is_first, bool is_last, int64_t *content_begin) {
    const ChatDefinition *d = w->definition;
    const ChatTurn *t = &d->turns[role];
    bool trained = role == CHAT_ASSISTANT;
    if (!chat_header(w, t)) return false;
    if (trained) chat_flush(w, false);   // the cut at the generation prompt
    *content_begin = w->ids->len;
    if (role == CHAT_SYSTEM && is_first) chat_string(w, d->system_prefix);
    if (d->trim) chat_trim(&text, &length);
    if (trained && d->reasoning) { if (!chat_reasoning(w, text, length, is_last)) return false; }
    else chat_text(w, text, length);
    if (trained) chat_flush(w, true);
    if (!chat_special(w, t->end, trained)) return false;
    chat_string(w, t->tail);
    return true;
}

// chat_render, below, that also says where the content of message number `completion` (an assistant turn) begins among `ids`:
// everything before is the prompt as it will be at inference, header of the answer included.
FN bool chat_render_at(const Tokenizer *tokenizer, ChatTemplate t, const Message *messages, int n, bool generation_prompt,
                       int completion, int64_t *completion_begin, Ids *ids, Buffer *weights, Error *e) {
    const ChatDefinition *d = &chat_definitions[t];
    ChatWriter w = {tokenizer, d, {NULL, 0, 0}, ids, weights, e};
    int64_t begin = 0;
    if (weights) CHECK(weights->len == ids->len);
    bool ok = chat_special(&w, d->bos, false);
    if (ok && d->default_system && (n == 0 || strcmp(messages[0].role, "system") != 0))
        ok = chat_turn(&w, CHAT_SYSTEM, d->default_system, (int64_t)strlen(d->default_system), true, false, &begin);
    for (int i = 0; i < n && ok; i++) {
        int role = chat_role(messages[i].role);
        if (role < 0) ok = fail(e, "message %d has the role \"%s\", expected system, user or assistant", i + 1, messages[i].role);
        else if (role == CHAT_SYSTEM && i > 0 && d->system_first)
            ok = fail(e, "message %d is a system turn; template %s allows one at the beginning only", i + 1, d->name);
        else ok = chat_turn(&w, role, messages[i].content, messages[i].length, i == 0, i == n - 1 && !generation_prompt, &begin);
        if (i == completion && completion_begin) *completion_begin = begin;
    }
    if (ok && generation_prompt) ok = chat_header(&w, &d->turns[CHAT_ASSISTANT]);
    chat_flush(&w, false);
    buffer_free(&w.pending);
    return ok;
}

// Appends the conversation's ids, and to `weights` (or NULL) one byte an id: 1 for the content of every assistant turn and
// the token that ends it, 0 for all else. generation_prompt adds the header of the answer to come. False with one line in e
// for an unknown role, a system turn where the template has none, or a tokenizer without the template's tokens.
FN bool chat_render(const Tokenizer *tokenizer, ChatTemplate t, const Message *messages, int n, bool generation_prompt,
                    Ids *ids, Buffer *weights, Error *e) {
    return chat_render_at(tokenizer, t, messages, n, generation_prompt, -1, NULL, ids, weights, e);
}

#endif
