"""AMQP: connections that come back, channels that stay open, messages that are confirmed.

It knows queues, exchanges and messages, and no calls, tasks, items or users' functions; it never decodes a body. It
imports `message` and `errors`. Only `connection` imports pika, and only that module and `stream` know sockets and TLS.

From below: `frames` and `stream` (bytes), `loop` (I/O thread), `connection` and `channel` (requests to await),
`keeper` (a channel that reopens), `declare` and `publisher` (messages that must not be lost), `reply_queue` and
`session` (all of it for one client). `pending` holds what waits for the broker: a value that is set later, and a table
of entries in flight.
"""
