"""Queues between processes: the standard library's `queue.Queue`, whose items the broker keeps.

It runs no user functions, and never meets `client` or `server`. It imports `message`, `service` and `amqp`.
"""
