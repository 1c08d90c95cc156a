"""Tools for operators: the dead letters of a queue, and a tap on events.

It never runs a user's function, and imports `message` and `amqp`.
"""
