/* The floor's server: consumes $BENCH_QUEUE with a prefetch of $BENCH_PREFETCH, and echoes to reply_to. */
#include "common.h"

int main(void) {
    amqp_connection_state_t connection = dial();
    amqp_bytes_t queue = amqp_cstring_bytes(setting("BENCH_QUEUE"));
    amqp_queue_declare(connection, 1, queue, 0, 0, 0, 0, amqp_empty_table);
    check(amqp_get_rpc_reply(connection), "declaring the queue");
    amqp_basic_qos(connection, 1, 0, atoi(setting("BENCH_PREFETCH")), 0);
    check(amqp_get_rpc_reply(connection), "setting the prefetch");
    amqp_basic_consume(connection, 1, queue, amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
    check(amqp_get_rpc_reply(connection), "consuming");
    for (;;) {
        amqp_envelope_t request;
        amqp_maybe_release_buffers(connection);
        check(amqp_consume_message(connection, &request, NULL, 0), "waiting for a request");
        amqp_basic_properties_t properties = {
            ._flags = AMQP_BASIC_CORRELATION_ID_FLAG,
            .correlation_id = request.message.properties.correlation_id,
        };
        amqp_basic_publish(connection, 1, amqp_empty_bytes, request.message.properties.reply_to, 0, 0, &properties,
                           request.message.body);
        amqp_basic_ack(connection, 1, request.delivery_tag, 0);
        amqp_destroy_envelope(&request);
    }
}
