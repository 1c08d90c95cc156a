/* The floor of a confirmed enqueue: one persistent message at a time to a durable queue, and the wait for its confirm. */
#define _GNU_SOURCE
#include "common.h"

#include <time.h>

#define CHANNEL 1

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

static void await_confirm(amqp_connection_state_t connection) {
    amqp_frame_t frame;
    amqp_maybe_release_buffers(connection);
    if (amqp_simple_wait_frame(connection, &frame) != AMQP_STATUS_OK) die("the connection was lost");
    if (frame.frame_type != AMQP_FRAME_METHOD || frame.payload.method.id != AMQP_BASIC_ACK_METHOD)
        die("not a confirm");
}

static void enqueue(amqp_connection_state_t connection, amqp_bytes_t queue, double seconds, size_t size) {
    char *body = malloc(size + 24);
    amqp_basic_properties_t properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2};
    long sent = 0;
    double began = now();
    memset(body, 'x', size);
    do {
        char digits[24];
        int width = snprintf(digits, sizeof digits, "%09ld", sent++);
        memcpy(body, digits, (size_t)width);
        amqp_bytes_t bytes = {.len = size, .bytes = body};
        if (amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, 1, 0, &properties, bytes) < 0)
            die("publishing failed");
        await_confirm(connection);
    } while (now() - began < seconds);
    printf("{\"calls\": %ld, \"seconds\": %.6f}\n", sent, now() - began);
    free(body);
}

/* The number of a name in a flat JSON object. */
static double number_in(const char *line, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\": ", name);
    const char *found = strstr(line, key);
    return found == NULL ? 0 : atof(found + strlen(key));
}

int main(void) {
    char line[4096];
    amqp_connection_state_t connection = dial();
    amqp_bytes_t queue = amqp_cstring_bytes(setting("BENCH_QUEUE"));
    amqp_queue_declare(connection, CHANNEL, queue, 0, 1, 0, 0, amqp_empty_table);
    check(amqp_get_rpc_reply(connection), "declaring the queue");
    amqp_confirm_select(connection, CHANNEL);
    check(amqp_get_rpc_reply(connection), "asking for confirms");
    while (fgets(line, sizeof line, stdin) != NULL) {
        size_t size = (size_t)number_in(line, "size");
        if (strstr(line, "\"case\": \"enqueue\"") != NULL)
            enqueue(connection, queue, number_in(line, "seconds"), size < 10 ? 10 : size);
        else printf("{\"unsupported\": \"not in C\"}\n");
        fflush(stdout);
    }
    return 0;
}
