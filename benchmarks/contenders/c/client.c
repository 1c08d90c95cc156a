/* The floor's client. It speaks the bench's line protocol (benchmarks/protocol.py), and checks every answer. */
#define _GNU_SOURCE
#include "common.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

#define NUMBER_WIDTH 9
#define MAX_BEHIND 1.0 /* seconds; as in benchmarks/open_loop.py */
#define PATIENCE 20    /* seconds that an answer may take */

typedef struct {
    amqp_connection_state_t connection;
    amqp_bytes_t queue, answers;
    char *body;
    size_t size;
} client_t;

typedef struct {
    client_t *client;
    double until;
    long calls;
} worker_t;

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static client_t *open_client(void) {
    client_t *client = calloc(1, sizeof *client);
    client->connection = dial();
    client->queue = amqp_cstring_bytes(setting("BENCH_QUEUE"));
    amqp_queue_declare_ok_t *declared =
        amqp_queue_declare(client->connection, 1, amqp_empty_bytes, 0, 0, 1, 1, amqp_empty_table);
    check(amqp_get_rpc_reply(client->connection), "declaring a queue for answers");
    client->answers = amqp_bytes_malloc_dup(declared->queue);
    amqp_basic_consume(client->connection, 1, client->answers, amqp_empty_bytes, 0, 1, 1, amqp_empty_table);
    check(amqp_get_rpc_reply(client->connection), "consuming answers");
    return client;
}

static void resize(client_t *client, size_t size) {
    client->body = realloc(client->body, size + 1);
    memset(client->body, 'x', size);
    client->size = size;
}

static void number_body(client_t *client, long number) {
    char digits[24];
    snprintf(digits, sizeof digits, "%0*ld", NUMBER_WIDTH, number);
    memcpy(client->body, digits, NUMBER_WIDTH);
}

static void send_call(client_t *client, long number) {
    char identity[24];
    snprintf(identity, sizeof identity, "%ld", number);
    number_body(client, number);
    amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CORRELATION_ID_FLAG | AMQP_BASIC_REPLY_TO_FLAG,
        .correlation_id = amqp_cstring_bytes(identity),
        .reply_to = client->answers,
    };
    amqp_bytes_t body = {.len = client->size, .bytes = client->body};
    if (amqp_basic_publish(client->connection, 1, amqp_empty_bytes, client->queue, 0, 0, &properties, body) < 0)
        die("publishing failed");
}

/* Takes an answer, and checks it; returns the number of its call, or -1 when none came in time. */
static long take_answer(client_t *client, struct timeval *timeout) {
    amqp_envelope_t envelope;
    char identity[24] = "";
    amqp_maybe_release_buffers(client->connection);
    amqp_rpc_reply_t reply = amqp_consume_message(client->connection, &envelope, timeout, 0);
    if (reply.reply_type == AMQP_RESPONSE_LIBRARY_EXCEPTION && reply.library_error == AMQP_STATUS_TIMEOUT) return -1;
    check(reply, "waiting for an answer");
    amqp_bytes_t correlation = envelope.message.properties.correlation_id;
    memcpy(identity, correlation.bytes, correlation.len < 23 ? correlation.len : 23);
    long number = atol(identity);
    number_body(client, number);
    if (envelope.message.body.len != client->size ||
        memcmp(envelope.message.body.bytes, client->body, client->size) != 0)
        die("wrong answer to call %ld", number);
    amqp_destroy_envelope(&envelope);
    return number;
}

static void must_take(client_t *client) {
    struct timeval timeout = {.tv_sec = PATIENCE};
    if (take_answer(client, &timeout) < 0) die("a call was not answered within %d s", PATIENCE);
}

static void print_rate(long calls, double began) {
    printf("{\"calls\": %ld, \"seconds\": %.6f}\n", calls, now() - began);
}

static void window(client_t *client, double seconds, int in_flight) {
    long sent = 0, answered = 0;
    double began = now();
    while (answered < sent || sent == 0 || now() - began < seconds) {
        while (sent - answered < in_flight && (sent == 0 || now() - began < seconds)) send_call(client, sent++);
        must_take(client);
        answered++;
    }
    print_rate(answered, began);
}

