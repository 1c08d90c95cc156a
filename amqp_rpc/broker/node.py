"""A private RabbitMQ node on loopback: its processes, its folder and its logs.

It never touches the system's node, cookie, data or logs, and removes only the files that it made.
It is a seam: tests, chaos and benchmarks run nodes of their own.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from amqp_rpc.broker import processes
from amqp_rpc.broker.errors import CleanupRefused, ControlFailed, NotAvailable, StartFailed
from amqp_rpc.broker.ports import free_port, greet
from amqp_rpc.broker.programs import ADVICE, find_program

_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
_PORT_MAPPER = "epmd"

#: The folders that are made in a node's folder.
PARTS = ("data", "home", "log", "no-plugins", "schema")
#: The files.
FILES = ("pid", "plugins", "rabbitmq.conf")
#: The file that marks a node's folder: nothing is removed from a folder without it.
MARK = "a-node-of-amqp-rpc"

MOUNTS = Path("/proc/self/mountinfo")

#: A line of RabbitMQ's log: date, time, level, process, text.
_LINE = re.compile(r"^\d{4}-\d\d-\d\d \S+ \[(?P<level>\w+)\] <[^>]*> ?(?P<text>.*)$")
_LONGEST = 300


class Node:
    """A private RabbitMQ node on loopback, with a name, ports and a folder of its own.

    Example::

        with Node() as node:
            connect(node.url)

    Args:
        port: The AMQP port, on 127.0.0.1 only; a free one by default.
        folder: The folder of its data, logs and settings, which `close` removes; a new temporary one by default.
        name: Its name before ``@localhost``; a unique one by default.
        command: Words before RabbitMQ's programs, which are then called by plain name: ``("chroot", "/srv/x")``.
        port_mapper: The port of the Erlang port mapper (epmd); nodes that share it can form a cluster.
        cookie: The secret that the nodes of a cluster share.
        settings: Lines of its ``rabbitmq.conf``; see https://www.rabbitmq.com/docs/configure
        plugins: Names of plugins to enable.
        parameters: Parameters of its applications, as Erlang terms: ``{"rabbit": {"name": "value"}}``.

    Attributes:
        url: Its AMQP URL, as user ``guest``, with its port.
        name: Its full Erlang name, for other nodes and ``rabbitmqctl -n``.
        folder: Its folder.
        version: The version that it reported; empty before `start`.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        name: str | None = None,
        command: Sequence[str] = (),
        port_mapper: int | None = None,
        cookie: str | None = None,
        settings: Sequence[str] = (),
        plugins: Sequence[str] = (),
        parameters: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.port: int = port or free_port()
        self.folder: Path = folder or new_folder(shared=bool(command))
        self.name: str = f"{name or 'amqp-rpc-' + secrets.token_hex(4)}@localhost"
        self.version: str = ""
        self.command: tuple[str, ...] = tuple(command)
        self.port_mapper: int = port_mapper or free_port()
        self.cookie: str = cookie or secrets.token_hex(16)
        self.settings: tuple[str, ...] = tuple(settings)
        self.plugins: tuple[str, ...] = tuple(plugins)
        self.parameters: Mapping[str, Mapping[str, str]] | dict[str, Mapping[str, str]] = parameters or {}
        self._distribution_port = free_port()
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its AMQP URL, as user ``guest``."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The process id of its Erlang machine; 0 if it does not run."""
        try:
            pid = int((self.folder / "pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if pid in self._processes() else 0

    @property
    def log(self) -> Path:
        """The path of its log."""
        return self.folder / "log" / "node.log"

    def start(self, *, timeout: float = 60.0) -> None:
        """Start it and wait until it accepts clients. After a `stop` or a `kill` it has its data again.

        Args:
            timeout: Seconds; a node that is not ready by then is killed.

        Raises:
            NotAvailable: RabbitMQ is not on this machine.
            StartFailed: It ended, or was not ready in time. No process of it is left.
        """
        until = time.monotonic() + timeout
        environment = self._environment()
        words = [*self.command, self._program("rabbitmq-server")]
        self._lay_out()
        try:
            with (self.folder / "log" / "console.log").open("wb") as console:
                self._server = subprocess.Popen(
                    words, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                    start_new_session=True,
                )  # fmt: skip
            self._await_ready(self._server, until)
        except BaseException as error:
            self.kill()
            if isinstance(error, OSError) and not isinstance(error, StartFailed):
                raise StartFailed(f"{words[0]} could not be run: {error}") from error
            raise

    def _await_ready(self, server: subprocess.Popen[bytes], until: float) -> None:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise StartFailed(f"RabbitMQ was not ready in time: {reason(self.folder / 'log')}")
            if server.poll() is not None:
                raise StartFailed(f"RabbitMQ ended while it started: {reason(self.folder / 'log')}")
            # Both: a broker answers on the port, and the port is the node's own.
            version = greet(self.port, timeout=min(1.0, left))
            if version is not None and self.pid:
                self.version = version
                return
            time.sleep(processes.PAUSE)

    def stop(self, *, timeout: float = 20.0) -> None:
        """Stop it as an administrator does; its data stays for the next `start`.

        Args:
            timeout: Seconds to disconnect its clients and close its queues; then it is killed.
        """
        pid = self.pid
        if pid:
            os.kill(pid, signal.SIGTERM)
            processes.wait_for_end(self._setting, without=_PORT_MAPPER, timeout=timeout)
        self.kill()

    def kill(self) -> None:
        """Kill it, like a power cut; its data stays as it is on the disk."""
        gone = processes.end(self._setting, without=_PORT_MAPPER)
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None
        if not gone:
            raise ControlFailed(f"processes of node {self.name} could not be ended: {sorted(self._processes())}")

    def close(self) -> None:
        """Kill it, and remove its folder, and its port mapper unless another node uses that."""
        self.kill()
        users = processes.started_with(self._mapper_setting)
        if set(users.values()) <= {_PORT_MAPPER}:
            processes.end(self._mapper_setting)
        remove_folder(self.folder)

    def ctl(self, *args: str, timeout: float = 60.0) -> str:
        """Run ``rabbitmqctl`` against this node, and return its output.

        Args:
            *args: Its words, such as ``"list_queues", "name"``.
            timeout: Seconds.

        Raises:
            ControlFailed: It failed, or did not end in time.
        """
        words = [*self.command, self._program("rabbitmqctl"), "-q", "-n", self.name, *args]
        try:
            done = subprocess.run(words, env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True,
                                  text=True, timeout=timeout, check=False)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ControlFailed(f"rabbitmqctl {' '.join(args)} did not end in {timeout:.0f} s") from error
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).split())
            raise ControlFailed(f"rabbitmqctl {' '.join(args)} failed: {said or f'exit code {done.returncode}'}")
        return done.stdout

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _program(self, name: str) -> str:
        if self.command:
            return name
        if not processes.supported():
            raise NotAvailable(f"a private RabbitMQ node needs Linux (/proc); {ADVICE}")
        found = find_program(name)
        if found is None:
            raise NotAvailable(f"{name} is not on this machine; {ADVICE}")
        return found

    @property
    def _mapper_setting(self) -> str:
        return f"ERL_EPMD_PORT={self.port_mapper}"

    @property
    def _setting(self) -> str:
        return f"RABBITMQ_PID_FILE={self.folder / 'pid'}"

    def _processes(self) -> dict[int, str]:
        """Return its processes, except the port mapper, which the nodes of a cluster share."""
        return processes.started_with(self._setting, without=_PORT_MAPPER)

    def _lay_out(self) -> None:
        """Make its folders and settings, and keep existing data."""
        lay_out(self.folder, shared=bool(self.command))
        (self.folder / "pid").unlink(missing_ok=True)
        (self.folder / "plugins").write_text(f"[{','.join(self.plugins)}].\n")
        if self.settings:
            (self.folder / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in self.settings))
        cookie = self.folder / "home" / ".erlang.cookie"
        if not self.command and not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self.cookie)
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        """Return the settings that isolate it: https://www.rabbitmq.com/docs/configure#supported-environment-variables."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_")) and name != "NOTIFY_SOCKET"
        }
        # The cookie is in HOME. The program of `command` needs its own HOME, and has a cookie there.
        home = {} if self.command else {"HOME": str(self.folder / "home")}
        # Settings and plugins need the plugins' folder. Without reading it, 4.x starts in 2 s instead of 6 s.
        plugins = {} if self.settings or self.plugins else {"RABBITMQ_PLUGINS_DIR": str(self.folder / "no-plugins")}
        # https://www.erlang.org/doc/apps/erts/erl_cmd.html: -Application Par Val
        parameters = (
            f" -{application} {name} {value}"
            for application, each in self.parameters.items()
            for name, value in each.items()
        )
        return (
            inherited
            | home
            | plugins
            | {
                "ERL_CRASH_DUMP": str(self.folder / "log" / "crash.dump"),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "ERL_EPMD_PORT": str(self.port_mapper),
                "RABBITMQ_NODENAME": self.name,
                "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
                "RABBITMQ_NODE_PORT": str(self.port),
                "RABBITMQ_DIST_PORT": str(self._distribution_port),
                "RABBITMQ_PID_FILE": str(self.folder / "pid"),
                "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
                "RABBITMQ_SCHEMA_DIR": str(self.folder / "schema"),
                "RABBITMQ_LOG_BASE": str(self.folder / "log"),
                "RABBITMQ_LOGS": str(self.log),
                "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
                "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d"),  # none: the system's is not read
                "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
                "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK_ONLY + "".join(parameters),
                "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
            }
        )


def new_folder(*, shared: bool) -> Path:
    """Make a temporary folder for a node; one that is shared with programs of another user is below /tmp."""
    return Path(tempfile.mkdtemp(prefix="amqp-rpc-node-", dir="/tmp" if shared else None))  # noqa: S108


def lay_out(folder: Path, *, shared: bool) -> None:
    """Make the missing parts, and keep the data of an earlier start; refuse a folder with other files."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise StartFailed(f"{folder} has files in it that are not a node's; give an empty folder, or none")
    for made in (folder, *(folder / part for part in PARTS)):
        made.mkdir(parents=True, exist_ok=True)
        if shared:
            made.chmod(0o777)
    (folder / MARK).touch()


