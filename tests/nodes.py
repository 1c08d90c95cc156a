"""The RabbitMQ that the tests run on: one private node per test run, and more for tests that stop or kill theirs.

Settings, from the environment:

- ``AMQP_RPC_TEST_URL``: run against this broker, and skip the tests marked ``node``;
- ``AMQP_RPC_TEST_RABBITMQ``: a command put before RabbitMQ's programs, to run on another version of it;
- ``AMQP_RPC_TEST_QUEUE_TYPE=quorum``: make that the default type of queues of the nodes' virtual host;
- ``AMQP_RPC_TEST_TLS=1``: the nodes speak TLS, and their URLs start with ``amqps://``; the authority that signed their
  certificates is in ``SSL_CERT_FILE`` then, for all programs of the run;
- ``TESTCONTAINERS_RYUK_DISABLED=true``: do without the container that removes RabbitMQ's one after a kill -9, where
  its image cannot be had. A test run that ends in any other way removes RabbitMQ's container itself.

If a Docker engine answers and none of the first four is set, most tests share a container.

All nodes of a run live in one folder below /tmp. A second process (this file, run as a program) waits for the test
run to end in any way, kill -9 too, and then ends and removes what is left of that folder's nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the second process: find the package beside this folder, as pytest does
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from amqp_rpc.broker import processes
from amqp_rpc.broker.docker import IMAGE, engine_answers, get_image
from amqp_rpc.broker.node import Node, remove_folder
from amqp_rpc.broker.ports import free_port
from amqp_rpc.broker.programs import find_program
from tests.waiting import until

URL = os.environ.get("AMQP_RPC_TEST_URL", "")
COMMAND = tuple(shlex.split(os.environ.get("AMQP_RPC_TEST_RABBITMQ", "")))
#: The default type of queues; RabbitMQ's own where it is empty.
QUEUE_TYPE = os.environ.get("AMQP_RPC_TEST_QUEUE_TYPE", "")
#: Whether the nodes of `Nodes` speak TLS unless they are asked for otherwise.
OVER_TLS = os.environ.get("AMQP_RPC_TEST_TLS", "").lower() in {"1", "true"}

#: Options of the machines of nodes and of ``rabbitmqctl``: on two processors, of which tests keep both busy, no thread
#: of theirs spins while it waits for work. https://www.erlang.org/doc/apps/erts/erl_cmd.html
CALM = " +sbwt none +sbwtdcpu none +sbwtdio none"
#: Has a node evaluate an expression, in a hundredth of the time that ``rabbitmqctl`` takes to start.
ERL_CALL = shutil.which("erl_call")

#: Seconds for a node to start; below pytest's own timeout of a test, so that the reason is shown.
START_TIMEOUT = 100.0

#: Seconds to pull the image, and then for the container to be ready. With a node in its place it is still below 120 in
#: all, the timeout of a test.
PULL_TIMEOUT, CONTAINER_TIMEOUT = 60.0, 30


def missing() -> str | None:
    """Why no private node can be started here; None where it can."""
    if COMMAND or (processes.supported() and find_program("rabbitmq-server")):
        return None
    return (
        "no RabbitMQ for the tests: run `make test`, which installs it, or `apt-get install rabbitmq-server`, "
        "or set AMQP_RPC_TEST_URL=amqp://… to a broker that the tests may use"
    )


def expression(words: Sequence[str]) -> str | None:  # noqa: C901, PLR0911 - one case for each word
    """What ``rabbitmqctl`` has the node do for these words; None for what tests ask for too seldom."""
    module = "rabbit_auth_backend_internal"
    function: str
    values: list[str]
    match words:
        case ("eval", asked):
            return asked.strip().removesuffix(".")
        case ("set_vm_memory_high_watermark" as function, part):
            return f"vm_memory_monitor:{function}({part})"
        case ("set_vm_memory_high_watermark" as function, "absolute", limit):
            return f"vm_memory_monitor:{function}({{absolute, {limit}}})"
        case ("close_all_connections", reason):
            return f'rabbit_networking:close_connections(rabbit_networking:connections(), "{reason}")'
        case ("close_connection", pid, reason):
            return f'rabbit_networking:close_connection(rabbit_misc:string_to_pid("{pid}"), "{reason}")'
        case (
            "add_user" | "change_password" | "delete_user" | "set_user_limits" | "clear_user_limits" as function,
            *values,
        ):
            """They have the same order there."""
        case ("set_permissions" as function, "-p", vhost, user, *rights):
            values = [user, vhost, *rights]
        case ("set_permissions" as function, user, *rights):
            values = [user, "/", *rights]
        case ("add_vhost" | "delete_vhost" as verb, vhost):
            module, function, values = "rabbit_vhost", verb.removesuffix("_vhost"), [vhost]
        case ("set_vhost_limits", "-p", *values):
            module, function = "rabbit_vhost_limit", "parse_set"
        case _:
            return None
    # The last one is who does it.
    return f"{module}:{function}({', '.join(map(_binary, [*values, 'tests']))})"


def _binary(text: str) -> str:
    """A text as a binary of Erlang's."""
    return f"<<{json.dumps(text, ensure_ascii=False)}/utf8>>"


