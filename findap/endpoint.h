// endpoint.h: asks a model behind an HTTP endpoint that speaks the OpenAI chat protocol (libcurl; built without it, everything but the asking is here).
//
// What an endpoint does wrong is counted and costs one reply, never the run. 429, 5xx and lost connections are tried again, each time after twice the wait, or
// as long as Retry-After says; a request that timed out is not, for it has cost its whole time already, and its row is asked again by the next run.
// When `give_up` requests in a row have failed the endpoint is taken for dead and no longer asked: 10,000 rows times a timeout would be days.
//
// The key comes from an environment variable and goes into one header. It is never printed - what a server says about it is masked -, redirects are not
// followed, so that it reaches nobody else, and it is not sent over http except to this machine.
//
// One Endpoint belongs to one thread; open them before threads start (curl's initialisation), and add their counts up.
#ifndef FINDAP_ENDPOINT_H
#define FINDAP_ENDPOINT_H
#include "text.h"   // defines: Text, Message, text_json
#ifdef FINDAP_CURL
#include <curl/curl.h>
#endif
#define ENDPOINT_MAX_BYTES (16ll << 20)   // of a response
#define ENDPOINT_MAX_WAIT 60.0            // seconds, whatever Retry-After says

typedef enum { ENDPOINT_GOOD, ENDPOINT_TIMEOUT, ENDPOINT_NO_CONNECTION, ENDPOINT_BUSY, ENDPOINT_REFUSED, ENDPOINT_MALFORMED, ENDPOINT_TOO_LARGE, ENDPOINT_NOT_ASKED, NUM_ENDPOINT } EndpointStatus;
// busy: still 429 or 5xx after all tries; refused: another status than 200; not_asked: given up before
FN const char *const endpoint_names[NUM_ENDPOINT] = {"good", "timeout", "no_connection", "busy", "refused", "malformed", "too_large", "not_asked"};

typedef struct {
    const char *url, *model;                 // url: of the endpoint itself, as in https://host/v1/chat/completions
    const char *key_variable;                // name of the environment variable that holds the key; it may be unset
    double timeout, backoff;                 // seconds: of one request, and of the first wait
    int64_t tries, give_up;                  // of one request, at least 1; failures in a row
    int64_t max_tokens, seed;                // of the reply; seed < 0: none is sent
    double temperature;
} EndpointOptions;
FN EndpointOptions endpoint_defaults(void) { EndpointOptions o = {NULL, NULL, "OPENAI_API_KEY", 120, 1, 5, 8, 512, -1, 0}; return o; }

typedef struct {
    EndpointOptions o;
    char *key;                               // NULL: none
    int64_t counts[NUM_ENDPOINT], retries, prompt_tokens, reply_tokens, failed_in_a_row;
    Error last;                              // what went wrong last, one line
    Buffer response;
#ifdef FINDAP_CURL
    CURL *curl;
    struct curl_slist *headers;
    char curl_error[CURL_ERROR_SIZE];
#endif
} Endpoint;

typedef struct { char *text; int64_t length, prompt_tokens, reply_tokens; bool capped; } Reply;   // text is terminated; the caller frees it

FN char *endpoint_body(const EndpointOptions *o, const Message *messages, int n) {   // the request; the caller frees it
    json_t *j = json_object(), *list = json_array();
    json_object_set_new(j, "model", text_json(text_of(o->model)));
    for (int i = 0; i < n; i++) {
        json_t *m = json_object();
        json_object_set_new(m, "role", text_json(text_of(messages[i].role)));
        json_object_set_new(m, "content", text_json(text_make(messages[i].content, messages[i].length)));
        json_array_append_new(list, m);
    }
    json_object_set_new(j, "messages", list);
    json_object_set_new(j, "max_tokens", json_integer(o->max_tokens));
    json_object_set_new(j, "temperature", json_real(o->temperature));
    if (o->seed >= 0) json_object_set_new(j, "seed", json_integer(o->seed));
    char *text = json_dumps(j, JSON_COMPACT);
    CHECK(text);
    json_decref(j);
    return text;
}

