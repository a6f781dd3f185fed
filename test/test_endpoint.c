// test_endpoint.c: the client of the OpenAI chat protocol against a small HTTP server of the test's own, which answers well, badly, late or never.
// That the request is what the protocol wants, that every way to fail is counted under its name, and that the key goes nowhere but into its header.
#include "../findap/endpoint.h"   // defines: endpoint_open, endpoint_ask
#include "check.h"
#include <pthread.h>
#include <sys/socket.h>
#include <netinet/in.h>
#include <poll.h>

static const char key[] = "sk-test-0123456789abcdef";

// ---- a server: one thread, one connection at a time; what it says is given before

typedef enum { SAY, HANG, CLOSE, HUGE_BODY } Act;
typedef struct { Act act; int status; const char *header, *body; } Script;
typedef struct {
    int fd, port, stop[2];
    pthread_t thread;
    pthread_mutex_t lock;
    const Script *script;   // the last one is said again and again
    int length, requests;
    char last[1 << 16];     // the last request
} Server;

static int64_t content_length(const char *request) { const char *p = strcasestr(request, "\r\nContent-Length:"); return p ? atoll(p + 17) : 0; }
static bool wait_for(Server *s, int fd) {   // until there is something to read; false: stop
    struct pollfd p[2] = {{fd, POLLIN, 0}, {s->stop[0], POLLIN, 0}};
    return poll(p, 2, -1) >= 0 && !p[1].revents;
}
static void send_all(int fd, const char *data, size_t n) {
    while (n) { ssize_t k = send(fd, data, n, MSG_NOSIGNAL); if (k <= 0) return; data += k; n -= (size_t)k; }
}
static void serve_one(Server *s, int fd) {
    size_t n = 0;
    char request[sizeof s->last] = "";
    for (char *end = NULL; !end || n < (size_t)(end + 4 - request) + (size_t)content_length(request); end = strstr(request, "\r\n\r\n")) {
        if (!wait_for(s, fd)) return;
        ssize_t k = recv(fd, request + n, sizeof request - 1 - n, 0);
        if (k <= 0) return;
        request[n += (size_t)k] = 0;
    }
    pthread_mutex_lock(&s->lock);
    const Script what = s->script[s->requests < s->length ? s->requests : s->length - 1];
    s->requests++;
    memcpy(s->last, request, n + 1);
    pthread_mutex_unlock(&s->lock);
    if (what.act == HANG) { wait_for(s, s->stop[0]); return; }
    if (what.act == CLOSE) return;
    char *head = xprintf("HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%sConnection: close\r\nContent-Length: %lld\r\n\r\n", what.status, what.header ? what.header : "",
                         what.act == HUGE_BODY ? ENDPOINT_MAX_BYTES + 1 : (long long)strlen(what.body));
    send_all(fd, head, strlen(head));
    free(head);
    if (what.act == SAY) { send_all(fd, what.body, strlen(what.body)); return; }
    char *page = (char *)xcalloc(1 << 20, 1);
    for (int i = 0; i < 18; i++) send_all(fd, page, 1 << 20);
    free(page);
}
static void *serve(void *user) {
    Server *s = (Server *)user;
    while (wait_for(s, s->fd)) {
        int fd = accept(s->fd, NULL, NULL);
        if (fd >= 0) { serve_one(s, fd); close(fd); }
    }
    return NULL;
}
static void server_start(Server *s, const Script *script, int length) {
    memset(s, 0, sizeof *s);
    s->script = script; s->length = length;
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t n = sizeof a;
    s->fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(s->fd >= 0 && bind(s->fd, (struct sockaddr *)&a, n) == 0 && listen(s->fd, 8) == 0 && getsockname(s->fd, (struct sockaddr *)&a, &n) == 0);
    s->port = ntohs(a.sin_port);
    assert_true(pipe(s->stop) == 0 && pthread_mutex_init(&s->lock, NULL) == 0 && pthread_create(&s->thread, NULL, serve, s) == 0);
}
static void server_stop(Server *s) {
    assert_int_equal(write(s->stop[1], "x", 1), 1);
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    close(s->fd); close(s->stop[0]); close(s->stop[1]);
}

#define GOOD_BODY "{\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Yes\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1}}"
static const Script good = {SAY, 200, NULL, GOOD_BODY};
static const Message question[] = {{"system", "Be brief.", 9}, {"user", "Is \"5\" right?\n\xFF \xE5\xB9\xB4", 19}};

