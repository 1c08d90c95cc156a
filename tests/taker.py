"""A program that gets items, for tests that kill it: it prints each one, and acks as many as it should."""

from __future__ import annotations

import sys

from amqp_rpc import Client

url, name, done = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Client(url) as client, client.queue(name, prefetch=1) as queue:
    for number, item in enumerate(queue, 1):
        print(item, flush=True)
        if number > done:
            sys.stdin.read()  # for ever: no test writes
        queue.task_done()