// The response's first choice. False, with one line in e, for anything that isn't one. Content null is an empty reply: a model may say nothing.
FN bool endpoint_parse(Text response, Reply *r, Error *e) {
    memset(r, 0, sizeof *r);
    json_t *j = json_parse("response", response.data, response.length, e);
    if (!j) return false;
    const json_t *choices = json_object_get(j, "choices"), *choice = json_array_get(choices, 0), *message = json_object_get(choice, "message");
    const json_t *content = json_object_get(message, "content"), *usage = json_object_get(j, "usage");
    const char *finish = NULL;
    bool ok = true;
    if (!json_is_object(message)) ok = fail(e, "response: \"choices\"[0].\"message\" is %s, expected an object ---> is the URL that of the chat completions?", json_type_name(message));
    else if (!json_is_string(content) && !json_is_null(content)) ok = fail(e, "response: \"content\" is %s, expected a string", json_type_name(content));
    ok = ok && json_get_string(choice, "finish_reason", "response", false, &finish, e);
    // figures of the other side are bookkeeping: a wrong one is not worth the reply
    if (ok && !json_get_int(usage, "prompt_tokens", "response", false, 0, INT64_MAX / 4, &r->prompt_tokens, NULL)) r->prompt_tokens = 0;
    if (ok && !json_get_int(usage, "completion_tokens", "response", false, 0, INT64_MAX / 4, &r->reply_tokens, NULL)) r->reply_tokens = 0;
    if (ok) {
        r->length = json_is_string(content) ? (int64_t)json_string_length(content) : 0;
        r->text = text_copy(text_make(json_string_value(content), r->length));
        r->capped = finish && strcmp(finish, "length") == 0;
    }
    json_decref(j);
    return ok;
}

FN bool endpoint_is_local(const char *url) {   // whether http goes no farther than this machine
    static const char *const hosts[] = {"http://localhost", "http://127.0.0.1", "http://[::1]"};
    for (int i = 0; i < 3; i++) { size_t n = strlen(hosts[i]); if (strncasecmp(url, hosts[i], n) == 0 && (url[n] == 0 || strchr(":/?", url[n]))) return true; }
    return false;
}

// everything about the options that can be said without a network
FN bool endpoint_check(const EndpointOptions *o, const char *key, Error *e) {
    bool https = o->url && strncasecmp(o->url, "https://", 8) == 0, http = o->url && strncasecmp(o->url, "http://", 7) == 0;
    if (!https && !http) return fail(e, "the endpoint is \"%s\", expected a URL that begins with https:// or http://", o->url ? o->url : "");
    const char *host = strstr(o->url, "://") + 3;
    size_t n = strcspn(host, "/?#");
    if (n == 0) return fail(e, "the endpoint \"%s\" names no host", o->url);
    if (memchr(host, '@', n)) return fail(e, "the endpoint's URL has a user or password in it ---> the key is read from the environment variable %s", o->key_variable ? o->key_variable : "OPENAI_API_KEY");
    if (!o->model || !*o->model) return fail(e, "the endpoint %s needs the name of a model", o->url);
    if (key && http && !endpoint_is_local(o->url))
        return fail(e, "%s would be sent to %s in the clear ---> use https, or unset the variable if the endpoint wants no key", o->key_variable, o->url);
    for (const char *p = key; p && *p; p++) if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7F) return fail(e, "%s contains a blank or a character that no key has ---> was a newline copied with it?", o->key_variable);
    return true;
}

FN void endpoint_close(Endpoint *p) {
#ifdef FINDAP_CURL
    if (p->curl) { curl_easy_cleanup(p->curl); curl_global_cleanup(); }
    curl_slist_free_all(p->headers);
#endif
    free(p->key);
    buffer_free(&p->response);
    memset(p, 0, sizeof *p);
}