def remove_folder(folder: Path) -> None:
    """Remove the files that `lay_out` and the node made, then the folder, if it is empty."""
    # A program that the node was started through may bind /tmp or /dev there, and rmtree goes through mounts.
    mounted = mounted_below(folder)
    if mounted:
        raise CleanupRefused(f"{folder} was left as it is: {mounted[0]} is mounted in it; unmount it, then remove it")
    marked = (folder / MARK).exists()
    for part in PARTS if marked else ():
        path = folder / part
        if not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
    for name in (*FILES, MARK) if marked else ():
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def mounted_below(folder: Path, mounts: Path = MOUNTS) -> list[Path]:
    """Return the mount points at or below a folder; only this list has bind mounts."""
    real = Path(os.path.realpath(folder))
    points = (Path(_unescape(line.split()[4])) for line in mounts.read_text().splitlines())
    return sorted(point for point in points if point.is_relative_to(real))


def _unescape(text: str) -> str:
    r"""Decode the kernel's ``\040`` for a space, and its like."""
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text


def reason(folder: Path) -> str:
    """Return the line of a start's logs that most likely has the reason of its failure, with the path of the log."""
    for name in ("node.log", "console.log"):
        log = folder / name
        lines = _read(log)
        for line in lines:
            found = _LINE.match(line)
            if found and found["level"] in {"error", "critical"} and found["text"].strip(" ="):
                return f"{found['text'].strip()[:_LONGEST]} (log: {log})"
    for name in ("console.log", "node.log"):
        log = folder / name
        lines = [line.strip() for line in _read(log) if any(letter.isalpha() for letter in line)]
        if lines:
            return f"its last words: {lines[-1][:_LONGEST]} (log: {log})"
    return f"it logged nothing (log: {folder})"


def _read(log: Path) -> list[str]:
    try:
        return log.read_text(errors="replace").splitlines()
    except OSError:
        return []
