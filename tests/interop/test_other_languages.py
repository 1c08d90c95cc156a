"""RabbitMQ's tutorials in six languages against ours: each of their programs reaches ours, and is reached.

``tutorials/`` has the programs. A language is skipped where its tools are missing; the reason says how to install them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest

from amqp_rpc import Client, Exchange, Server, Service
from tests.interop.programs import amqplib, delete_queues, run, running
from tests.waiting import until

PROGRAMS = Path(__file__).parent / "tutorials"
LOGS = Exchange("logs", "fanout", durable=False)
JARS = ":".join(f"/usr/share/java/{jar}.jar" for jar in ("amqp-client", "slf4j-api", "slf4j-nop"))
#: Seconds to compile a program, on a machine that is busy.
COMPILE = 300


@dataclass(frozen=True)
class Language:
    """How its programs are made and run.

    Args:
        packages: Debian's, which have all that it needs.
        check: A command that fails where that is missing.
        make: Returns the command that runs a program of the tutorials; it may compile it in a folder.
    """

    packages: str
    check: tuple[str, ...]
    make: Callable[[Path], tuple[str, ...]]


def script(interpreter: str, name: str) -> Callable[[Path], tuple[str, ...]]:
    return lambda _folder: (interpreter, str(PROGRAMS / name))


def compiled(*command: str, **variables: str) -> None:
    subprocess.run(
        command, check=True, timeout=COMPILE, capture_output=True, text=True, env={**os.environ, **variables}
    )


def go(folder: Path) -> tuple[str, ...]:
    program = str(folder / "tutorials")
    gopath = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "-p=1"}
    compiled("go", "build", "-o", program, str(PROGRAMS / "tutorials.go"), **gopath)
    return (program,)


def java(folder: Path) -> tuple[str, ...]:
    compiled("javac", "-cp", JARS, "-d", str(folder), str(PROGRAMS / "Tutorials.java"))
    return ("java", "-cp", f"{JARS}:{folder}", "Tutorials")


def node(folder: Path) -> tuple[str, ...]:
    shutil.copy(PROGRAMS / "tutorials.mjs", amqplib(folder))
    return ("node", str(folder / "tutorials.mjs"))


LANGUAGES = {
    "Ruby": Language("ruby ruby-bunny", ("ruby", "-e", "require 'bunny'"), script("ruby", "tutorials.rb")),
    # It reads no header that is a number of 64 bits, nor a float.
    "Perl": Language(
        "perl libanyevent-rabbitmq-perl",
        ("perl", "-MAnyEvent::RabbitMQ", "-e", "1"),
        script("perl", "tutorials.pl"),
    ),
    "PHP": Language(
        "php-cli php-amqplib", ("php", "-r", "require 'PhpAmqpLib/autoload.php';"), script("php", "tutorials.php")
    ),
    "Go": Language(
        "golang-go golang-github-rabbitmq-amqp091-go-dev",
        ("env", "GO111MODULE=off", "GOPATH=/usr/share/gocode", "go", "list", "github.com/rabbitmq/amqp091-go"),
        go,
    ),
    "Java": Language(
        "default-jdk-headless librabbitmq-client-java",
        ("sh", "-c", "javac -version && test -e /usr/share/java/amqp-client.jar"),
        java,
    ),
    "JavaScript": Language("nodejs npm", ("sh", "-c", "node --version && npm --version"), node),
}


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def theirs(language: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command that runs a language's programs, by their names."""
    spoken = LANGUAGES[language]
    try:
        subprocess.run(spoken.check, check=True, timeout=COMPILE, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"no {language} with RabbitMQ's client here: apt-get install {spoken.packages}")
    return spoken.make(tmp_path_factory.mktemp(language))


@pytest.fixture
def place(url: str) -> Iterator[str]:
    """The URL of a broker that has none of the tutorials' queues, without the slash at its end.

    Some clients take that for a virtual host without a name.
    """
    queues = ("rpc_queue", "rpc_queue.dead", "task_queue", "task_queue.dead", "logs.of.ours", "logs.of.ours.dead")
    for _ in range(2):
        delete_queues(url, *queues, "amqp_rpc.bindings.logs.of.ours")
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            connection.channel().exchange_delete("logs")
        if _ == 0:
            yield url.removesuffix("/")


@pytest.mark.slow(seconds=5)
@pytest.mark.timeout(2 * COMPILE)
def test_their_programs_reach_ours(theirs: tuple[str, ...], place: str) -> None:
    service = Service(queue_type="quorum")
    received: list[str] = []

    @service.rpc
    def fib(n: int) -> int:
        return 832_040 if n == 30 else n

    @service.task
    def work(text: str) -> None:
        received.append(f"task {text}")

    @service.subscribe(exchange=LOGS, queue="logs.of.ours")
    def log(line: str) -> None:
        received.append(f"log {line}")

    with Server(service, url=place):
        assert run(*theirs, "rpc_client", "30", url=place) == " [.] Got 832040\n"
        run(*theirs, "new_task", "Hello, wörld...", url=place)
        run(*theirs, "emit_log", "info: it burns", url=place)
        until(lambda: sorted(received) == ["log info: it burns", "task Hello, wörld..."])
        with Client(place) as client:
            assert client.dead_letters("task_queue").list() == []


@pytest.mark.slow(seconds=5)
@pytest.mark.timeout(2 * COMPILE)
def test_ours_reach_their_programs(theirs: tuple[str, ...], place: str, tmp_path: Path) -> None:
    names = ("worker", "receive_logs", "rpc_server")

    @Service().rpc
    def fib(n: int) -> int:
        raise NotImplementedError(n)

    with contextlib.ExitStack() as stack, Client(place) as client:
        started = [
            stack.enter_context(running(*theirs, name, url=place, prints=tmp_path / name, ready="Waiting"))
            for name in names
        ]
        assert client.with_options(content_type="text/plain").call(fib, 30) == 832_040
        assert client.call("fib", "20", content_type="text/plain") == "6765"
        client.enqueue("work", "Hello, wörld...", content_type="text/plain", expires=600)
        client.publish("", "info: it burns", exchange=LOGS)
        until(lambda: " [x] Received Hello, wörld...\n" in (tmp_path / "worker").read_text())
        until(lambda: " [x] info: it burns\n" in (tmp_path / "receive_logs").read_text())
        assert [process.poll() for process in started] == [None] * len(names)
