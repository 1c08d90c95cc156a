"""Windows and macOS, as far as this system can stand for them: what they lack is removed before the import."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from amqp_rpc.cli.exits import Exit
from tests.programs import ROOT
from tests.waiting import until

#: In a process of its own, since the interpreter itself has these names.
WITHOUT = """
import os, select, signal, sys, _socket
for module, names in {
    os: "register_at_fork fork forkpty killpg getpgid geteuid getuid mkfifo",
    signal: "SIGKILL SIGHUP SIGUSR1 SIGALRM SIGCHLD SIGQUIT setitimer pthread_sigmask pthread_kill pause sigwait",
    select: "epoll poll kqueue devpoll",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
assert "selectors" not in sys.modules and "socket" not in sys.modules
sys.modules |= dict.fromkeys(["fcntl", "pwd", "grp", "resource", "termios", "tty"])
import socket
class Lacking(type(socket.socket)):
    def __getattribute__(cls, name):
        if name == "sendmsg":
            raise AttributeError(name)
        return super().__getattribute__(name)
class Socket(socket.socket, metaclass=Lacking):
    sendmsg = property()
assert not hasattr(Socket, "sendmsg") and not hasattr(Socket(), "sendmsg")
Socket.__name__ = "socket"
socket.socket = Socket
import selectors
assert selectors.DefaultSelector is selectors.SelectSelector
"""
#: A client and a server in one process, with messages that are larger than a socket's buffer.
BOTH = """
from amqp_rpc import Client, Server, Service
service = Service("tplatform")
@service.rpc
def echo(value: bytes) -> bytes:
    return value
@service.task(retries=0)
def work(n: int) -> int:
    return n * 2
with Server(service), Client() as client:
    assert client.call(echo, b"x" * 3_000_000) == b"x" * 3_000_000
    assert list(client.map(echo, [b"1", b"2"])) == [b"1", b"2"]
    assert client.enqueue(work, 4).result(timeout=20) == 8
    client.publish("tplatform.event", 1)
    with client.queue("tplatform.items", queue_type="classic") as items:
        items.put(1)
        assert items.get(timeout=20) == 1
        items.task_done()
print("works")
"""
MAIN = "from amqp_rpc.cli import main; main(prog_name='amqp-rpc')"


def python(program: str, *arguments: str, url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + program, *arguments],
        env={**os.environ, "AMQP_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def command(*words: str, url: str) -> tuple[int, str]:
    done = python(MAIN, *words, url=url)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


@contextmanager
def served(url: str) -> Iterator[None]:
    server = subprocess.Popen(
        [sys.executable, "-c", WITHOUT + MAIN, "serve", "tests.served"],
        env={**os.environ, "AMQP_URL": url},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    try:
        until(lambda: "Ready." in server.stderr.readline(), timeout=60, what="the server")
        yield
        server.terminate()
        assert server.wait(30) == Exit.OK
    finally:
        server.kill()
        server.stderr.close()
        server.wait(30)


def test_a_client_and_a_server_work_in_one_process(url: str) -> None:
    done = python(BOTH, url=url)
    assert done.stderr == ""
    assert done.stdout == "works\n"


def test_the_command_line_works_with_one_process(url: str) -> None:
    with served(url):
        assert command("call", "tserved.hold_async", "0.01", url=url)[0] == Exit.OK
        code, said = command("enqueue", "total", "1", "2", "--queue", "tserved_sums", "--wait", url=url)
        assert (code, said.splitlines()[-1]) == (Exit.OK, "3")
        assert command("publish", "tplatform.event", "1", url=url)[0] == Exit.OK
        assert command("queues", "tserved_sums", url=url)[0] == Exit.OK
        assert command("dlq", "list", "tserved_sums", url=url)[0] == Exit.OK
        assert command("broker", "status", url=url)[0] in (Exit.OK, Exit.BROKER_NOT_RUNNING)


def test_several_processes_are_refused_in_one_line(url: str) -> None:
    code, said = command("serve", "services.fib", "--processes", "2", url=url)
    assert code == Exit.USAGE
    assert said.startswith("amqp-rpc: --processes needs pipes and process groups of Unix")
    assert len(said.splitlines()) == 1
