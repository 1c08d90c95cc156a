"""RabbitMQ in a container, by compose.yaml: the file at the top of a checkout, and a copy in an installed package."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from amqp_rpc.broker.errors import NotAvailable, StartFailed

_PACKAGE = Path(__file__).resolve().parent
#: An installed package has it beside this module; a checkout has it at its top.
COMPOSE_FILES = (_PACKAGE / "compose.yaml", _PACKAGE.parent.parent / "compose.yaml")

#: What compose.yaml runs.
IMAGE = "rabbitmq:4-management"

#: Seconds to pull the image, some 100 MB.
PULL_TIMEOUT = 600.0


def engine_answers(*, timeout: float = 5.0) -> bool:
    """Whether a Docker engine answers within ``timeout`` seconds; the program ``docker`` alone proves nothing."""
    if shutil.which("docker") is None:
        return False
    try:
        done = _run(["docker", "info", "--format", "{{.ServerVersion}}"], timeout=timeout)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def compose_file() -> Path:
    """Return the path of compose.yaml."""
    for path in COMPOSE_FILES:
        if path.exists():
            return path
    raise NotAvailable(f"compose.yaml is missing from the installation (looked for {COMPOSE_FILES[0]})")


def compose_program() -> list[str]:
    """Return the words that run compose: the plugin of ``docker``, or the program ``docker-compose``.

    Raises:
        NotAvailable: there is neither.
    """
    if _run(["docker", "compose", "version"], timeout=10.0).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is not None:
        return ["docker-compose"]
    raise NotAvailable("Docker's compose plugin is not installed")


class Project:
    """One RabbitMQ under compose.

    Args:
        name: the compose project, which names its container, network and volume.
        port: where AMQP is published, on 127.0.0.1 only.
        management_port: where the management pages are published, on 127.0.0.1 only.
    """

    def __init__(self, *, name: str, port: int, management_port: int = 0) -> None:
        self.name = name
        self.port = port
        self._settings = {"AMQP_RPC_PORT": str(port), "AMQP_RPC_MANAGEMENT_PORT": str(management_port)}

    def up(self, *, timeout: float) -> None:
        """Get the image and start the container; it does not wait for RabbitMQ in it.

        Raises:
            NotAvailable: the image cannot be pulled, or compose is missing.
            StartFailed: the container does not start.
        """
        if not _has_image() and self._compose(["pull", "--quiet"], timeout=PULL_TIMEOUT).returncode != 0:
            raise NotAvailable(f"Docker answers, but the image {IMAGE} cannot be pulled")
        done = self._compose(["up", "--detach"], timeout=timeout)
        if done.returncode != 0:
            raise StartFailed(f"docker compose up failed: {_last_line(done)}")

    def down(self) -> None:
        """Remove the container, the network and the data."""
        done = self._compose(["down", "--volumes", "--timeout", "10"], timeout=60.0)
        if done.returncode != 0:
            raise StartFailed(f"docker compose down failed: {_last_line(done)}")

    def runs(self) -> bool:
        """Whether its container runs."""
        done = self._compose(["ps", "--quiet"], timeout=20.0)
        return done.returncode == 0 and bool(done.stdout.strip())

    def _compose(self, words: Sequence[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
        command = [*compose_program(), "--file", str(compose_file()), "--project-name", self.name, *words]
        try:
            return _run(command, timeout=timeout, settings=self._settings)
        except subprocess.TimeoutExpired as error:
            raise StartFailed(f"docker compose {words[0]} did not end in {timeout:.0f} s") from error


def _has_image() -> bool:
    """Whether the image is here already: then no registry is asked."""
    return _run(["docker", "image", "inspect", IMAGE], timeout=20.0).returncode == 0


def _run(
    words: Sequence[str], *, timeout: float, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **(settings or {})}
    return subprocess.run(words, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=timeout, check=False)  # fmt: skip


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
