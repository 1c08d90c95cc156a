"""Measure the gain of a second process: Python runs on one core in each, so a busy function needs several.

It serves ``services.fib`` itself, with one process and then with two, keeps ``naive_fib`` busy, and prints the calls
per second: ``python -m examples.several_processes [SECONDS]``. Run no other server of ``services.fib`` then.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from amqp_rpc import Client, NoServer, Unroutable
from services.fib import naive_fib

#: Takes some milliseconds of one core, so that the function is measured and not the messaging.
N = 20
RESULT = 6765


def main() -> None:
    """Measure both, and print how they compare."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    with Client() as client:
        if is_served(client):
            sys.exit("A server of services.fib runs already; stop it first, else it would be measured too.")
        rates = {}
        for processes in (1, 2):
            with serving(processes):
                rates[processes] = calls_per_second(client, seconds)
            print(f"--processes {processes}: {rates[processes]:.0f} calls/s")
    print(f"ratio: {rates[2] / rates[1]:.2f}, on {os.cpu_count()} cores")


def is_served(client: Client) -> bool:
    """Return whether a call would be answered."""
    try:
        client.call(naive_fib, 1)
    except (NoServer, Unroutable):
        return False
    return True


@contextmanager
def serving(processes: int) -> Iterator[None]:
    """Run a server in the background; it is ready when the last line of its banner has arrived."""
    command = [sys.executable, "-m", "amqp_rpc", "serve", "services.fib", "--processes", str(processes)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            if not any(line.startswith("Ready.") for line in server.stderr):
                sys.exit("The server did not start.")
            yield
        finally:
            server.send_signal(signal.SIGINT)
            server.communicate()


def calls_per_second(client: Client, seconds: float) -> float:
    """Keep 100 calls in flight, check each result, and return the results per second."""
    client.call(naive_fib, N)
    began = time.perf_counter()
    numbers = itertools.takewhile(lambda _: time.perf_counter() < began + seconds, itertools.repeat(N))
    answers = list(client.map(naive_fib, numbers))
    took = time.perf_counter() - began
    assert set(answers) == {RESULT}
    return len(answers) / took


if __name__ == "__main__":
    main()
