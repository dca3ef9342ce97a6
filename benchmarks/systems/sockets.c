/* Many connections in one thread, for load that a Python program could not make without being what is measured.
 *
 *   sockets closed FRAMING SECONDS PLAN SAMPLES    each connection sends its next request when the last is answered
 *   sockets fan    FRAMING SECONDS PLAN SAMPLES    each connection listens; stamps in what arrives tell the latency
 *
 * PLAN, little-endian: u32 connections; u64 stamps that are expected in all (fan); then for each connection
 * u16 port of 127.0.0.1, u32 replies to the greeting, u32 length + greeting, u32 requests, u32 length + request each.
 * A connection that has sent its last request begins again with the first if it has just one, and rests if it has more.
 * SAMPLES gets the latencies: float32 seconds. Standard output: "ready" once all greetings are answered, and at the end
 * "SECONDS", the time that the load took. Anything unexpected ends the program with a sentence and exit code 1.
 *
 * It knows of a protocol only where a reply ends and what kind it is (`framing_*`); the bytes to send come with the plan.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define STAMP_BYTES 16
#define BUFFER_BYTES (1 << 16)
static const unsigned char MAGIC[8] = {0xf1, 'L', 'Y', 'B', 'E', 'N', 'C', 'H'};

enum kind { NOISE, REPLY, FAILURE };
typedef size_t (*framing)(const unsigned char *at, size_t length, enum kind *kind); /* bytes of a reply, 0: not whole */

struct connection {
    int socket;
    uint32_t greetings, requests, next;
    const unsigned char *greeting, **request;
    uint32_t greeting_bytes, *request_bytes;
    uint64_t sent_ns;
    size_t filled;
    unsigned char *buffer;
};

static struct connection *connections;
static uint32_t connection_count;
static uint64_t expected;
static float *samples;
static size_t sample_count, sample_room;

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sample(double seconds) {
    if (sample_count == sample_room) {
        sample_room = sample_room ? 2 * sample_room : 1 << 16;
        samples = realloc(samples, sample_room * sizeof *samples);
        if (!samples) fail("out of memory");
    }
    samples[sample_count++] = (float)seconds;
}

/* ------------------------------------------------------------------------------------------------------ framings */
static size_t framing_lanyinglog(const unsigned char *at, size_t length, enum kind *kind) {
    uint32_t rest;
    if (length < 5) return 0;
    memcpy(&rest, at, 4);
    if (length < 4 + (size_t)rest) return 0;
    /* 65 welcome, 66 acked, 67 subscribed; 73 error */
    *kind = at[4] >= 65 && at[4] <= 67 ? REPLY : at[4] == 73 ? FAILURE : NOISE;
    return 4 + (size_t)rest;
}

static size_t line_bytes(const unsigned char *at, size_t length) {
    const unsigned char *end = memmem(at, length, "\r\n", 2);
    return end ? (size_t)(end - at) + 2 : 0;
}

static size_t framing_nats(const unsigned char *at, size_t length, enum kind *kind) {
    size_t line = line_bytes(at, length);
    if (!line) return 0;
    if (memcmp(at, "MSG ", 4) != 0) {
        *kind = at[0] == '-' ? FAILURE : memcmp(at, "PONG", 4) == 0 ? REPLY : NOISE;
        return line;
    }
    const unsigned char *digits = at + line - 2;
    while (digits[-1] != ' ') digits--;
    size_t body = strtoul((const char *)digits, NULL, 10), whole = line + body + 2;
    if (length < whole) return 0;
    *kind = memmem(at + line, body, "\"error\"", 7) ? FAILURE : memmem(at, line, "_INBOX", 6) ? REPLY : NOISE;
    return whole;
}

static size_t framing_redis(const unsigned char *at, size_t length, enum kind *kind) {
    size_t line = line_bytes(at, length);
    if (!line) return 0;
    *kind = at[0] == '-' ? FAILURE : REPLY;
    if (at[0] != '$') return line;
    size_t whole = line + strtoul((const char *)at + 1, NULL, 10) + 2;
    return length < whole ? 0 : whole;
}

static size_t framing_amqp(const unsigned char *at, size_t length, enum kind *kind) {
    if (length < 7) return 0;
    size_t whole = 8 + ((size_t)at[3] << 24 | (size_t)at[4] << 16 | (size_t)at[5] << 8 | at[6]);
    if (length < whole) return 0;
    int class = at[7] << 8 | at[8], method = at[9] << 8 | at[10];
    int closes = (class == 10 && method == 50) || (class == 20 && method == 40) || (class == 60 && method == 120);
    *kind = at[0] != 1 ? NOISE : closes ? FAILURE : REPLY;
    return whole;
}

static framing framing_named(const char *name) {
    if (!strcmp(name, "lanyinglog")) return framing_lanyinglog;
    if (!strcmp(name, "nats")) return framing_nats;
    if (!strcmp(name, "redis")) return framing_redis;
    if (!strcmp(name, "amqp")) return framing_amqp;
    fail("no framing %s", name);
    return NULL;
}

/* ------------------------------------------------------------------------------------------------------ the plan */
static unsigned char *plan, *plan_end;

static const unsigned char *take(size_t bytes) {
    const unsigned char *at = plan;
    if ((size_t)(plan_end - plan) < bytes) fail("the plan is cut off");
    plan += bytes;
    return at;
}

static uint32_t take_u32(void) {
    uint32_t value;
    memcpy(&value, take(4), 4);
    return value;
}

static void read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail("can't read %s", path);
    long bytes = ftell(file);
    rewind(file);
    plan = malloc((size_t)bytes);
    if (!plan || fread(plan, 1, (size_t)bytes, file) != (size_t)bytes) fail("can't read %s", path);
    plan_end = plan + bytes;
    fclose(file);
}

