// terminal.h: text of a model on a terminal. A model repeats what it was trained on and what it is shown, so its words may carry sequences that move the cursor, rename the
// window, put text on the clipboard, or show a line in another order than it is. Here they become visible text: \x1b, \u202e.
//
// Neutralised: C0 controls but newline and tab, DEL, C1 controls (U+0080 to U+009F), whether written as UTF-8 or as bare bytes; what reorders or hides text - bidirectional marks,
// embeddings, overrides and isolates, the tag characters, line and paragraph separators -; bytes that are not UTF-8.
#ifndef FINDAP_TERMINAL_H
#define FINDAP_TERMINAL_H
#include "common.h"     // defines: Buffer
#include <utf8proc.h>   // defines: utf8proc_iterate

FN bool terminal_harmless(utf8proc_int32_t c) {
    if (c < 0x20) return c == '\n' || c == '\t';
    return !((c >= 0x7F && c <= 0x9F) || c == 0x061C || c == 0x180E || c == 0x200E || c == 0x200F || (c >= 0x2028 && c <= 0x202E) || (c >= 0x2066 && c <= 0x206F) || c == 0xFEFF || (c >= 0xFFF9 && c <= 0xFFFB) || (c >= 0xE0000 && c <= 0xE0FFF));
}

// Appends text[0..n) to `out`, made harmless; returns how many bytes were taken: a character at the end of which only the beginning is there waits for its rest, unless `last`.
FN int64_t terminal_text(const char *text, int64_t n, bool last, Buffer *out) {
    int64_t i = 0;
    while (i < n) {
        const unsigned char *s = (const unsigned char *)text + i;
        utf8proc_int32_t c = -1;
        utf8proc_ssize_t size = utf8proc_iterate(s, (utf8proc_ssize_t)(n - i), &c);
        char code[16];
        if (size > 0 && terminal_harmless(c)) { buffer_add(out, s, (int64_t)size); i += (int64_t)size; continue; }
        if (size <= 0 && !last) {   // cut off, or broken?
            int64_t want = s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : 0, have = 1;
            while (have < want && i + have < n && (s[have] & 0xC0) == 0x80) have++;
            if (have < want && i + have == n) return i;
        }
        int length = size <= 0 || c < 0x80 ? snprintf(code, sizeof code, "\\x%02x", s[0]) : snprintf(code, sizeof code, c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
        buffer_add(out, code, length);
        i += size > 0 ? (int64_t)size : 1;
    }
    return i;
}

#endif
