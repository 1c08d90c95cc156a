"""How many calls in a second: amqp_rpc beside the code of RabbitMQ's tutorial, in one run on one broker.

``python -m benchmarks.calls`` starts a private RabbitMQ; ``--url`` takes another. Each server is a process of its own,
all calls are ``fib(10)``, and every answer is checked. In each round every way is measured once, and each round begins
with another one, so that what else the machine does hits all alike. Only ratios within one run mean something.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import secrets
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pika

import amqp_rpc
from amqp_rpc.broker.node import Node
from amqp_rpc.broker.ports import greet
from amqp_rpc.settings import Address
from benchmarks import raw_pika, served

N, RESULT = 10, 55
IN_FLIGHT = 100
#: Seconds for what should take none: a server's start, and the last answers of a round.
PATIENCE = 20.0

#: Connects to a broker, makes calls for so many seconds, and returns how many were answered in a second.
Measure = Callable[[str, float], float]


@dataclass
class Way:
    """One way to make calls, and what was measured of it."""

    name: str
    measure: Measure
    rates: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The rate that half of the rounds were below."""
        return statistics.median(self.rates)


@dataclass
class Table:
    """Ways that are compared with each other; the first is what the others are compared with."""

    title: str
    ways: list[Way]


def main() -> None:
    options = parse()
    with ExitStack() as stack:
        url, version = options.url, ""
        if url is None:
            print("starting a private RabbitMQ …", file=sys.stderr)
            node = stack.enter_context(Node())
            url, version = node.url, node.version
        else:
            address = Address.parse(url)
            answer = greet(address.port, host=address.host)
            if answer is None and not address.tls:
                sys.exit(f"no broker answers at {address}")
            version = answer or "of an unknown version"
        print(versions(version))
        one = f"bench.raw.{secrets.token_hex(4)}"
        many = f"bench.raw.{secrets.token_hex(4)}"
        for queue, prefetch in ((one, 1), (many, IN_FLIGHT)):
            stack.callback(delete, url, queue)
            stack.enter_context(server("benchmarks.raw_pika", queue, str(prefetch), url=url))
        for service in (served.as_it_is, served.prefetching):
            stack.callback(delete, url, service.queue)
        stack.enter_context(server("amqp_rpc", "serve", "benchmarks.served:as_it_is", url=url))
        prefetching = ("serve", "benchmarks.served:prefetching", f"--prefetch={IN_FLIGHT}")
        stack.enter_context(server("amqp_rpc", *prefetching, url=url))
        tables = [
            Table(
                "one call at a time",
                [
                    Way("raw pika, tutorial code", raw_one(one)),
                    Way("amqp_rpc, client.call", our_one("bench-as-it-is.fib")),
                ],
            ),
            Table(
                f"{IN_FLIGHT} calls in flight",
                [
                    Way(f"raw pika, prefetch {IN_FLIGHT}", raw_many(many)),
                    Way("raw pika, prefetch 1 as in the tutorial", raw_many(one)),
                    Way("amqp_rpc, client.map", our_many("bench-as-it-is.fib")),
                    Way(f"amqp_rpc, client.map, serve --prefetch {IN_FLIGHT}", our_many("bench-prefetching.fib")),
                ],
            ),
        ]
        measure(tables, url, rounds=options.rounds, seconds=options.seconds)
    print(f"{options.rounds} rounds of {options.seconds:g} s each, fib({N}); calls per second:\n")
    for table in tables:
        show(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__.split("\n")[0])
    parser.add_argument("--url", help="a broker to use; a private RabbitMQ is started unless given")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is measured (5)")
    parser.add_argument("--seconds", type=float, default=1.2, help="how long each time (1.2)")
    options = parser.parse_args()
    if options.rounds < 1 or not 0 < options.seconds <= 600:
        parser.error("--rounds must be at least 1, and --seconds above 0 and at most 600")
    return options


