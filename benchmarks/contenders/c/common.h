/* What the C server and the C client share: a connection by $AMQP_URL, and the end with a message. */
#pragma once

/* The headers moved to a folder of their own with version 0.12. */
#if __has_include(<rabbitmq-c/amqp.h>)
#include <rabbitmq-c/amqp.h>
#include <rabbitmq-c/tcp_socket.h>
#else
#include <amqp.h>
#include <amqp_tcp_socket.h>
#endif
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static const char *setting(const char *name) {
    const char *value = getenv(name);
    if (value == NULL) die("%s is not set", name);
    return value;
}

static void check(amqp_rpc_reply_t reply, const char *what) {
    if (reply.reply_type != AMQP_RESPONSE_NORMAL) die("%s failed", what);
}

/* A connection with channel 1 open. */
static amqp_connection_state_t dial(void) {
    char *url = strdup(setting("AMQP_URL"));
    struct amqp_connection_info info;
    amqp_default_connection_info(&info);
    if (amqp_parse_url(url, &info) != AMQP_STATUS_OK) die("AMQP_URL is not an AMQP URL");
    /* "amqp://host/" names the vhost "" by the book, and "/" to everybody else. */
    const char *vhost = info.vhost[0] == '\0' ? "/" : info.vhost;
    amqp_connection_state_t connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection);
    if (socket == NULL || amqp_socket_open(socket, info.host, info.port) != AMQP_STATUS_OK) die("no broker answers");
    /* No heartbeat: this client reads only while it measures. */
    check(amqp_login(connection, vhost, 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, info.user, info.password), "login");
    amqp_channel_open(connection, 1);
    check(amqp_get_rpc_reply(connection), "opening a channel");
    free(url);
    return connection;
}
