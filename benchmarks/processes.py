"""The processes that the bench starts: contenders' servers and clients. Whatever happens, it ends each of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pika

from benchmarks.environments import HERE
from benchmarks.protocol import PATIENCE, Reply, Request

#: Seconds that a process gets to end by itself.
_GRACE = 5.0
#: Seconds that a server gets to be ready: several start at the same time.
_START = 60.0


class BrokenError(Exception):
    """A process did not do what it should; says what, in a line."""


class Process:
    """A process with a session of its own, so that Ctrl-C reaches the bench alone, which then ends it."""

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        variables: Mapping[str, str],
        *,
        asked: bool = False,
        folder: Path = HERE.parent,
    ) -> None:
        pipe = subprocess.PIPE if asked else subprocess.DEVNULL
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                words,
                cwd=folder,
                env={**os.environ, **variables},
                stdin=pipe,
                stdout=pipe,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Return whether it runs."""
        return self._process.poll() is None

    @property
    def last_words(self) -> str:
        """The last line that it said on standard error."""
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:200] if lines else "it said nothing"

    def end(self) -> None:
        """Ask it to end, and kill it and its children if it does not."""
        if self.runs:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its session's group: what is left of it, if anything
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class Client(Process):
    """A contender's client, which measures what it is asked for."""

    def __init__(
        self, words: Sequence[str], log: Path, variables: Mapping[str, str], *, folder: Path = HERE.parent
    ) -> None:
        super().__init__(words, log, variables, asked=True, folder=folder)
        self._unread = b""

    def ask(self, request: Request) -> Reply:
        """Have it measure something.

        Raises:
            BrokenError: It ended, or did not answer in time: then it is of no use any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise BrokenError(f"its client ended: {self.last_words}") from error
        line = self._line(time.monotonic() + 2 * request["seconds"] + 2 * PATIENCE)
        try:
            reply: Reply = json.loads(line)
        except ValueError as error:
            raise BrokenError(f"its client said {line[:80]!r}") from error
        return reply

    def _line(self, until: float) -> bytes:
        assert self._process.stdout is not None
        source = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = until - time.monotonic()
            if left <= 0 or not select.select([source], [], [], left)[0]:
                raise BrokenError("its client did not answer in time")
            more = os.read(source, 1 << 20)
            if not more:
                raise BrokenError(f"its client ended: {self.last_words}")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        return line


def await_consumers(server: Process, url: str, queue: str, count: int = 1) -> None:
    """Wait until a server is ready: so many consume its queue.

    Raises:
        BrokenError: It ended, or is not ready in time.
    """
    until = time.monotonic() + _START
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        while _consumers(connection, queue) < count:
            if not server.runs:
                raise BrokenError(f"its server ended: {server.last_words}")
            if time.monotonic() > until:
                raise BrokenError(f"its server was not ready in time: {server.last_words}")
            time.sleep(0.1)


def _consumers(connection: pika.BlockingConnection, queue: str) -> int:
    channel = connection.channel()
    try:
        found = channel.queue_declare(queue, passive=True).method.consumer_count
    except pika.exceptions.ChannelClosedByBroker:  # there is no such queue yet
        return 0
    channel.close()
    return int(found)