class TypedNode(Node):
    """A node whose virtual host has a default type of queues that is not RabbitMQ's own."""

    default_queue_type = QUEUE_TYPE
    _typed = False

    def ctl(self, *args: str, timeout: float = 60.0) -> str:
        """Do as `Node.ctl` does, without ``rabbitmqctl`` where it only passes a word on to the node."""
        asked = expression(args)
        if asked is None or not (ERL_CALL or self.command):
            return super().ctl(*args, timeout=timeout)
        cookie = () if self.command else ("-c", self.cookie)
        done = subprocess.run(
            [*self.command, "erl_call", "-address", f"127.0.0.1:{self._distribution_port}", *cookie, "-e"],
            input=f'lists:flatten(io_lib:format("~0p", [begin {asked} end])).\n',
            env=self._environment(), capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        if (found := re.fullmatch(r'\{ok, "(.*)"\}', done.stdout.strip(), re.DOTALL)) is not None and (
            args[0] == "eval" or found[1] == "ok"
        ):
            return found[1]
        # It says why.
        return super().ctl(*args, timeout=timeout)

    def _environment(self) -> dict[str, str]:
        made = super()._environment()
        for name in ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "RABBITMQ_CTL_ERL_ARGS"):
            made[name] += CALM
        return made

    def start(self, *, timeout: float = START_TIMEOUT) -> None:
        super().start(timeout=timeout)
        if self.default_queue_type and not self._typed:
            self._typed = True
            self.ctl("delete_vhost", "/")
            self.ctl("add_vhost", "/", "--default-queue-type", self.default_queue_type)
            self.ctl("set_permissions", "guest", ".*", ".*", ".*")


class TLSNode(TypedNode):
    """A node with a listener for TLS beside the plain one; its URL is that of TLS.

    Args:
        pair: The files of its certificate and its key. Where they are replaced, `reread` has the node use the new ones.
        trusted: The file of the authorities whose clients' certificates it accepts.
    """

    def __init__(self, *, pair: Any, trusted: Path, settings: Sequence[str] = (), **options: Any) -> None:
        #: The port of TLS.
        self.tls_port = free_port()
        own = [
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
            f"ssl_options.certfile = {pair.certfile}",
            f"ssl_options.keyfile = {pair.keyfile}",
            f"ssl_options.cacertfile = {trusted}",
            "ssl_options.verify = verify_peer",
        ]
        if not any("fail_if_no_peer_cert" in each for each in settings):
            # RabbitMQ 4 takes no client without a certificate unless it is told to.
            own.append("ssl_options.fail_if_no_peer_cert = false")
        super().__init__(settings=[*own, *settings], **options)

    @property
    def url(self) -> str:
        return f"amqps://guest:guest@127.0.0.1:{self.tls_port}/"

    def start(self, *, timeout: float = START_TIMEOUT) -> None:
        super().start(timeout=timeout)
        # The listener of TLS is the last to start.
        until(self._listens, timeout=20, what="the listener of TLS")

    def reread(self) -> None:
        """Have it read its files again: it keeps what it has read for two minutes."""
        self.ctl("eval", "ssl:clear_pem_cache().")

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.tls_port), timeout=1):
            return True
        return False