typedef struct { EndpointStatus status; Reply reply; int requests; int64_t retries; double seconds; Error last; char request[1 << 16]; } Outcome;
static EndpointOptions options(const char *url) {
    EndpointOptions o = endpoint_defaults();
    o.url = url; o.model = "judge-1"; o.timeout = 5; o.backoff = 0.02; o.tries = 3; o.key_variable = "FINDAP_TEST_KEY";
    return o;
}
// asks once a server that says `script`
static Outcome ask(const Script *script, int length, double timeout) {
    Server s;
    Endpoint p;
    static Outcome r;
    memset(&r, 0, sizeof r);
    server_start(&s, script, length);
    char *url = xprintf("http://127.0.0.1:%d/v1/chat/completions", s.port);
    EndpointOptions o = options(url);
    o.timeout = timeout;
    if (!endpoint_open(&p, &o, &r.last)) fail_msg("%s", r.last.text);
    double start = seconds_now();
    r.status = endpoint_ask(&p, question, 2, &r.reply);
    r.seconds = seconds_now() - start;
    r.retries = p.retries;
    r.last = p.last;
    int64_t all = 0;
    for (int i = 0; i < NUM_ENDPOINT; i++) all += p.counts[i];
    assert_true(all == 1 && p.counts[r.status] == 1 && (r.status == ENDPOINT_GOOD) == (r.reply.text != NULL));
    if (r.status != ENDPOINT_GOOD && (!r.last.text[0] || strchr(r.last.text, '\n') || strstr(r.last.text, key) || strstr(r.last.text, "0123456789"))) fail_msg("said: %s", r.last.text);
    endpoint_close(&p);
    server_stop(&s);
    r.requests = s.requests;
    memcpy(r.request, s.last, sizeof r.request);
    free(url);
    return r;
}
static void need_curl(void) {
#ifndef FINDAP_CURL
    printf("skipped: asking an endpoint: this machine has no libcurl\n");
    skip();
#endif
}

// ---- without a network

static void request_and_response(void **state) {
    (void)state;
    Error e;
    EndpointOptions o = options("https://h/v1");
    o.seed = 3; o.max_tokens = 9; o.temperature = 0.5;
    char *body = endpoint_body(&o, question, 2);
    json_t *j = json_parse("body", body, (int64_t)strlen(body), &e), *messages = json_object_get(j, "messages");
    assert_string_equal(json_string_value(json_object_get(j, "model")), "judge-1");
    assert_true(json_integer_value(json_object_get(j, "max_tokens")) == 9 && json_integer_value(json_object_get(j, "seed")) == 3 && json_real_value(json_object_get(j, "temperature")) == 0.5);
    assert_int_equal(json_array_size(messages), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(messages, 0), "role")), "system");
    assert_string_equal(json_string_value(json_object_get(json_array_get(messages, 1), "content")), "Is \"5\" right?\n\xEF\xBF\xBD \xE5\xB9\xB4");
    json_decref(j);
    free(body);
    o.seed = -1;
    body = endpoint_body(&o, question, 0);
    assert_null(strstr(body, "seed"));
    free(body);
    Reply r;
    assert_true(endpoint_parse(text_of(GOOD_BODY), &r, &e) && r.prompt_tokens == 7 && r.reply_tokens == 1 && !r.capped && strcmp(r.text, "Yes") == 0);
    free(r.text);
    assert_true(endpoint_parse(text_of("{\"choices\":[{\"message\":{\"content\":\"a\\u0000b\"},\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":-1}}"), &r, &e) && r.capped && r.length == 3 && r.prompt_tokens == 0);
    free(r.text);
    assert_true(endpoint_parse(text_of("{\"choices\":[{\"message\":{\"content\":null}}]}"), &r, &e) && r.length == 0 && r.text[0] == 0);
    free(r.text);
    static const char *const bad[] = {"", "x", "[]", "{}", "null", "\"Yes\"", "{\"choices\":[]}", "{\"choices\":{}}", "{\"choices\":[1]}", "{\"choices\":[{\"message\":\"Yes\"}]}", "{\"choices\":[{\"message\":{}}]}", "{\"choices\":[{\"message\":{\"content\":1}}]}",
        "{\"choices\":[{\"message\":{\"content\":[\"Yes\"]}}]}", "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":1}]}", "{\"choices\":[{\"message\":{\"content\":\"x\",\"content\":\"y\"}}]}", "{\"choices\":[{\"message\":{\"content\":\"\xFF\"}}]}", "{\"error\":{\"message\":\"no\"}}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        e.text[0] = 0;
        if (endpoint_parse(text_of(bad[i]), &r, &e)) fail_msg("accepted: %s", bad[i]);
        if (!e.text[0] || r.text) fail_msg("%s: %s", bad[i], e.text);
    }
    static const struct { const char *url, *key, *says; } urls[] = {{"https://h/v1", "k", NULL}, {"http://localhost:80/v1", "k", NULL}, {"http://127.0.0.1", "k", NULL}, {"http://[::1]:8/v1", "k", NULL}, {"http://h/v1", NULL, NULL}, {"https://h/a@b", "k", NULL},
        {"http://h/v1", "k", "in the clear"}, {"http://localhost.evil.com/v1", "k", "in the clear"}, {"http://127.0.0.1.evil.com", "k", "in the clear"}, {"https://u:p@h/v1", "k", "user or password"}, {"https://u@h", NULL, "user or password"},
        {"ftp://h", NULL, "https://"}, {"file:///etc/passwd", NULL, "https://"}, {"", NULL, "https://"}, {NULL, NULL, "https://"}, {"https:///v1", NULL, "names no host"}, {"https://h", "a\r\nHost: x", "no key has"}, {"https://h", "a ", "no key has"}, {"https://h", "a\x7F", "no key has"}, {"https://h", "a\xC3\xA9", "no key has"}};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        o.url = urls[i].url;
        bool ok = endpoint_check(&o, urls[i].key, &e);
        if (ok != !urls[i].says || (!ok && !strstr(e.text, urls[i].says))) fail_msg("%s: %s", urls[i].url ? urls[i].url : "(none)", ok ? "accepted" : e.text);
    }
    o.url = "https://h"; o.model = "";
    assert_false(endpoint_check(&o, NULL, &e));
