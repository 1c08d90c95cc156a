"""A private RabbitMQ node on loopback. It never touches the system's node, its cookie, its data or its logs."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from amqp_rpc.broker import folders, logs, processes
from amqp_rpc.broker.errors import ControlFailed, NotAvailable, StartFailed
from amqp_rpc.broker.ports import free_port, greet
from amqp_rpc.broker.programs import ADVICE, find_program

_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
_PORT_MAPPER = "epmd"


class Node:
    """A private RabbitMQ node on loopback: own name, ports, data folder.

    Example::

        with Node() as node:
            connect(node.url)

    Args:
        port: where it listens for AMQP, on 127.0.0.1 only; a free one unless given.
        folder: where its data, logs and settings are; a new temporary folder unless given. `close` removes it.
        name: its name, before the ``@localhost``; a unique one unless given.
        command: words put before RabbitMQ's programs, which are then called by plain name: ``("chroot", "/srv/x")``.
        port_mapper: the port of the Erlang port mapper (epmd); nodes that share one can form a cluster.
        cookie: the secret that the nodes of a cluster share.
        settings: lines for its ``rabbitmq.conf``; see https://www.rabbitmq.com/docs/configure
        parameters: of its applications, for what the former has no line: ``{"rabbit": {"name": "value"}}``, in Erlang.

    Attributes:
        url: its AMQP address, as user ``guest``.
        port: the port in it.
        name: its full Erlang name, as other nodes and ``rabbitmqctl -n`` know it.
        folder: its folder.
        version: what it said its version is; empty before `start`.
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
        parameters: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.folder = folder or folders.create(shared=bool(command))
        self.name = f"{name or 'amqp-rpc-' + secrets.token_hex(4)}@localhost"
        self.version = ""
        self.command = tuple(command)
        self.port_mapper = port_mapper or free_port()
        self.cookie = cookie or secrets.token_hex(16)
        self.settings = tuple(settings)
        self.parameters = parameters or {}
        self._distribution_port = free_port()
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its AMQP address, as user ``guest``."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    @property
    def pid(self) -> int:
        """The process id of its Erlang machine; 0 where it does not run."""
        try:
            pid = int((self.folder / "pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if pid in self._processes() else 0

    @property
    def log(self) -> Path:
        """Where it logs."""
        return self.folder / "log" / "node.log"

    def start(self, *, timeout: float = 60.0) -> None:
        """Start it and wait until it takes clients. After a `stop` or a `kill` it comes back with its data.

        Args:
            timeout: seconds; a node that is not ready by then is killed.

        Raises:
            NotAvailable: RabbitMQ is not on this machine.
            StartFailed: it ended, or was not ready in time. Whatever happens, no process of it is left.
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
                raise StartFailed(f"RabbitMQ was not ready in time: {logs.reason(self.folder / 'log')}")
            if server.poll() is not None:
                raise StartFailed(f"RabbitMQ ended while it started: {logs.reason(self.folder / 'log')}")
            # Both: who answers on the port, and that it is this node which has it.
            version = greet(self.port, timeout=min(1.0, left))
            if version is not None and self.pid:
                self.version = version
                return
            time.sleep(processes.PAUSE)

    def stop(self, *, timeout: float = 20.0) -> None:
        """Stop it as an administrator does; its data stays, and `start` finds it again.

        Args:
            timeout: seconds for its clients to be told and its queues to be closed; then it is killed.
        """
        pid = self.pid
        if pid:
            os.kill(pid, signal.SIGTERM)
            processes.wait_until(lambda: not self._processes(), timeout=timeout)
        self.kill()

    def kill(self) -> None:
        """End it at once, like a power cut; its data stays as it is on the disk."""
        gone = processes.end(self._processes)
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None
        if not gone:
            raise ControlFailed(f"processes of node {self.name} could not be ended: {sorted(self._processes())}")

    def close(self) -> None:
        """Kill it, and remove all that it left: its folder, and its port mapper unless another node uses that."""
        self.kill()
        users = processes.started_with(self._mapper_setting)
        if set(users.values()) <= {_PORT_MAPPER}:
            processes.end(lambda: processes.started_with(self._mapper_setting))
        folders.remove(self.folder)

    def ctl(self, *args: str, timeout: float = 60.0) -> str:
        """Run ``rabbitmqctl`` against this node.

        Args:
            *args: its words, such as ``"list_queues", "name"``.
            timeout: seconds.

        Returns:
            What it printed.

        Raises:
            ControlFailed: it failed, or did not end in time.
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

    def _processes(self) -> dict[int, str]:
        """What runs of it, except the port mapper: a cluster shares that."""
        found = processes.started_with(f"RABBITMQ_PID_FILE={self.folder / 'pid'}")
        return {pid: program for pid, program in found.items() if program != _PORT_MAPPER}

    def _lay_out(self) -> None:
        """Make its folders and settings; keeps the data that is there."""
        folders.lay_out(self.folder, shared=bool(self.command))
        (self.folder / "pid").unlink(missing_ok=True)
        (self.folder / "plugins").write_text("[].\n")
        if self.settings:
            (self.folder / "rabbitmq.conf").write_text("".join(f"{line}\n" for line in self.settings))
        cookie = self.folder / "home" / ".erlang.cookie"
        if not self.command and not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self.cookie)
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        """The settings that keep it to itself. See https://www.rabbitmq.com/docs/configure#supported-environment-variables."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_")) and name != "NOTIFY_SOCKET"
        }
        # The cookie is in HOME. A program that the node is started through needs its own HOME, and brings the cookie.
        home = {} if self.command else {"HOME": str(self.folder / "home")}
        # Without a settings file nothing in the plugins' folder is needed; not reading it starts 4.x in 2 s, not 6 s.
        plugins = {} if self.settings else {"RABBITMQ_PLUGINS_DIR": str(self.folder / "no-plugins")}
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
                "RABBITMQ_CONFIG_FILES": str(self.folder / "conf.d"),  # there is none: the system's is not read
                "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.folder / "advanced.config"),
                "RABBITMQ_CONF_ENV_FILE": str(self.folder / "rabbitmq-env.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK_ONLY + "".join(parameters),
                "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
            }
        )
