// json.h: JSON read through jansson with bounds, and the field accessors that produce our one-line errors.
//
// jansson refuses invalid UTF-8, lone surrogates and nesting deeper than 2048; here duplicate keys are refused as well
// (two readers that keep different ones would disagree about a model), and sizes are checked before anything is parsed.
#ifndef FINDAP_JSON_H
#define FINDAP_JSON_H
#include "common.h"
#include <jansson.h>

// What bytes that are no UTF-8 text seem to be, and what to do: for errors. NULs in a text are UTF-16's halves, or it is none.
typedef struct { const char *looks, *hint; } Encoding;
FN Encoding encoding_guess(const char *data, int64_t n) {
    static const Encoding pdf = {"it is a PDF", "pdftotext makes text of it"}, utf16 = {"looks like UTF-16", "iconv -f UTF-16 -t UTF-8"}, little = {"looks like UTF-16", "iconv -f UTF-16LE -t UTF-8"},
                          big = {"looks like UTF-16", "iconv -f UTF-16BE -t UTF-8"}, binary = {"looks binary", "is it a text?"}, older = {"looks like an older encoding", "iconv -f WINDOWS-1252 -t UTF-8, or from whatever it is in"};
    const unsigned char *s = (const unsigned char *)data;
    int64_t zeros[2] = {0, 0}, looked = n < 4096 ? n : 4096;
    bool controls = false;
    for (int64_t i = 0; i < looked; i++) {
        zeros[i % 2] += s[i] == 0;
        controls = controls || (s[i] < 0x20 && s[i] != 0 && !(s[i] >= '\t' && s[i] <= '\r') && s[i] != 0x1B);
    }
    if (n >= 5 && memcmp(s, "%PDF-", 5) == 0) return pdf;
    if (n >= 2 && ((s[0] == 0xFF && s[1] == 0xFE) || (s[0] == 0xFE && s[1] == 0xFF))) return utf16;
    if (zeros[1] > looked / 4 && zeros[0] == 0) return little;
    if (zeros[0] > looked / 4 && zeros[1] == 0) return big;
    return zeros[0] + zeros[1] > 0 || controls ? binary : older;
}

// parses `size` bytes; `where` names them in errors ("data.jsonl:17"); NULL with an error on anything but one JSON value
FN json_t *json_parse(const char *where, const char *data, int64_t size, Error *e) {
    json_error_t je;
    json_t *j = json_loadb(data ? data : "", (size_t)size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!j) fail(e, "%s: not valid JSON at line %d, column %d: %s", where, je.line, je.column, je.text);
    return j;
}

