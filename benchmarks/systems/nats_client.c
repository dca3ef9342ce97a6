/* A JetStream client through libnats, so that the server is measured and not a client in Python.
 *
 *   nats_client URLS setup    SUBJECT                             a stream on SUBJECT: files, 3 replicas
 *   nats_client URLS publish  SUBJECT POOL SECONDS COUNT WINDOW   asynchronously; prints "ACKNOWLEDGED BYTES SECONDS"
 *   nats_client URLS each     SUBJECT POOL SECONDS COUNT          one at a time; prints the seconds of each
 *   nats_client URLS tail     SUBJECT RATE COUNT BYTES            open loop; prints the latency of each, in seconds
 *   nats_client URLS replay   SUBJECT COUNT SKIP                  prints the seconds
 *   nats_client URLS moments  SUBJECT SECONDS                     one at a time, through failures; prints when (s) each
 *                                                                 was acknowledged, at once
 *
 * POOL is a file of payloads, each behind its length (u32). COUNT 0 means no bound, SECONDS 0 likewise. A failed publish
 * ends the program, but for `moments`, which tries again. Stamps are as benchmarks/schedule.py has them.
 */
#define _GNU_SOURCE
#include <nats/nats.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STREAM "bench"
#define SERVERS_MAX 16
static const unsigned char MAGIC[8] = {0xf1, 'L', 'Y', 'B', 'E', 'N', 'C', 'H'};

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static void check(natsStatus status, const char *what) {
    if (status != NATS_OK) fail("%s: %s: %s", what, natsStatus_GetText(status), nats_GetLastError(NULL));
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static double seconds_since(uint64_t began_ns) { return (double)(now_ns() - began_ns) / 1e9; }

static void sleep_until(uint64_t due_ns) {
    struct timespec due = {(time_t)(due_ns / 1000000000u), (long)(due_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL)) continue;
}

static natsConnection *connect_to(const char *urls) {
    natsOptions *options;
    natsConnection *connection;
    const char *servers[SERVERS_MAX];
    int count = 0;
    char *rest = strdup(urls);
    for (char *one; (one = strsep(&rest, ",")) && count < SERVERS_MAX;) servers[count++] = one;
    check(natsOptions_Create(&options), "options");
    check(natsOptions_SetServers(options, servers, count), "urls");
    check(natsOptions_SetMaxReconnect(options, -1), "reconnect");
    check(natsOptions_SetReconnectWait(options, 20), "reconnect");
    check(natsConnection_Connect(&connection, options), "connect");
    return connection;
}

static jsCtx *context(natsConnection *connection, int64_t window) {
    jsOptions options;
    jsCtx *js;
    jsOptions_Init(&options);
    options.PublishAsync.MaxPending = window;
    options.PublishAsync.StallWait = 60000;
    options.Wait = 10000;
    check(natsConnection_JetStream(&js, connection, &options), "jetstream");
    return js;
}

/* ------------------------------------------------------------------------------------------------------ payloads */
static char **payloads;
static int *lengths;
static size_t payload_count;

static void read_pool(const char *path) {
    FILE *file = fopen(path, "rb");
    uint32_t length;
    if (!file) fail("can't read %s", path);
    while (fread(&length, sizeof length, 1, file) == 1) {
        payloads = realloc(payloads, (payload_count + 1) * sizeof *payloads);
        lengths = realloc(lengths, (payload_count + 1) * sizeof *lengths);
        payloads[payload_count] = malloc(length);
        lengths[payload_count] = (int)length;
        if (fread(payloads[payload_count++], 1, length, file) != length) fail("%s is cut off", path);
    }
    if (!payload_count) fail("%s is empty", path);
    fclose(file);
}

/* ---------------------------------------------------------------------------------------------------- publishing */
static void setup(natsConnection *connection, const char *subject) {
    jsStreamConfig config;
    jsStreamConfig_Init(&config);
    const char *subjects[] = {subject};
    config.Name = STREAM;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.Storage = js_FileStorage;
    config.Replicas = 3;
    check(js_AddStream(NULL, context(connection, 0), &config, NULL, NULL), "add a stream");
}

static void publish(natsConnection *connection, char **arguments) {
    read_pool(arguments[1]);
    double seconds = atof(arguments[2]);
    uint64_t count = strtoull(arguments[3], NULL, 10), sent = 0, bytes = 0, began = now_ns();
    jsCtx *js = context(connection, atoll(arguments[4]));
    do {
        size_t i = sent % payload_count;
        check(js_PublishAsync(js, arguments[0], payloads[i], lengths[i], NULL), "publish");
        bytes += (uint64_t)lengths[i];
        sent++;
    } while ((!count || sent < count) && (!(seconds > 0) || sent % 16 || seconds_since(began) < seconds));
    jsPubOptions patience;
    jsPubOptions_Init(&patience);
    patience.MaxWait = 120000;
    check(js_PublishAsyncComplete(js, &patience), "acknowledgements");
    natsMsgList failed = {0};
    natsStatus status = js_PublishAsyncGetPendingList(&failed, js);
    if (status != NATS_NOT_FOUND) fail("%d messages were not acknowledged", failed.Count);
    printf("%llu %llu %.9f\n", (unsigned long long)sent, (unsigned long long)bytes, seconds_since(began));
}

static int failures;

static void count_failure(jsCtx *js, jsPubAckErr *error, void *closure) {
    (void)js, (void)closure;
    if (!failures++) fprintf(stderr, "a publish failed: %s\n", error->ErrText ? error->ErrText : "no reason given");
}

static void each(natsConnection *connection, char **arguments) {
    read_pool(arguments[1]);
    double seconds = atof(arguments[2]);
    uint64_t count = strtoull(arguments[3], NULL, 10), began = now_ns();
    jsCtx *js = context(connection, 0);
    double *took = malloc((count + 1) * sizeof *took);
    uint64_t sent = 0;
    for (; sent < count && (!(seconds > 0) || seconds_since(began) < seconds); sent++) {
        size_t i = sent % payload_count;
        uint64_t before = now_ns();
        check(js_Publish(NULL, js, arguments[0], payloads[i], lengths[i], NULL, NULL), "publish");
        took[sent] = seconds_since(before);
    }
    for (uint64_t i = 0; i < sent; i++) printf("%.9f\n", took[i]);
}

static void moments(natsConnection *connection, char **arguments) {
    double seconds = atof(arguments[1]);
    uint64_t began = now_ns();
    jsCtx *js = context(connection, 0);
    jsPubOptions patience;
    jsPubOptions_Init(&patience);
    patience.MaxWait = 250; /* a lost request is sent again soon: what is measured is the servers' gap */
    while (seconds_since(began) < seconds) {
        if (js_Publish(NULL, js, arguments[0], "x", 1, &patience, NULL) == NATS_OK) {
            printf("%.9f\n", (double)now_ns() / 1e9);
            fflush(stdout);
        } else {
            nats_Sleep(5);
        }
    }
}

/* ---------------------------------------------------------------------------------------------------- subscribing */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t enough = PTHREAD_COND_INITIALIZER;
static uint64_t wanted, received;
static double *latencies;

static void on_message(natsConnection *connection, natsSubscription *subscription, natsMsg *message, void *closure) {
    (void)connection, (void)subscription, (void)closure;
    uint64_t now = now_ns(), due;
    const char *payload = natsMsg_GetData(message);
    pthread_mutex_lock(&lock);
    if (received < wanted) {
        if (latencies && natsMsg_GetDataLength(message) >= 16 && !memcmp(payload, MAGIC, sizeof MAGIC)) {
            memcpy(&due, payload + sizeof MAGIC, sizeof due);
            latencies[received] = ((double)now - (double)due) / 1e9;
        }
        if (++received == wanted) pthread_cond_signal(&enough);
    }
    pthread_mutex_unlock(&lock);
    natsMsg_Destroy(message);
}

static void wait_for_all(void) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 120;
    pthread_mutex_lock(&lock);
    while (received < wanted) {
        if (pthread_cond_timedwait(&enough, &lock, &until)) fail("%llu messages arrived", (unsigned long long)received);
    }
    pthread_mutex_unlock(&lock);
}