FN void endpoint_add(Endpoint *sum, const Endpoint *p) {
    for (int i = 0; i < NUM_ENDPOINT; i++) sum->counts[i] += p->counts[i];
    sum->retries += p->retries; sum->prompt_tokens += p->prompt_tokens; sum->reply_tokens += p->reply_tokens;
}
FN json_t *endpoint_json(const Endpoint *p) {
    json_t *j = counts_json(endpoint_names, p->counts, NUM_ENDPOINT);
    json_object_set_new(j, "retries", json_integer(p->retries));
    json_object_set_new(j, "prompt_tokens", json_integer(p->prompt_tokens));
    json_object_set_new(j, "reply_tokens", json_integer(p->reply_tokens));
    return j;
}

FN void endpoint_mask(const Text key, Buffer *text) {   // the key, wherever a server repeats it: before an excerpt can cut it in two
    int64_t at = 0;
    if (key.length) while ((at = text_find(text_make(text->data, text->len), key, at)) >= 0) memset(text->data + at, '*', (size_t)key.length);
}

#ifdef FINDAP_CURL
FN size_t endpoint_receive(char *data, size_t size, size_t n, void *user) {
    Buffer *b = (Buffer *)user;
    if ((int64_t)(size * n) > ENDPOINT_MAX_BYTES - b->len) return 0;   // curl then ends with CURLE_WRITE_ERROR
    buffer_add(b, data, (int64_t)(size * n));
    return size * n;
}

