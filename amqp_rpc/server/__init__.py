"""A server: it consumes queues, runs the functions of services, replies, and settles each delivery once.

It never sends a call, a task or an event of its own; only the schedulers enqueue the tasks that are due. It imports
`message`, `service`, `amqp` and `results`, and never `client`.

A delivery goes one way: `consumers` → `worker` → `pool` → `calls` or `tasks` → `invoke` → `replies` → `state`, where it
is acked. `scheduler` and `redelivered_check` stand beside it. `server` makes the parts.
"""