#ifndef FINDAP_CURL
    Endpoint p;
    assert_false(endpoint_open(&p, &o, &e));
    assert_non_null(strstr(e.text, "without libcurl"));
    assert_int_equal(endpoint_ask(&p, question, 2, &r), ENDPOINT_NOT_ASKED);
    assert_int_equal(p.counts[ENDPOINT_NOT_ASKED], 1);
    endpoint_close(&p);
#endif
}

// ---- against the server

static void a_good_answer(void **state) {
    (void)state;
    need_curl();
    Error e;
    setenv("FINDAP_TEST_KEY", key, 1);
    setenv("http_proxy", "http://127.0.0.1:9", 1);   // nobody's business on the way to this machine
    Outcome r = ask(&good, 1, 5);
    assert_true(r.status == ENDPOINT_GOOD && r.requests == 1 && r.retries == 0 && r.reply.length == 3 && strcmp(r.reply.text, "Yes") == 0 && r.reply.prompt_tokens == 7);
    free(r.reply.text);
    assert_true(strncmp(r.request, "POST /v1/chat/completions HTTP/1.1\r\n", 36) == 0);
    assert_non_null(strstr(r.request, "\r\nAuthorization: Bearer sk-test-0123456789abcdef\r\n"));
    assert_non_null(strstr(r.request, "\r\nContent-Type: application/json\r\n"));
    const char *body = strstr(r.request, "\r\n\r\n") + 4;
    json_t *j = json_parse("request", body, (int64_t)strlen(body), &e);
    if (!j) fail_msg("%s", e.text);
    assert_int_equal(json_array_size(json_object_get(j, "messages")), 2);
    json_decref(j);
    unsetenv("FINDAP_TEST_KEY");
    r = ask(&good, 1, 5);
    assert_true(r.status == ENDPOINT_GOOD && !strcasestr(r.request, "authorization"));
    free(r.reply.text);
    unsetenv("http_proxy");
    setenv("FINDAP_TEST_KEY", "two\nlines", 1);
    Endpoint p;
    EndpointOptions o = options("http://127.0.0.1:1/v1");
    assert_false(endpoint_open(&p, &o, &e));
    assert_true(!strstr(e.text, "two") && strstr(e.text, "FINDAP_TEST_KEY"));
    setenv("FINDAP_TEST_KEY", key, 1);
    o.url = "http://somewhere/v1";
    assert_false(endpoint_open(&p, &o, &e));
    assert_true(!strstr(e.text, key) && strstr(e.text, "in the clear"));
    for (int none = 0; none < 2; none++) {   // no variable, no key
        o.key_variable = none ? NULL : "";
        if (!endpoint_open(&p, &o, &e)) fail_msg("%s", e.text);
        assert_null(p.key);
        endpoint_close(&p);
    }
}

