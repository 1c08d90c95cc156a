"""A client with `Client.enqueue` and `Client.enqueue_many`, of tasks with results and without."""

from __future__ import annotations

import asyncio
import itertools
import os
import time

from amqp_rpc import AsyncClient, Client
from benchmarks import closed, enqueuing
from benchmarks.contenders.amqp_rpc import tasks
from benchmarks.protocol import PATIENCE, Payloads, Reply, Request, answer, check

#: The number of tasks of each `enqueue_many`.
MANY = 1000

client = Client(os.environ["AMQP_URL"], timeout=PATIENCE)
#: The tasks, by the queue's type and with results or without.
NOTES = {
    ("classic", False): tasks.note_classic,
    ("quorum", False): tasks.note_quorum,
    ("classic", True): tasks.told_classic,
    ("quorum", True): tasks.told_quorum,
}
ECHOES = {"classic": tasks.echo_classic, "quorum": tasks.echo_quorum}


def enqueue(request: Request) -> Reply:
    note = NOTES[request["queue_type"], request["results"]]
    return enqueuing.one(lambda text: client.enqueue(note, text), request)


def enqueue_awaited(request: Request) -> Reply:
    """Enqueue one task at a time in each of several asyncio tasks."""
    note, payload, numbers = (
        NOTES[request["queue_type"], request["results"]],
        Payloads(request["size"]),
        itertools.count(),
    )

    async def run() -> Reply:
        async with AsyncClient(os.environ["AMQP_URL"], timeout=PATIENCE) as awaited:
            await awaited.enqueue(note, payload(next(numbers)))

            async def work() -> int:
                count = 0
                while clock.runs():
                    await awaited.enqueue(note, payload(next(numbers)))
                    count += 1
                return count

            clock = closed.Clock(request["seconds"])
            counts = await asyncio.gather(*(work() for _ in range(request["in_flight"])))
            # One more was enqueued before the clock started.
            return clock.reply(sum(counts))

    return asyncio.run(run())


def enqueue_many(request: Request) -> Reply:
    note, payload, calls = NOTES[request["queue_type"], request["results"]], Payloads(request["size"]), 0
    clock = closed.Clock(request["seconds"])
    while calls == 0 or clock.runs():
        calls += len(client.enqueue_many(note, [(payload(number),) for number in range(calls, calls + MANY)]))
    return clock.reply(calls)


def fill(request: Request) -> Reply:
    """Enqueue a number of tasks, delayed if the request has a delay."""
    note, payload, began = (
        NOTES[request["queue_type"], request["results"]],
        Payloads(request["size"]),
        time.perf_counter(),
    )
    numbers, count = iter(range(request["count"])), 0
    while some := [(payload(number),) for number in itertools.islice(numbers, MANY)]:
        count += len(client.enqueue_many(note, some, delay=request.get("delay")))
    return {"calls": count, "seconds": time.perf_counter() - began}


def result(request: Request) -> Reply:
    """Enqueue a task and wait for its result, one at a time; report the duration of each."""
    echo, payload = ECHOES[request["queue_type"]], Payloads(request["size"])
    latencies: list[float] = []
    clock = closed.Clock(request["seconds"])
    while not latencies or clock.runs():
        sent, began = payload(len(latencies)), time.perf_counter()
        check(sent, client.enqueue(echo, sent).result(timeout=PATIENCE))
        latencies.append(1000 * (time.perf_counter() - began))
    return {**clock.reply(len(latencies)), "latencies": latencies}


if __name__ == "__main__":
    answer(
        {
            "enqueue": enqueue,
            "enqueue_awaited": enqueue_awaited,
            "enqueue_many": enqueue_many,
            "fill": fill,
            "result": result,
        }
    )
