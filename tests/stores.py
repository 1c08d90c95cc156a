"""The Redis that tests run on: a private process on a free port of the loopback, which keeps nothing on disk."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from types import TracebackType
from typing import Self

import pytest

from tests.waiting import until


class RedisServer:
    """A Redis of a test's own, to be killed and started again at will; ``options`` are more words of its command."""

    def __init__(self, *options: str) -> None:
        self._options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(
            ["redis-server", *options, *self._options], stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir()
        )
        until(self._answers, what="redis-server")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "redis-server has ended"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                # The second is of one that wants a password.
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


def require_redis() -> None:
    """Skip at home where there is no Redis, and fail in CI: a green run that tested nothing would lie."""
    if shutil.which("redis-server"):
        return
    reason = "no redis-server for the tests: run `make test`, which installs it, or `apt-get install redis-server`"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
