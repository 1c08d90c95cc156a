"""Print the modules that one call, one task or one event passes: ``python -m scripts.walk call|task|event``.

It uses the broker at ``AMQP_URL``, or a private RabbitMQ node. The server is a process of its own. Both sides are
recorded with ``sys.setprofile``, after a first call that sets everything up.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from amqp_rpc import Client, Server, Service
from amqp_rpc.broker import Node

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "amqp_rpc."
#: Seconds without a step after which a walk is over, and seconds that it may take in all.
QUIET, PATIENCE = 0.3, 20.0
#: Names on the broker carry this, so that two walks on one broker do not meet.
RUN = "WALK_RUN"


@dataclass(frozen=True)
class Step:
    """A module that was passed on one side.

    Attributes:
        side: ``client`` or ``server``.
        module: Its name without the package's.
        first: When it was first passed, on the machine's monotonic clock.
        functions: How many calls of its functions there were.
    """

    side: str
    module: str
    first: float
    functions: int


class Recorder:
    """Records the package's modules that this process passes while it is on, in all threads that start after it."""

    def __init__(self, side: str) -> None:
        self.on = False
        self.last = 0.0
        self._side = side
        self._first: dict[str, float] = {}
        self._functions: dict[str, int] = {}
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def start(self) -> None:
        """Begin anew."""
        self._first, self._functions = {}, {}
        self.last = time.monotonic()
        self.on = True

    def stop(self) -> list[Step]:
        """Wait until no step was made for a while, and return those that were made."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() - self.last < QUIET and time.monotonic() < until:
            time.sleep(QUIET / 10)
        self.on = False
        return [Step(self._side, module, self._first[module], self._functions[module]) for module in self._first]

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if not self.on or event != "call":
            return
        module = frame.f_globals.get("__name__", "")
        if module.startswith(PACKAGE):
            self.last = time.monotonic()
            name = module.removeprefix(PACKAGE)
            self._first.setdefault(name, self.last)
            self._functions[name] = self._functions.get(name, 0) + 1


def walk(kind: str, url: str) -> list[Step]:
    """Return the steps of one call, task or event, client and server together, in their order.

    Args:
        kind: ``call``, ``task`` or ``event``.
        url: The broker's.
    """
    run = secrets.token_hex(6)
    with subprocess.Popen(
        [sys.executable, "-m", "scripts.walk", "serve"],
        env={**os.environ, "AMQP_URL": url, RUN: run, "PYTHONPATH": str(ROOT)},
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        try:
            _ask(server, "ready?")
            # Before the client starts its threads.
            recorder = Recorder("client")
            with Client(url, timeout=PATIENCE) as client:
                go = _trip(kind, client, run)
                go()
                recorder.start()
                recorder.stop()
                _ask(server, "start")
                recorder.start()
                go()
                steps = recorder.stop() + [Step(*step) for step in _ask(server, "stop")]
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            server.kill()
    return sorted(steps, key=lambda step: step.first)


def modules(steps: list[Step]) -> set[str]:
    """Return the modules that were passed on either side."""
    return {step.module for step in steps}


def _service(run: str) -> Service:
    service = Service(f"walk{run}")

    @service.rpc
    def greet(name: str) -> str:
        return f"Hello, {name}!"

    @service.task(queue=f"walk.{run}")
    def work(name: str) -> str:
        return f"{name} is done"

    @service.subscribe(f"walk.{run}")
    def note(name: str) -> None:
        pass

    return service


def _trip(kind: str, client: Client, run: str) -> Callable[[], object]:
    return {
        "call": lambda: client.call(f"walk{run}.greet", "world"),
        "task": lambda: client.enqueue("work", "it", queue=f"walk.{run}").result(),
        "event": lambda: client.publish(f"walk.{run}", "it"),
    }[kind]


def _ask(server: subprocess.Popen[str], question: str) -> Any:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(question + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    if not answer:
        raise SystemExit("the server has ended; its last words are above")
    return json.loads(answer)


def _serve() -> None:
    """Serve, and answer the questions of standard input on standard output."""
    recorder = Recorder("server")
    with Server(_service(os.environ[RUN]), url=os.environ["AMQP_URL"]):
        for question in sys.stdin:
            answer: list[tuple[str, str, float, int]] = []
            if question.strip() == "start":
                recorder.start()
                recorder.stop()
                recorder.start()
            elif question.strip() == "stop":
                answer = [(step.side, step.module, step.first, step.functions) for step in recorder.stop()]
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


def _print(kind: str, steps: list[Step]) -> None:
    for step in steps:
        after = (step.first - steps[0].first) * 1000
        print(f"{after:8.2f} ms  {step.side}  {step.module:30} {step.functions:4} functions")
    print(f"{kind}: {len(modules(steps))} modules")


def main() -> None:
    """Read the arguments, walk, and print."""
    parser = argparse.ArgumentParser(prog="python -m scripts.walk", description=__doc__)
    parser.add_argument("kind", choices=["call", "task", "event"])
    kind = parser.parse_args().kind
    if url := os.environ.get("AMQP_URL"):
        _print(kind, walk(kind, url))
    else:
        with Node() as node:
            _print(kind, walk(kind, node.url))


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        _serve()
    else:
        main()