def measure(tables: list[Table], url: str, *, rounds: int, seconds: float) -> None:
    ways = [way for table in tables for way in table.ways]
    for way in ways:
        way.measure(url, 0.1)  # warm: modules, queues, the broker's own caches
    for number in range(rounds):
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            way.rates.append(way.measure(url, seconds))
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)


def show(table: Table) -> None:
    reference = table.ways[0].median
    print(f"| {table.title} | median | min–max | × raw pika |")
    print("| --- | ---: | ---: | ---: |")
    for way in table.ways:
        spread = f"{min(way.rates):.0f}–{max(way.rates):.0f}"
        print(f"| {way.name} | {way.median:.0f} | {spread} | {way.median / reference:.2f} |")
    print()


def raw_one(queue: str) -> Measure:
    def rate(url: str, seconds: float) -> float:
        answers: list[bytes] = []
        with raw_pika.Client(url, queue) as client:
            clock = Clock(seconds)
            while clock.runs():
                client.submit(N, answers.append)
                client.wait(most=PATIENCE)
            return clock.rate([int(answer) for answer in answers])

    return rate


def raw_many(queue: str) -> Measure:
    def rate(url: str, seconds: float) -> float:
        answers: list[bytes] = []

        def answered(body: bytes) -> None:
            answers.append(body)
            if clock.runs():
                client.submit(N, answered)

        with raw_pika.Client(url, queue) as client:
            clock = Clock(seconds)
            for _ in range(IN_FLIGHT):
                client.submit(N, answered)
            client.wait(most=seconds + PATIENCE)
            return clock.rate([int(answer) for answer in answers])

    return rate


def our_one(function: str) -> Measure:
    def rate(url: str, seconds: float) -> float:
        answers: list[int] = []
        with amqp_rpc.Client(url, timeout=PATIENCE) as client:
            client.call(function, N)  # connects
            clock = Clock(seconds)
            while clock.runs():
                answers.append(client.call(function, N))
            return clock.rate(answers)

    return rate


def our_many(function: str) -> Measure:
    def rate(url: str, seconds: float) -> float:
        with amqp_rpc.Client(url, timeout=PATIENCE) as client:
            client.call(function, N)  # connects
            clock = Clock(seconds)
            numbers = itertools.takewhile(lambda _: clock.runs(), itertools.repeat(N))
            return clock.rate(list(client.map(function, numbers, in_flight=IN_FLIGHT)))

    return rate


class Clock:
    """Says when to stop calling, and counts what was answered until the last answer was there."""

    def __init__(self, seconds: float) -> None:
        self._began = time.perf_counter()
        self._end = self._began + seconds

    def runs(self) -> bool:
        """Return whether there is time for another call."""
        return time.perf_counter() < self._end

    def rate(self, answers: list[int]) -> float:
        """Return how many answers there were in a second, until now; all must be right."""
        took = time.perf_counter() - self._began
        wrong = [answer for answer in answers if answer != RESULT]
        if wrong or not answers:
            raise AssertionError(f"{len(wrong)} of {len(answers)} answers were wrong: {wrong[:3]}")
        return len(answers) / took


@contextmanager
def server(*words: str, url: str) -> Iterator[None]:
    """Run a server from the line on which it says that it is ready, and stop it."""
    environment = {**os.environ, "AMQP_URL": url, "AMQP_RPC_URL": url}
    with subprocess.Popen(
        [sys.executable, "-m", *words], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        # It starts in time or not at all: then its standard error ends, and so does the wait for its line.
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if line.startswith("Ready."):
                    break
            else:
                raise RuntimeError(f"{' '.join(words)} did not start: {''.join(said)}")
            watch.cancel()
            yield
        finally:
            watch.cancel()
            process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def delete(url: str, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete(queue)


def versions(broker: str) -> str:
    return (
        f"amqp_rpc {amqp_rpc.__version__} · pika {pika.__version__} · Python {platform.python_version()} · "
        f"RabbitMQ {broker} · {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start · "
        f"{platform.system()} {platform.machine()}"
    )


if __name__ == "__main__":
    main()
