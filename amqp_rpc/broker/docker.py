"""RabbitMQ in a container, from compose.yaml: at the top of a checkout, or a copy in the installed package.

It is a seam: the other way to run RabbitMQ, beside `node`. It knows Docker's command line and nothing of nodes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from amqp_rpc.broker.errors import ControlFailed, NotAvailable, StartFailed

_PACKAGE = Path(__file__).resolve().parent
#: The installed package has it beside this module, a checkout at its top.
COMPOSE_FILES = (_PACKAGE / "compose.yaml", _PACKAGE.parent.parent / "compose.yaml")

#: The image in compose.yaml.
IMAGE = "rabbitmq:4-management"

#: Seconds to pull the image, about 100 MB.
PULL_TIMEOUT = 600.0

#: Seconds for RabbitMQ to stop by itself. Its data is removed anyway, and a starting node ignores the signal.
_STOP_TIMEOUT = 3

#: Seconds for a terminated command to undo what it began.
_GRACE = 5.0


def engine_answers(*, timeout: float = 5.0) -> bool:
    """Return whether a Docker engine answers in time; the program ``docker`` alone proves nothing."""
    if shutil.which("docker") is None:
        return False
    try:
        done = _run(["docker", "info", "--format", "{{.ServerVersion}}"], timeout=timeout)
    except (NotAvailable, StartFailed):
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def get_image(*, timeout: float = PULL_TIMEOUT) -> None:
    """Pull the image, unless the engine has it; raise `NotAvailable` on failure, `StartFailed` after the timeout."""
    if _run(["docker", "image", "inspect", IMAGE], timeout=20.0).returncode == 0:
        return
    done = _run(["docker", "pull", "--quiet", IMAGE], timeout=timeout)
    if done.returncode != 0:
        raise NotAvailable(f"{_last_line(done)}: the image {IMAGE} cannot be pulled")


def compose_file() -> Path:
    """Return the path of compose.yaml."""
    for path in COMPOSE_FILES:
        if path.exists():
            return path
    raise NotAvailable(f"compose.yaml is missing from the installation (looked for {COMPOSE_FILES[0]})")


def compose_program() -> list[str]:
    """Return the words that run compose: the plugin of ``docker``, or the program ``docker-compose``."""
    if _run(["docker", "compose", "version"], timeout=10.0).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is not None:
        return ["docker-compose"]
    raise NotAvailable("Docker answers, but its compose plugin is not installed")


class Project:
    """One RabbitMQ under compose: a project with a container, a network and a volume; its ports are on 127.0.0.1."""

    def __init__(self, *, name: str, port: int, management_port: int = 0) -> None:
        self.name = name
        self.port = port
        self._settings = {"AMQP_RPC_PORT": str(port), "AMQP_RPC_MANAGEMENT_PORT": str(management_port)}

    def up(self, *, timeout: float) -> None:
        """Get the image and start the container, without waiting for RabbitMQ in it."""
        compose_program()  # before the long download
        get_image()
        done = self._compose(["up", "--detach"], timeout=timeout)
        if done.returncode != 0:
            raise StartFailed(f"docker compose up failed: {_last_line(done)}")

    def down(self) -> None:
        """Remove the container, the network and the data; raise `ControlFailed` if some of them may be left."""
        try:
            done = self._compose(["down", "--volumes", "--timeout", str(_STOP_TIMEOUT)], timeout=60.0)
        except NotAvailable:  # nothing is started without compose
            return
        except StartFailed as error:
            raise ControlFailed(f"{error}; project {self.name} may be left") from error
        if done.returncode != 0:
            raise ControlFailed(f"docker compose down failed, project {self.name} may be left: {_last_line(done)}")

    def runs(self) -> bool:
        """Return whether its container runs."""
        try:
            done = self._compose(["ps", "--quiet"], timeout=20.0)
        except NotAvailable:
            return False
        return done.returncode == 0 and bool(done.stdout.strip())

    def _compose(self, words: Sequence[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
        command = [*compose_program(), "--file", str(compose_file()), "--project-name", self.name, *words]
        return _run(command, timeout=timeout, settings=self._settings)


def _run(
    words: Sequence[str], *, timeout: float, settings: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Docker command to its end; kill it after the timeout."""
    # In a session of its own: Ctrl-C in a terminal must not cut a clean-up short.
    try:
        started = subprocess.Popen(words, env=os.environ | (settings or {}), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                                   start_new_session=True)  # fmt: skip
    except OSError as error:
        raise NotAvailable(f"{words[0]} could not be run: {error}") from error
    with started:
        try:
            out, err = started.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            _end(started)
            raise StartFailed(f"{shlex.join(words)} did not end in {timeout:g} s") from error
        except BaseException:
            _end(started)
            raise
    return subprocess.CompletedProcess(words, started.returncode, out, err)


def _end(started: subprocess.Popen[str]) -> None:
    """End a command with its children: the compose plugin is one, and would go on."""
    if not hasattr(os, "killpg"):  # Windows
        started.kill()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(started.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.communicate(timeout=_GRACE)
            return


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