static void what_goes_wrong(void **state) {
    (void)state;
    need_curl();
    setenv("FINDAP_TEST_KEY", key, 1);
    const Script busy_then_good[] = {{SAY, 500, NULL, "{}"}, {SAY, 429, NULL, "slow down"}, good};
    Outcome r = ask(busy_then_good, 3, 5);
    assert_true(r.status == ENDPOINT_GOOD && r.requests == 3 && r.retries == 2 && r.seconds >= 0.06);   // 0.02, then twice that
    free(r.reply.text);
    const Script lost_then_good[] = {{CLOSE, 0, NULL, NULL}, good};
    r = ask(lost_then_good, 2, 5);
    assert_true(r.status == ENDPOINT_GOOD && r.requests == 2 && r.retries == 1);
    free(r.reply.text);
    const Script later[] = {{SAY, 429, "Retry-After: 1\r\n", "{}"}, good};
    r = ask(later, 2, 5);
    assert_true(r.status == ENDPOINT_GOOD && r.seconds >= 0.9);
    free(r.reply.text);
    static const struct { Script script; EndpointStatus status; int requests; const char *says; } cases[] = {
        {{SAY, 503, NULL, "down"}, ENDPOINT_BUSY, 3, "HTTP status 503: down"}, {{SAY, 429, NULL, "{}"}, ENDPOINT_BUSY, 3, "429"}, {{CLOSE, 0, NULL, NULL}, ENDPOINT_NO_CONNECTION, 3, "127.0.0.1"},
        {{SAY, 401, NULL, "Incorrect key: sk-test-0123456789abcdef\nbye"}, ENDPOINT_REFUSED, 1, "Incorrect key: ************************\\x0a"}, {{SAY, 403, NULL, "sk-test-0123456789abcdef"}, ENDPOINT_REFUSED, 1, "403: ************************"}, {{SAY, 404, NULL, ""}, ENDPOINT_REFUSED, 1, "404"}, {{SAY, 400, NULL, "\x1b[2J"}, ENDPOINT_REFUSED, 1, "\\x1b[2J"},
        {{SAY, 302, "Location: http://127.0.0.1:1/elsewhere\r\n", ""}, ENDPOINT_REFUSED, 1, "302"}, {{SAY, 200, NULL, "{\"choices\":[{"}, ENDPOINT_MALFORMED, 1, "not valid JSON"}, {{SAY, 200, NULL, "<html>sk-test-0123456789abcdef</html>"}, ENDPOINT_MALFORMED, 1, "JSON"},
        {{SAY, 200, NULL, "{\"choices\":[]}"}, ENDPOINT_MALFORMED, 1, "message"}, {{HUGE_BODY, 200, NULL, NULL}, ENDPOINT_TOO_LARGE, 1, "larger than 16 MiB"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        r = ask(&cases[i].script, 1, 5);
        if (r.status != cases[i].status || r.requests != cases[i].requests || !strstr(r.last.text, cases[i].says)) fail_msg("case %zu: %s after %d requests: %s", i, endpoint_names[r.status], r.requests, r.last.text);
    }
    // a key at the end of what is quoted must not be cut in two and left
    char page[400];
    memset(page, 'x', sizeof page);
    memcpy(page + 290, key, sizeof key);
    const Script far = {SAY, 403, NULL, page};
    r = ask(&far, 1, 5);
    assert_true(r.status == ENDPOINT_REFUSED && !strstr(r.last.text, "sk-"));
    const Script hang = {HANG, 0, NULL, NULL};
    r = ask(&hang, 1, 0.3);
    assert_true(r.status == ENDPOINT_TIMEOUT && r.requests == 1 && r.seconds >= 0.25 && r.seconds < 3);
}

// a dead endpoint is given up after so many failures in a row, and not before: one good answer begins the count again
static void given_up(void **state) {
    (void)state;
    need_curl();
    Error e;
    Endpoint p, sum;
    Reply r;
    const Script script[] = {{SAY, 400, NULL, "{}"}, {SAY, 400, NULL, "{}"}, good, {SAY, 400, NULL, "{}"}};
    Server s;
    server_start(&s, script, 4);
    char *url = xprintf("http://127.0.0.1:%d/", s.port);
    EndpointOptions o = options(url);
    o.give_up = 3;
    assert_true(endpoint_open(&p, &o, &e));
    for (int i = 0; i < 10; i++) { endpoint_ask(&p, question, 2, &r); free(r.text); }
    assert_true(p.counts[ENDPOINT_GOOD] == 1 && p.counts[ENDPOINT_REFUSED] == 5 && p.counts[ENDPOINT_NOT_ASKED] == 4 && p.prompt_tokens == 7 && p.reply_tokens == 1);
    server_stop(&s);
    assert_int_equal(s.requests, 6);
    memset(&sum, 0, sizeof sum);
    endpoint_add(&sum, &p);
    endpoint_add(&sum, &p);
    json_t *j = endpoint_json(&sum);
    assert_true(json_integer_value(json_object_get(j, "not_asked")) == 8 && json_integer_value(json_object_get(j, "good")) == 2 && json_integer_value(json_object_get(j, "prompt_tokens")) == 14);
    json_decref(j);
    endpoint_close(&p);
    // nobody listens there any more
    assert_true(endpoint_open(&p, &o, &e));
    assert_int_equal(endpoint_ask(&p, question, 2, &r), ENDPOINT_NO_CONNECTION);
    assert_true(p.retries == 2 && r.text == NULL);
    endpoint_close(&p);
    free(url);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(request_and_response), cmocka_unit_test(a_good_answer), cmocka_unit_test(what_goes_wrong), cmocka_unit_test(given_up)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
