"""The clients: they send calls, tasks, events and items over one connection, and wait for their ends.

`rpc` sends calls over the session and ends them; `servers` knows who serves a queue. `call` and `future` are calls
in flight, and `reply` decodes their ends. `task`, `event` and `bulk` publish the rest. `client` and `aio` are the
clients that programs use. The package never imports `server`.
"""
