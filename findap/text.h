// text.h: pieces of text that belong to somebody else, compared and searched. What models write is taken as bytes with a length: it may hold NULs
// and broken UTF-8, and nothing here minds.
#ifndef FINDAP_TEXT_H
#define FINDAP_TEXT_H
#include "chat.h"       // defines: chat_trim, chat_is_space, chat_code_point
#include "json.h"       // defines: json_t, json_add_string
#include <utf8proc.h>   // defines: utf8proc_map

typedef struct { const char *data; int64_t length; } Text;   // borrowed; not terminated

FN Text text_make(const char *data, int64_t length) { Text t = {data, length}; return t; }
FN Text text_of(const char *s) { return text_make(s ? s : "", s ? (int64_t)strlen(s) : 0); }
FN Text text_from(Text t, int64_t begin) { return text_make(t.data + begin, t.length - begin); }
FN Text text_slice(Text t, int64_t begin, int64_t end) { return text_make(t.data + begin, end - begin); }
FN Text text_trim(Text t) { chat_trim(&t.data, &t.length); return t; }
FN bool text_equal(Text a, Text b) { return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, (size_t)a.length) == 0); }
FN char text_at(Text t, int64_t i) { return i >= 0 && i < t.length ? t.data[i] : 0; }   // 0 outside
FN bool text_begins(Text t, const char *word) {   // whatever the case of ASCII letters
    int64_t n = (int64_t)strlen(word);
    return t.length >= n && strncasecmp(t.data, word, (size_t)n) == 0;
}
FN int64_t text_find(Text t, Text what, int64_t from) {   // -1: not there
    if (from < 0 || what.length > t.length - from) return -1;
    if (what.length == 0) return from;
    const char *p = (const char *)memmem(t.data + from, (size_t)(t.length - from), what.data, (size_t)what.length);
    return p ? p - t.data : -1;
}
FN bool is_digit(char c) { return c >= '0' && c <= '9'; }
FN bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
FN bool is_word(char c) { return is_digit(c) || is_letter(c); }   // ASCII only: languages without blanks have no such words

FN char *text_copy(Text t) {   // terminated; the caller frees it
    char *s = (char *)xmalloc(t.length + 1);
    if (t.length) memcpy(s, t.data, (size_t)t.length);
    s[t.length] = 0;
    return s;
}

FN Text text_line(Text t, int64_t *at) {   // the line at *at, which moves behind it
    const char *end = (const char *)memchr(t.data + *at, '\n', (size_t)(t.length - *at));
    int64_t begin = *at, stop = end ? end - t.data : t.length;
    *at = end ? stop + 1 : t.length;
    return text_slice(t, begin, stop);
}

// What a reasoning model says behind its last </think>, trimmed. False: the thinking was begun and not ended, so there is no answer.
FN bool text_after_thinking(Text *t) {
    const Text open = text_of("<think>"), close = text_of("</think>");
    int64_t begin = 0;
    for (int64_t at = text_find(*t, close, 0); at >= 0; at = text_find(*t, close, begin)) begin = at + close.length;
    *t = text_trim(text_from(*t, begin));
    return text_find(*t, open, 0) < 0;
}

// `t` with every run of white space as one blank and none at the ends; at[i] says where byte i lies in t, at[out.len] where its last one ends. The caller frees both.
FN Buffer text_squeeze(Text t, int64_t **at) {
    Buffer out = {NULL, 0, 0};
    buffer_reserve(&out, t.length + 1);
    *at = (int64_t *)xcalloc(t.length + 1, sizeof(int64_t));
    bool blank = false;
    int64_t size = 0;
    for (int64_t i = 0; i < t.length; i += size) {
        if (chat_is_space(chat_code_point((const unsigned char *)t.data + i, t.length - i, &size))) { blank = out.len > 0; continue; }
        if (blank) { (*at)[out.len] = i - 1; buffer_add(&out, " ", 1); blank = false; }
        for (int64_t k = 0; k < size; k++) (*at)[out.len + k] = i + k;
        buffer_add(&out, t.data + i, size);
        (*at)[out.len] = i + size;
    }
    return out;
}

// `t` through utf8proc, white space squeezed. The caller frees it.
FN Buffer text_fold_by(Text t, utf8proc_option_t options) {
    utf8proc_uint8_t *folded = NULL;
    int64_t n = utf8proc_map((const utf8proc_uint8_t *)t.data, t.length, &folded, options), *at;
    Buffer out = text_squeeze(n >= 0 ? text_make((const char *)folded, n) : t, &at);   // broken UTF-8 stays as it is
    free(folded); free(at);
    return out;
}
// `t` as it is compared when only the wording counts: NFKC, folded case, white space squeezed. The caller frees it.
FN Buffer text_fold(Text t) { return text_fold_by(t, (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD)); }
FN bool text_same_wording(Text a, Text b) {
    Buffer x = text_fold(a), y = text_fold(b);
    bool same = text_equal(text_make(x.data, x.len), text_make(y.data, y.len));
    buffer_free(&x); buffer_free(&y);
    return same;
}

FN json_t *text_json(Text t) {   // a JSON string; what is not UTF-8 becomes U+FFFD
    json_t *j = json_stringn(t.data, (size_t)t.length);
    if (j) return j;
    Buffer b = {NULL, 0, 0};
    json_add_string(&b, t.data, t.length);
    j = json_loadb(b.data, (size_t)b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    buffer_free(&b);
    CHECK(j);
    return j;
}

FN json_t *counts_json(const char *const *names, const int64_t *counts, int n) {   // {name: count}, all of them
    json_t *j = json_object();
    for (int i = 0; i < n; i++) json_object_set_new(j, names[i], json_integer(counts[i]));
    return j;
}

#endif