static int connect_to(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, descriptor = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (descriptor < 0) fail("socket: %s", strerror(errno));
    if (connect(descriptor, (struct sockaddr *)&address, sizeof address)) fail("port %d: %s", port, strerror(errno));
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return descriptor;
}

static void read_plan(const char *path) {
    read_file(path);
    connection_count = take_u32();
    memcpy(&expected, take(8), 8);
    connections = calloc(connection_count, sizeof *connections);
    for (uint32_t i = 0; i < connection_count; i++) {
        struct connection *one = &connections[i];
        uint16_t port;
        memcpy(&port, take(2), 2);
        one->greetings = take_u32();
        one->greeting_bytes = take_u32();
        one->greeting = take(one->greeting_bytes);
        one->requests = take_u32();
        one->request = calloc(one->requests + 1, sizeof *one->request);
        one->request_bytes = calloc(one->requests + 1, sizeof *one->request_bytes);
        for (uint32_t k = 0; k < one->requests; k++) {
            one->request_bytes[k] = take_u32();
            one->request[k] = take(one->request_bytes[k]);
        }
        one->buffer = malloc(BUFFER_BYTES);
        one->socket = connect_to(port);
    }
}

/* ---------------------------------------------------------------------------------------------------- the load */
static void send_all(struct connection *one, const unsigned char *bytes, size_t length) {
    while (length) {
        ssize_t sent = send(one->socket, bytes, length, MSG_NOSIGNAL);
        if (sent < 0) fail("send: %s", strerror(errno));
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void receive(struct connection *one) {
    ssize_t got = recv(one->socket, one->buffer + one->filled, BUFFER_BYTES - one->filled, 0);
    if (got <= 0) fail("a connection ended: %s", got ? strerror(errno) : "by the server");
    one->filled += (size_t)got;
}

static uint32_t count_replies(struct connection *one, framing next) {
    size_t at = 0, bytes;
    uint32_t replies = 0;
    enum kind kind;
    while ((bytes = next(one->buffer + at, one->filled - at, &kind))) {
        if (kind == FAILURE) fail("an error: %.*s", (int)(bytes > 300 ? 300 : bytes), one->buffer + at);
        replies += kind == REPLY;
        at += bytes;
    }
    memmove(one->buffer, one->buffer + at, one->filled - at);
    one->filled -= at;
    if (one->filled == BUFFER_BYTES) fail("a reply above %d bytes", BUFFER_BYTES);
    return replies;
}

static void send_next(struct connection *one) {
    if (one->next == one->requests) {
        if (one->requests != 1) return;
        one->next = 0;
    }
    one->sent_ns = now_ns();
    send_all(one, one->request[one->next], one->request_bytes[one->next]);
    one->next++;
}

static void find_stamps(struct connection *one, uint64_t received_ns) {
    unsigned char *at = one->buffer, *end = at + one->filled, *found;
    while ((found = memmem(at, (size_t)(end - at), MAGIC, sizeof MAGIC)) && end - found >= STAMP_BYTES) {
        uint64_t due_ns;
        memcpy(&due_ns, found + sizeof MAGIC, 8);
        sample(((double)received_ns - (double)due_ns) / 1e9);
        at = found + STAMP_BYTES;
    }
    size_t keep = (size_t)(end - at) < STAMP_BYTES - 1 ? (size_t)(end - at) : STAMP_BYTES - 1;
    memmove(one->buffer, end - keep, keep);
    one->filled = keep;
}

static void greet(framing next) {
    for (uint32_t i = 0; i < connection_count; i++) {
        struct connection *one = &connections[i];
        send_all(one, one->greeting, one->greeting_bytes);
        for (uint32_t replies = 0; replies < one->greetings; replies += count_replies(one, next)) receive(one);
    }
    puts("ready");
    fflush(stdout);
}

static int watch_all(void) {
    int poll = epoll_create1(0);
    for (uint32_t i = 0; i < connection_count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = i};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].socket, &event)) fail("epoll: %s", strerror(errno));
    }
    return poll;
}

static double run(int is_fan, framing next, double seconds) {
    int poll = watch_all();
    struct epoll_event events[256];
    uint64_t began = now_ns(), stop = began + (uint64_t)(seconds * 1e9), now = began;
    for (uint32_t i = 0; !is_fan && i < connection_count; i++) send_next(&connections[i]);
    while (now < stop && (!is_fan || sample_count < expected)) {
        int ready = epoll_wait(poll, events, 256, (int)((stop - now) / 1000000 + 1));
        for (int i = 0; i < ready; i++) {
            struct connection *one = &connections[events[i].data.u32];
            receive(one);
            now = now_ns();
            if (is_fan) {
                find_stamps(one, now);
            } else if (count_replies(one, next)) {
                sample((double)(now - one->sent_ns) / 1e9);
                send_next(one);
            }
        }
        now = now_ns();
    }
    return (double)(now - began) / 1e9;
}

int main(int count, char **arguments) {
    if (count != 6) fail("usage: sockets closed|fan FRAMING SECONDS PLAN SAMPLES");
    framing next = framing_named(arguments[2]);
    read_plan(arguments[4]);
    greet(next);
    double seconds = run(!strcmp(arguments[1], "fan"), next, atof(arguments[3]));
    FILE *file = fopen(arguments[5], "wb");
    if (!file || fwrite(samples, sizeof *samples, sample_count, file) != sample_count || fclose(file)) {
        fail("can't write %s", arguments[5]);
    }
    printf("%.9f\n", seconds);
    return 0;
}