// False with one line in e. Nothing is sent yet. The strings of `o` must live as long as the endpoint.
FN bool endpoint_open(Endpoint *p, const EndpointOptions *o, Error *e) {
    memset(p, 0, sizeof *p);
    p->o = *o;
    const char *key = o->key_variable && *o->key_variable ? getenv(o->key_variable) : NULL;
    if (key && !*key) key = NULL;
    CHECK(o->tries >= 1 && o->give_up >= 1 && o->timeout > 0);
    if (!endpoint_check(o, key, e)) return false;
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || !(p->curl = curl_easy_init())) return fail(e, "libcurl cannot be initialised");
    p->key = key ? xstrdup(key) : NULL;
    p->headers = curl_slist_append(NULL, "Content-Type: application/json");
    p->headers = curl_slist_append(p->headers, "Expect:");   // no extra round trip for a body of more than 1 KiB
    char *bearer = key ? xprintf("Authorization: Bearer %s", key) : NULL;
    if (bearer) p->headers = curl_slist_append(p->headers, bearer);
    free(bearer);
    CHECK(p->headers);
    long milliseconds = (long)(1000 * (o->timeout < 1e6 ? o->timeout : 1e6));
    if (milliseconds < 1) milliseconds = 1;   // 0 would be no limit
    curl_easy_setopt(p->curl, CURLOPT_URL, o->url);
    curl_easy_setopt(p->curl, CURLOPT_HTTPHEADER, p->headers);
    curl_easy_setopt(p->curl, CURLOPT_WRITEFUNCTION, endpoint_receive);
    curl_easy_setopt(p->curl, CURLOPT_WRITEDATA, &p->response);
    curl_easy_setopt(p->curl, CURLOPT_ERRORBUFFER, p->curl_error);
    curl_easy_setopt(p->curl, CURLOPT_TIMEOUT_MS, milliseconds);
    curl_easy_setopt(p->curl, CURLOPT_CONNECTTIMEOUT_MS, milliseconds < 10000 ? milliseconds : 10000l);
    curl_easy_setopt(p->curl, CURLOPT_NOSIGNAL, 1l);
    curl_easy_setopt(p->curl, CURLOPT_FOLLOWLOCATION, 0l);
    if (endpoint_is_local(o->url)) curl_easy_setopt(p->curl, CURLOPT_NOPROXY, "*");
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(p->curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(p->curl, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    return true;
}

// One request. *wait: seconds the server asks to wait, 0: none.
FN EndpointStatus endpoint_try(Endpoint *p, const char *body, Reply *reply, double *wait, Error *e) {
    p->response.len = 0;
    p->curl_error[0] = 0;
    *wait = 0;
    curl_easy_setopt(p->curl, CURLOPT_POSTFIELDS, body);
    curl_easy_setopt(p->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(body));
    CURLcode code = curl_easy_perform(p->curl);
    long status = 0;
    endpoint_mask(text_of(p->key), &p->response);
    curl_easy_getinfo(p->curl, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_WRITE_ERROR) { fail(e, "%s: the response is larger than %lld MiB", p->o.url, ENDPOINT_MAX_BYTES >> 20); return ENDPOINT_TOO_LARGE; }
    if (code != CURLE_OK) {
        fail(e, "%s: %s", p->o.url, p->curl_error[0] ? p->curl_error : curl_easy_strerror(code));
        return code == CURLE_OPERATION_TIMEDOUT ? ENDPOINT_TIMEOUT : ENDPOINT_NO_CONNECTION;
    }
    if (status == 200) {
        Error why;
        if (endpoint_parse(text_make(p->response.data, p->response.len), reply, &why)) return ENDPOINT_GOOD;
        fail(e, "%s: %s", p->o.url, why.text);
        return ENDPOINT_MALFORMED;
    }
#if LIBCURL_VERSION_NUM >= 0x074200
    curl_off_t after = 0;
    if (curl_easy_getinfo(p->curl, CURLINFO_RETRY_AFTER, &after) == CURLE_OK && after > 0) *wait = (double)after < ENDPOINT_MAX_WAIT ? (double)after : ENDPOINT_MAX_WAIT;
#endif
    fail(e, "%s: HTTP status %ld: %.*s", p->o.url, status, (int)(p->response.len < 300 ? p->response.len : 300), p->response.data ? p->response.data : "");
    return status == 429 || status >= 500 ? ENDPOINT_BUSY : ENDPOINT_REFUSED;
}

FN void endpoint_sleep(double seconds) {
    struct timespec t;
    t.tv_sec = (time_t)seconds;
    t.tv_nsec = (long)(1e9 * (seconds - (double)t.tv_sec));
    nanosleep(&t, NULL);   // a signal ends it early, as it should
}

// ENDPOINT_GOOD: *reply is filled and the caller frees its text. Else it is empty, the failure is counted and p->last says why.
FN EndpointStatus endpoint_ask(Endpoint *p, const Message *messages, int n, Reply *reply) {
    EndpointStatus status = ENDPOINT_NOT_ASKED;
    memset(reply, 0, sizeof *reply);
    if (p->failed_in_a_row < p->o.give_up) {
        char *body = endpoint_body(&p->o, messages, n);
        double pause = p->o.backoff, wait = 0;
        for (int64_t k = 0; k < p->o.tries; k++) {
            if (k > 0) { endpoint_sleep(wait > pause ? wait : pause); p->retries++; pause = pause * 2 < ENDPOINT_MAX_WAIT ? pause * 2 : ENDPOINT_MAX_WAIT; }
            status = endpoint_try(p, body, reply, &wait, &p->last);
            if (status != ENDPOINT_BUSY && status != ENDPOINT_NO_CONNECTION) break;
        }
        free(body);
        if (status == ENDPOINT_GOOD) { p->prompt_tokens += reply->prompt_tokens; p->reply_tokens += reply->reply_tokens; }
        p->failed_in_a_row = status == ENDPOINT_GOOD ? 0 : p->failed_in_a_row + 1;
    }
    p->counts[status]++;
    return status;
}
#else
FN bool endpoint_open(Endpoint *p, const EndpointOptions *o, Error *e) {
    (void)o;
    memset(p, 0, sizeof *p);
    return fail(e, "this program was built without libcurl ---> install libcurl4-openssl-dev and run make again, or judge with a local model");
}
FN EndpointStatus endpoint_ask(Endpoint *p, const Message *messages, int n, Reply *reply) {
    (void)messages; (void)n;
    memset(reply, 0, sizeof *reply);
    p->counts[ENDPOINT_NOT_ASKED]++;
    return ENDPOINT_NOT_ASKED;
}
#endif

#endif
