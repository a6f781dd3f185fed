// eval_pixiu.h: what the leaderboard's harness (The-FinAI/PIXIU, src/tasks/flare.py) makes of an output, quirk by quirk, for numbers that can be compared with published ones
// (--pixiu-compat). Nothing here is how an answer should be read; eval_extract.h is. dev/eval_pixiu_reference.py is the same in Python, over scikit-learn, seqeval, rouge_score.
//
//     classification  the first choice, in the row's order, whose lower-cased text is anywhere in the output: "not positive" is positive, "know" has a "no"
//     stock, credit   likewise, or a keyword (yes, positive | no, negative, neutral); nothing at all is "Fall" in one and "good" in the other
//     headlines       anything but exactly "Yes" is "No"
//     qa              the whole output equals the answer, byte for byte
//     tsa             the first digits of the first line, without their sign; what has none is left out of the RMSE
//     ner             names found as substrings; one that reaches the last word is lost; a later line overwrites; types are not checked
//     sequence        line i is about token i, which must not have a colon
//     relation        one set over all rows; an empty output is one (wrong) relation
//     extractive      the predicted summary is always empty (it compares "1" with 1), so ROUGE is 0
//
// Not here: BERTScore and BARTScore need models of their own. str.lower() is per character: a final sigma becomes a plain one.
#ifndef FINDAP_EVAL_PIXIU_H
#define FINDAP_EVAL_PIXIU_H
#include "eval_extract.h"   // defines: TextList, Task, Doc

FN Buffer pixiu_lower(Text t) {   // str.lower(); the caller frees it
    Buffer out = {NULL, 0, 0};
    buffer_reserve(&out, t.length + 1);
    for (int64_t i = 0, size; i < t.length; i += size) {
        utf8proc_uint8_t bytes[4];
        uint32_t c = code_point_at(t, i, &size);
        if (c == 0x130) { buffer_add(&out, "i\xCC\x87", 3); continue; }
        if (c == 0) { buffer_add(&out, t.data + i, size); continue; }
        buffer_add(&out, bytes, utf8proc_encode_char(utf8proc_tolower((utf8proc_int32_t)c), bytes));
    }
    return out;
}
FN bool pixiu_has(Text output, Text word, bool lower) {
    Buffer w = {NULL, 0, 0};
    if (lower) w = pixiu_lower(word);
    bool found = text_find(output, lower ? text_make(w.data, w.len) : word, 0) >= 0;
    buffer_free(&w);
    return found;
}

FN int pixiu_row_choice(const Doc *d, int i) { return d->row_order ? d->row_order[i] : i; }
FN int pixiu_choice(const Task *t, const Doc *d, Text output) {   // the label read, -1: "missing"
    if (t->pixiu == PIXIU_HEADLINES) return pixiu_row_choice(d, text_equal(text_trim(output), text_of("Yes")) ? 0 : 1);
    static const char *const words[2][4] = {{"yes", "positive", NULL, NULL}, {"no", "negative", "neutral", NULL}}, *const names[2][2] = {{"rise", "fall"}, {"good", "bad"}};
    bool lists = t->pixiu == PIXIU_STOCK || t->pixiu == PIXIU_CREDIT, credit = t->pixiu == PIXIU_CREDIT;
    Buffer lower = {NULL, 0, 0};
    if (t->pixiu_lower) lower = pixiu_lower(text_trim(output));
    Text o = t->pixiu_lower ? text_make(lower.data, lower.len) : text_trim(output);
    int found = -1, fallback = -1;
    for (int i = 0; i < d->num_choices && found < 0; i++) {
        int k = pixiu_row_choice(d, i);
        if (pixiu_has(o, d->choices[k], t->pixiu_lower)) found = k;
        for (int side = 0; lists && side < 2 && found < 0; side++) {
            Buffer choice = pixiu_lower(d->choices[k]);
            bool mine = text_equal(text_make(choice.data, choice.len), text_of(names[credit][side]));
            buffer_free(&choice);
            for (int w = 0; mine && words[side][w] && found < 0; w++) if (text_find(o, text_of(words[side][w]), 0) >= 0) found = k;
            if (mine && side == (credit ? 0 : 1)) fallback = k;
        }
    }
    buffer_free(&lower);
    return found >= 0 ? found : fallback;
}

