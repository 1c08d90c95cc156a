"""`amqp-rpc` as a process of its own: started, watched line by line, ended by its id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import until

ROOT = Path(__file__).resolve().parent.parent


class Program:
    """A running `amqp-rpc`; what it says on standard error is kept."""

    def __init__(self, *arguments: str, url: str, cwd: Path = ROOT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "amqp_rpc", *arguments],
            env={**os.environ, "AMQP_URL": url},
            cwd=cwd,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self.said: list[str] = []
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def text(self) -> str:
        return "".join(self.said)

    def until_said(self, words: str) -> None:
        until(lambda: words in self.text() or self.process.poll() is not None, timeout=30, what=repr(words))
        assert words in self.text(), self.text()

    def children(self) -> list[int]:
        return [int(child) for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(30)
        self._listener.join(30)
        return code

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.said.extend(lines)


@contextmanager
def serving(*arguments: str, url: str, cwd: Path = ROOT) -> Iterator[Program]:
    """`amqp-rpc serve`, ready; it is stopped at the end, and killed where it does not stop."""
    program = Program("serve", *arguments, url=url, cwd=cwd)
    try:
        program.until_said("Ready.")
        yield program
        program.end()
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.end()


def run(*arguments: str, url: str, cwd: Path = ROOT, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run `amqp-rpc` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "amqp_rpc", *arguments],
        env={**os.environ, "AMQP_URL": url},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
