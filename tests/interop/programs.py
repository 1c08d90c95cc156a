"""Real processes for tests: what they say is read as they say it, and each is ended by its own process id."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pika
import pytest

from tests import nodes

ROOT = Path(__file__).resolve().parents[2]

#: Seconds for one program to start, to end, or to do all that it does; a machine may be busy with other tests.
PATIENCE = 40.0

#: Marks a test of a program that does not say what type its queue is.
leaves_the_type = pytest.mark.skipif(bool(nodes.QUEUE_TYPE), reason="its program leaves its queue's type to the broker")


def delete_queues(url: str, *queues: str) -> None:
    """Delete queues that other tests, or the tutorials' own programs, may have left."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        for name in queues:
            connection.channel().queue_delete(name)


def environment(url: str, **variables: str) -> dict[str, str]:
    """This process's environment with the broker's URL, and without settings that a developer may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AMQP_RPC_")}
    # Wherever a program runs, it finds the package and its examples.
    return {
        **kept, "AMQP_URL": url, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error",
        **variables,
    }  # fmt: skip


def run(*words: str | Path, url: str, folder: Path = ROOT, ends_with: int = 0, **variables: str) -> str:
    """Run a program to its end and return its output, warnings and errors included."""
    with subprocess.Popen(
        [str(word) for word in words], env=environment(url, **variables), cwd=folder, text=True,
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            printed, _ = process.communicate(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with what it started itself
    assert process.returncode == ends_with, printed
    return printed


def amqplib(folder: Path) -> Path:
    """Install Node.js's client in a folder, and return it; skip the test where that can't be had, and fail it in CI."""
    for name in ("package.json", "package-lock.json"):
        shutil.copy(Path(__file__).with_name(name), folder)
    try:
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund", "--fetch-retries=0"],
            cwd=folder, check=True, timeout=PATIENCE, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.SubprocessError as error:
        reason = f"npm ci can't get amqplib: {error}\n{error.stderr}"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@contextmanager
def serving(
    target: str,
    *options: str,
    url: str,
    folder: Path = ROOT,
    prints: Path | None = None,
    ends_with: int = 0,
    **variables: str,
) -> Iterator[subprocess.Popen[str]]:
    """Run ``amqp-rpc serve`` from its banner's last line on, and stop it with Ctrl-C; what it prints goes to a file."""
    words = [sys.executable, "-m", "amqp_rpc", "serve", target, *options]
    with nullcontext() if prints is None else prints.open("w") as output:
        process = subprocess.Popen(
            words, env=environment(url, **variables), cwd=folder, text=True, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.PIPE,
        )  # fmt: skip
    try:
        said = _Lines(process)
        said.wait_for("Ready.")
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == ends_with, said.so_far()
    finally:
        process.kill()
        process.wait()
        said.reader.join()
        process.stderr.close()


@contextmanager
def running(*words: str | Path, url: str, prints: Path, ready: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of the tutorials', or an example of ours, from what it prints when it is ready to Ctrl-C."""
    with prints.open("w") as output:
        process = subprocess.Popen(
            [str(word) for word in words], env=environment(url), cwd=ROOT, text=True, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.PIPE,
        )  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE
        while ready not in prints.read_text():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until, f"it never printed {ready!r}"
            threading.Event().wait(0.02)
        yield process
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class _Lines:
    """The lines that a process writes on standard error; a thread reads them, so that it never waits for us."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._seen: list[str] = []
        self.reader = threading.Thread(target=self._read, args=(process.stderr,))
        self.reader.start()

    def _read(self, stream) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                line = None
            assert line is not None, f"it never said {text!r}, but: {''.join(self._seen)}"
            self._seen.append(line)
            if line.startswith(text):
                return

    def so_far(self) -> str:
        while not self._lines.empty():
            self._seen.append(self._lines.get() or "")
        return "".join(self._seen)
