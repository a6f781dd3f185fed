// json.h: JSON read through jansson with bounds, and the field accessors that produce our one-line errors.
//
// jansson refuses invalid UTF-8, lone surrogates and nesting deeper than 2048; here duplicate keys are refused as well
// (two readers that keep different ones would disagree about a model), and sizes are checked before anything is parsed.
#ifndef FINDAP_JSON_H
#define FINDAP_JSON_H
#include "common.h"
#include <jansson.h>

// parses `size` bytes; `where` names them in errors ("data.jsonl:17"); NULL with an error on anything but one JSON value
FN json_t *json_parse(const char *where, const char *data, int64_t size, Error *e) {
    json_error_t je;
    json_t *j = json_loadb(data ? data : "", (size_t)size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY | JSON_ALLOW_NUL, &je);
    if (!j) fail(e, "%s: not valid JSON at line %d, column %d: %s", where, je.line, je.column, je.text);
    return j;
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

#endif
