// server.h: a small HTTP server for tests of endpoints: one thread, one connection at a time; what it says is given before. It answers well, badly, late or never.
// Include it after check.h and findap/endpoint.h.
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

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

FN int64_t content_length(const char *request) { const char *p = strcasestr(request, "\r\nContent-Length:"); return p ? atoll(p + 17) : 0; }
FN bool wait_for(Server *s, int fd) {   // until there is something to read; false: stop
    struct pollfd p[2] = {{fd, POLLIN, 0}, {s->stop[0], POLLIN, 0}};
    return poll(p, 2, -1) >= 0 && !p[1].revents;
}
FN void send_all(int fd, const char *data, size_t n) {
    while (n) { ssize_t k = send(fd, data, n, MSG_NOSIGNAL); if (k <= 0) return; data += k; n -= (size_t)k; }
}
FN void serve_one(Server *s, int fd) {
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
    if (what.act == HANG) { wait_for(s, fd); return; }   // until the client has had enough
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
FN void *serve(void *user) {
    Server *s = (Server *)user;
    while (wait_for(s, s->fd)) {
        int fd = accept(s->fd, NULL, NULL);
        if (fd >= 0) { serve_one(s, fd); close(fd); }
    }
    return NULL;
}
FN void server_start(Server *s, const Script *script, int length) {
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
FN void server_stop(Server *s) {
    assert_int_equal(write(s->stop[1], "x", 1), 1);
    pthread_join(s->thread, NULL);
    pthread_mutex_destroy(&s->lock);
    close(s->fd); close(s->stop[0]); close(s->stop[1]);
}