class Nodes:
    """The nodes of one test run."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._secured: dict[str, Any] | None = None
        #: Those that are not lent, by their options.
        self._idle: defaultdict[str, list[Node]] = defaultdict(list)

    def lend(self, **options: Any) -> Node:
        """A running node with these options: the last one, or a new one."""
        if idle := self._idle[repr(options)]:
            return idle.pop()
        node = self.new(**options)
        node.start(timeout=START_TIMEOUT)
        return node

    def give_back(self, node: Node, *, whole: bool, **options: Any) -> None:
        """Keep a lent node for the next test, if it is whole and runs; else remove it."""
        if whole and node.pid:
            self._idle[repr(options)].append(node)
        else:
            node.close()

    def new(self, **options: Any) -> TypedNode:
        """A node of its own, not yet started; `Node`'s options, or `TLSNode`'s."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="amqp-rpc-tests-", dir="/tmp"))
            self._folder.chmod(0o755)
            self._watch = subprocess.Popen(
                [sys.executable, __file__, str(self._folder)], stdin=subprocess.PIPE, start_new_session=True
            )
        self._made += 1
        secured = self._secure(self._folder) if OVER_TLS and "pair" not in options else {}
        kind = TLSNode if secured or "pair" in options else TypedNode
        return kind(folder=self._folder / str(self._made), command=COMMAND, **{**secured, **options})

    def _secure(self, folder: Path) -> dict[str, Any]:
        """The options of nodes that speak TLS: one certificate for all nodes of a run."""
        if self._secured is None:
            from tests.certificates import Authority

            authority = Authority(folder / "certificates")
            pair = authority.issue("localhost", "127.0.0.1", "::1")
            os.environ["SSL_CERT_FILE"] = str(authority.cacertfile)
            self._secured = {"pair": pair, "trusted": authority.cacertfile}
        return self._secured

    def cluster(self, count: int, **options: Any) -> list[Node]:
        """Running nodes that form a cluster; `Node`'s options."""
        first = self.new(**options)
        nodes: list[Node] = [first]
        nodes += [self.new(port_mapper=first.port_mapper, cookie=first.cookie, **options) for _ in range(count - 1)]
        with contextlib.ExitStack() as ends:
            for node in nodes:
                ends.callback(node.close)
                node.start(timeout=START_TIMEOUT)
                if node is not first:
                    node.ctl("stop_app", timeout=START_TIMEOUT)
                    node.ctl("join_cluster", first.name, timeout=START_TIMEOUT)
                    node.ctl("start_app", timeout=START_TIMEOUT)
            ends.pop_all()
        return nodes

    def close(self) -> None:
        for node in chain.from_iterable(self._idle.values()):
            node.close()
        self._idle.clear()
        if self._watch is not None:
            self._watch.communicate(timeout=30)  # closes its input, and it cleans up


def container() -> Any:
    """RabbitMQ in a container, started, where a Docker engine answers and gives one; else None."""
    if COMMAND or QUEUE_TYPE or OVER_TLS or not engine_answers():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            get_image(timeout=PULL_TIMEOUT)
            from testcontainers.core.config import testcontainers_config
            from testcontainers.rabbitmq import RabbitMqContainer

            testcontainers_config.max_tries = CONTAINER_TIMEOUT  # one a second
            made = RabbitMqContainer(IMAGE, port=5672, username="guest", password="guest", vhost="/")
            return made.__enter__()  # start() would leave a container that does not become ready, or at Ctrl-C
        except Exception as error:
            print(f"no RabbitMQ from Docker ({error}); starting a private node", file=sys.stderr)
            return None


def clean_up(run: Path) -> None:
    """End all processes of a run's nodes, port mappers too, and remove their folders."""
    processes.end(f"RABBITMQ_PID_FILE={run}/")
    shutil.rmtree(run / "certificates", ignore_errors=True)
    for folder in run.iterdir():
        remove_folder(folder)
    if not any(run.iterdir()):
        run.rmdir()


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # until the test run's end of the pipe is closed: it ended
    clean_up(Path(sys.argv[1]))