static void subscribe(natsConnection *connection, const char *subject, jsDeliverPolicy policy, uint64_t start) {
    natsSubscription *subscription;
    jsSubOptions options;
    jsSubOptions_Init(&options);
    options.Ordered = true;
    options.Config.DeliverPolicy = policy;
    options.Config.OptStartSeq = start;
    check(js_Subscribe(&subscription, context(connection, 0), subject, on_message, NULL, NULL, &options, NULL),
          "subscribe");
    check(natsSubscription_SetPendingLimits(subscription, -1, -1), "limits");
}

static void tail(natsConnection *connection, const char *urls, char **arguments) {
    double rate = atof(arguments[1]);
    wanted = strtoull(arguments[2], NULL, 10);
    int length = atoi(arguments[3]);
    latencies = calloc(wanted, sizeof *latencies);
    subscribe(connect_to(urls), arguments[0], js_DeliverNew, 0);
    jsOptions options;
    jsCtx *js;
    jsOptions_Init(&options);
    options.PublishAsync.MaxPending = 1 << 20; /* an open loop never waits for acknowledgements */
    options.PublishAsync.ErrHandler = count_failure;
    check(natsConnection_JetStream(&js, connection, &options), "jetstream");
    char *payload = malloc((size_t)length);
    memset(payload, '.', (size_t)length);
    memcpy(payload, MAGIC, sizeof MAGIC);
    uint64_t begins = now_ns() + 50000000;
    for (uint64_t i = 0; i < wanted; i++) {
        uint64_t due = begins + (uint64_t)((double)i * 1e9 / rate);
        if (now_ns() < due) sleep_until(due);
        memcpy(payload + sizeof MAGIC, &due, sizeof due);
        check(js_PublishAsync(js, arguments[0], payload, length, NULL), "publish");
    }
    wait_for_all();
    if (failures) fail("%d publishes failed", failures);
    for (uint64_t i = 0; i < wanted; i++) printf("%.9f\n", latencies[i]);
}

static void replay(natsConnection *connection, char **arguments) {
    wanted = strtoull(arguments[1], NULL, 10);
    uint64_t skip = strtoull(arguments[2], NULL, 10), began = now_ns();
    subscribe(connection, arguments[0], js_DeliverByStartSequence, skip + 1);
    wait_for_all();
    printf("%.9f\n", seconds_since(began));
}

int main(int count, char **arguments) {
    if (count < 4) fail("usage: nats_client URLS COMMAND SUBJECT ...");
    const char *urls = arguments[1], *command = arguments[2];
    natsConnection *connection = connect_to(urls);
    char **rest = arguments + 3;
    int given = count - 3;
    if (!strcmp(command, "setup")) setup(connection, rest[0]);
    else if (!strcmp(command, "publish") && given == 5) publish(connection, rest);
    else if (!strcmp(command, "each") && given == 4) each(connection, rest);
    else if (!strcmp(command, "tail") && given == 4) tail(connection, urls, rest);
    else if (!strcmp(command, "replay") && given == 3) replay(connection, rest);
    else if (!strcmp(command, "moments") && given == 2) moments(connection, rest);
    else fail("no command %s with %d arguments", command, given);
    fflush(stdout);
    _exit(0); /* the threads of the library end with the process */
}