// parses one line of JSONL, which `where` names
FN json_t *json_parse_line(const char *where, const char *data, int64_t size, Error *e) {
    json_error_t je;
    json_t *j = json_loadb(data ? data : "", (size_t)size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (j) return j;
    if (json_error_code(&je) == json_error_invalid_utf8 || (size > 0 && memchr(data, 0, (size_t)size))) {
        Encoding x = encoding_guess(data, size);
        fail(e, "%s: not valid JSON at column %d: %s; the line %s ---> %s", where, je.column, je.text, x.looks, x.hint);
    } else fail(e, "%s: not valid JSON at column %d: %s%s", where, je.column, je.text, json_error_code(&je) != json_error_premature_end_of_input ? "" :
                " ---> expected one object a line: was it cut off, or is it spread over several (jq -c . joins an object's, jq -c '.[]' takes an array apart)?");
    return NULL;
}

FN json_t *json_parse_file(const char *path, int64_t max_bytes, Error *e) {
    Mapped m;
    if (!map_file(path, &m, e)) return NULL;
    json_t *j = NULL;
    if (m.size > max_bytes) fail(e, "%s: is %" PRId64 " bytes, expected at most %" PRId64 " ---> is this the right file?", path, m.size, max_bytes);
    else j = json_parse(path, (const char *)m.data, m.size, e);
    unmap_file(&m);
    return j;
}

FN const char *json_type_name(const json_t *j) {
    if (!j) return "missing";
    switch (json_typeof(j)) {
        case JSON_OBJECT: return "an object";
        case JSON_ARRAY: return "an array";
        case JSON_STRING: return "a string";
        case JSON_INTEGER: return "an integer";
        case JSON_REAL: return "a number";
        case JSON_TRUE: case JSON_FALSE: return "true or false";
        default: return "null";
    }
}

// Field accessors: read object[key] into *out. A missing key (or null) leaves *out as it is when `required` is false.
// A wrong type, or a value outside [low, high], is an error that names `where` and the key.
FN bool json_get_int(const json_t *object, const char *key, const char *where, bool required, int64_t low, int64_t high, int64_t *out, Error *e) {
    const json_t *j = json_object_get(object, key);
    if (!j || json_is_null(j)) return required ? fail(e, "%s: \"%s\" is missing, expected an integer", where, key) : true;
    if (!json_is_integer(j)) return fail(e, "%s: \"%s\" is %s, expected an integer", where, key, json_type_name(j));
    int64_t v = (int64_t)json_integer_value(j);
    if (v < low || v > high) return fail(e, "%s: \"%s\" is %" PRId64 ", expected %" PRId64 " to %" PRId64, where, key, v, low, high);
    *out = v;
    return true;
}

FN bool json_get_double(const json_t *object, const char *key, const char *where, bool required, double low, double high, double *out, Error *e) {
    const json_t *j = json_object_get(object, key);
    if (!j || json_is_null(j)) return required ? fail(e, "%s: \"%s\" is missing, expected a number", where, key) : true;
    if (!json_is_number(j)) return fail(e, "%s: \"%s\" is %s, expected a number", where, key, json_type_name(j));
    double v = json_number_value(j);
    if (!(v >= low && v <= high)) return fail(e, "%s: \"%s\" is %g, expected %g to %g", where, key, v, low, high);
    *out = v;
    return true;
}

FN bool json_get_bool(const json_t *object, const char *key, const char *where, bool required, bool *out, Error *e) {
    const json_t *j = json_object_get(object, key);
    if (!j || json_is_null(j)) return required ? fail(e, "%s: \"%s\" is missing, expected true or false", where, key) : true;
    if (!json_is_boolean(j)) return fail(e, "%s: \"%s\" is %s, expected true or false", where, key, json_type_name(j));
    *out = json_is_true(j);
    return true;
}

FN bool json_get_string(const json_t *object, const char *key, const char *where, bool required, const char **out, Error *e) {   // borrowed from the object
    const json_t *j = json_object_get(object, key);
    if (!j || json_is_null(j)) return required ? fail(e, "%s: \"%s\" is missing, expected a string", where, key) : true;
    if (!json_is_string(j)) return fail(e, "%s: \"%s\" is %s, expected a string", where, key, json_type_name(j));
    if (strlen(json_string_value(j)) != json_string_length(j)) return fail(e, "%s: \"%s\" contains a NUL character", where, key);
    *out = json_string_value(j);
    return true;
}

// refuses a key that nobody reads: a misspelled setting must not be ignored silently. `known` ends with NULL.
FN bool json_only_keys(json_t *object, const char *where, const char *const *known, Error *e) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        bool found = false;
        for (const char *const *k = known; *k; k++) found = found || strcmp(*k, key) == 0;
        if (found) continue;
        Buffer list = {NULL, 0, 0};
        for (const char *const *k = known; *k; k++) { if (k != known) buffer_add(&list, ", ", 2); buffer_add(&list, *k, (int64_t)strlen(*k)); }
        buffer_add(&list, "", 1);
        fail(e, "%s: unknown key \"%s\", expected one of: %s", where, key, list.data);
        buffer_free(&list);
        return false;
    }
    return true;
}

// `text` as a JSON string; bytes that are not UTF-8 become U+FFFD, one for each maximal part of a character, as in Python
FN void json_add_string(Buffer *out, const char *text, int64_t n) {
    const unsigned char *s = (const unsigned char *)text;
    buffer_reserve(out, n + 2);
    buffer_add(out, "\"", 1);
    for (int64_t i = 0; i < n;) {
        unsigned char c = s[i];
        char letter = c == '"' || c == '\\' ? (char)c : c == '\n' ? 'n' : c == '\r' ? 'r' : c == '\t' ? 't' : 0;
        if (letter) { char two[2] = {'\\', letter}; buffer_add(out, two, 2); i++; continue; }
        if (c < 0x20) { char code[8]; snprintf(code, sizeof code, "\\u%04x", c); buffer_add(out, code, 6); i++; continue; }
        int64_t k = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0, good = k > 0;
        while (good > 0 && good < k && i + good < n) {
            unsigned char low = 0x80, high = 0xBF, d = s[i + good];
            if (good == 1 && c == 0xE0) low = 0xA0;
            if (good == 1 && c == 0xED) high = 0x9F;   // surrogates
            if (good == 1 && c == 0xF0) low = 0x90;
            if (good == 1 && c == 0xF4) high = 0x8F;
            if (d < low || d > high) break;
            good++;
        }
        if (good == k && k > 0) buffer_add(out, s + i, k);
        else buffer_add(out, "\xEF\xBF\xBD", 3);
        i += good > 0 ? good : 1;
    }
    buffer_add(out, "\"", 1);
}

#endif