static void *work(void *argument) {
    worker_t *worker = argument;
    while (now() < worker->until) {
        send_call(worker->client, worker->calls++);
        must_take(worker->client);
    }
    return NULL;
}

/* A connection for each thread: librabbitmq's are for one. */
static void threads(double seconds, int count, size_t size) {
    static client_t *clients[256];
    static worker_t workers[256];
    pthread_t ids[256];
    long calls = 0;
    if (count > 256) die("too many threads");
    for (int i = 0; i < count; i++) {
        if (clients[i] == NULL) clients[i] = open_client();
        resize(clients[i], size);
    }
    double began = now();
    for (int i = 0; i < count; i++) {
        workers[i] = (worker_t){.client = clients[i], .until = began + seconds};
        pthread_create(&ids[i], NULL, work, &workers[i]);
    }
    for (int i = 0; i < count; i++) {
        pthread_join(ids[i], NULL);
        calls += workers[i].calls;
    }
    print_rate(calls, began);
}

/* Waits until something can be read, or until a time; amqp_consume_message itself waits whole milliseconds. */
static void wait_readable(client_t *client, double until) {
    double left = until - now();
    if (left <= 0 || amqp_frames_enqueued(client->connection) || amqp_data_in_buffer(client->connection)) return;
    struct pollfd poll = {.fd = amqp_get_sockfd(client->connection), .events = POLLIN};
    struct timespec timeout = {.tv_sec = (time_t)left, .tv_nsec = (long)((left - (time_t)left) * 1e9)};
    ppoll(&poll, 1, &timeout, NULL);
}

static void open_loop(client_t *client, double seconds, double rate) {
    long total = (long)(rate * seconds), sent = 0, answered = 0;
    int overrun = 0;
    double *latencies = malloc(sizeof(double) * (size_t)(total + 1));
    double began = now(), last = began;
    while (answered < sent || (sent < total && !overrun)) {
        while (sent < total && !overrun && now() >= began + sent / rate) {
            overrun = now() - (began + sent / rate) > MAX_BEHIND || sent - answered > rate * MAX_BEHIND / 2;
            send_call(client, sent++);
        }
        wait_readable(client, sent < total && !overrun ? began + sent / rate : now() + PATIENCE);
        struct timeval at_once = {0};
        long number;
        while (answered < sent && (number = take_answer(client, &at_once)) >= 0) {
            last = now();
            latencies[answered++] = (last - (began + number / rate)) * 1000;
        }
        if (sent == total && now() - last > PATIENCE) die("calls were not answered within %d s", PATIENCE);
    }
    double took = last - began > sent / rate ? last - began : sent / rate;
    printf("{\"calls\": %ld, \"seconds\": %.6f, \"overrun\": %s, \"latencies\": [", answered, took,
           overrun ? "true" : "false");
    for (long i = 0; i < answered; i++) printf("%s%.3f", i ? ", " : "", latencies[i]);
    printf("]}\n");
    free(latencies);
}

/* The number of a name in a flat JSON object. */
static double number_in(const char *line, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *found = strstr(line, key);
    return found == NULL ? 0 : atof(found + strlen(key));
}

static int is_case(const char *line, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"case\": \"%s\"", name);
    return strstr(line, key) != NULL;
}

int main(void) {
    char line[4096];
    client_t *client = open_client();
    while (fgets(line, sizeof line, stdin) != NULL) {
        double seconds = number_in(line, "seconds");
        size_t size = (size_t)number_in(line, "size");
        if (size < NUMBER_WIDTH) size = NUMBER_WIDTH;
        resize(client, size);
        if (is_case(line, "one")) window(client, seconds, 1);
        else if (is_case(line, "many")) window(client, seconds, (int)number_in(line, "in_flight"));
        else if (is_case(line, "threads")) threads(seconds, (int)number_in(line, "threads"), size);
        else if (is_case(line, "open")) open_loop(client, seconds, number_in(line, "rate"));
        else printf("{\"unsupported\": \"not in C\"}\n");
        fflush(stdout);
    }
    return 0;
}