FN bool pixiu_number(Text output, double *value) {   // the first [0-9]+(\.[0-9]+)? of the first line, clipped to -1 .. 1
    int64_t at = 0, i = 0;
    Text line = text_line(output, &at);
    while (i < line.length && !is_digit(line.data[i])) i++;
    if (i == line.length) return false;
    int64_t end = i;
    while (is_digit(text_at(line, end))) end++;
    if (text_at(line, end) == '.' && is_digit(text_at(line, end + 1))) for (end++; is_digit(text_at(line, end));) end++;
    char *s = text_copy(text_slice(line, i, end));
    *value = strtod(s, NULL);
    free(s);
    if (*value > 1) *value = 1;
    return true;
}

// Offsets are of characters, as in Python: at[i] is that of byte i; the caller frees it
FN int64_t *pixiu_offsets(Text t) {
    int64_t *at = (int64_t *)xcalloc(t.length + 1, sizeof(int64_t)), size, n = 0;
    for (int64_t i = 0; i < t.length; i += size, n++) {
        code_point_at(t, i, &size);
        for (int64_t k = 0; k < size && i + k < t.length; k++) at[i + k] = n;
    }
    at[t.length] = n;
    return at;
}
FN TextList pixiu_entities(Text text, Text output) {   // a tag for each word of the text
    TextList tags = {NULL, 0, NULL, 0};
    Text *words = NULL;
    int n = 0;
    doc_split(text, false, &words, &n);
    int64_t *at = pixiu_offsets(text), *starts = (int64_t *)xcalloc(n + 1, sizeof(int64_t));   // where the words would begin, were there one blank between them
    for (int i = 0; i < n; i++) {
        text_list_add(&tags, text_of("O"));
        int64_t begin = words[i].data - text.data;
        starts[i + 1] = starts[i] + at[begin + words[i].length] - at[begin] + 1;
    }
    bool more = true;
    for (int64_t next = 0, lines = 0; more && lines < MAX_ANSWER_LINES; lines++) {
        const char *newline = (const char *)memchr(output.data + next, '\n', (size_t)(output.length - next));
        Text line = text_slice(output, next, newline ? newline - output.data : output.length), name = text_make("", 0), type = line;
        more = newline != NULL;
        next += line.length + 1;
        for (int64_t i = line.length - 2; i >= 0; i--) {   // split at ", ", the last piece is the type
            if (line.data[i] != ',' || line.data[i + 1] != ' ') continue;
            name = text_slice(line, 0, i);
            type = text_from(line, i + 2);
            break;
        }
        if (name.length == 0) continue;
        Text begin = {NULL, 0}, inside = {NULL, 0};
        int a = 0;
        for (int64_t pos = text_find(text, name, 0); pos >= 0; pos = text_find(text, name, pos + name.length)) {
            int64_t first = at[pos], last = at[pos + name.length] - 1;
            while (a < n && starts[a] < first) a++;
            int b = a;
            while (b < n && starts[b] <= last) b++;
            if (a >= n || b >= n) break;   // it reaches the last word: lost, and so is all that follows
            if (!begin.data) {
                char *s = xprintf("B-%.*s", (int)type.length, type.data);
                begin = text_list_own(&tags, s, 2 + type.length);
                s = xprintf("I-%.*s", (int)type.length, type.data);
                inside = text_list_own(&tags, s, 2 + type.length);
            }
            tags.items[a] = begin;
            for (int i = a + 1; i < b; i++) tags.items[i] = inside;
        }
    }
    free(words); free(at); free(starts);
    return tags;
}

// Line i is "token:LABEL" about token i, else that token has no label: an empty tag, O for entities and "no answer" for the F1 of labels
FN TextList pixiu_tags(const Task *t, const Doc *d, Text output) {
    TextList tags = {NULL, 0, NULL, 0};
    for (int i = 0; i < d->num_tokens; i++) text_list_add(&tags, text_make("", 0));
    int64_t next = 0;
    for (int i = 0; i < d->num_tokens && next <= output.length; i++) {
        const char *newline = next < output.length ? (const char *)memchr(output.data + next, '\n', (size_t)(output.length - next)) : NULL;
        Text line = text_slice(output, next, newline ? newline - output.data : output.length);
        next += line.length + 1;
        int64_t colon = text_find(line, text_of(":"), 0);
        if (colon < 0 || text_find(line, text_of(":"), colon + 1) >= 0 || !text_equal(text_slice(line, 0, colon), d->tokens[i])) continue;
        Text label = text_from(line, colon + 1);
        bool known = t->num_choices == 0 && tag_good(label);
        for (int k = 0; k < t->num_choices && !known; k++) known = text_equal(t->choices[k], label);
        if (known) tags.items[i] = text_list_own(&tags, text_copy(label), label.length);
    }
    return tags;
}

#endif
