"""Clients and processes: a fork, an exit with a live client, a close in the middle of calls. Never a hang."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from amqp_rpc import AmqpRpcError, Client, ConfigurationError, Server, Service
from amqp_rpc.broker import Node
from tests.programs import ROOT, serving
from tests.waiting import until

Serve = Callable[..., Server]


def test_a_client_says_in_a_forked_child_that_it_belongs_to_the_parent(url: str) -> None:
    program = """
import os, sys, warnings
warnings.simplefilter("ignore")
from amqp_rpc import Client, ConfigurationError
client = Client()
try:
    client.call("nobody.home")
except Exception:
    pass
if os.fork() == 0:
    try:
        client.call("nobody.home")
    except ConfigurationError as error:
        client.close()
        print(error, flush=True)
    os._exit(0)
os.wait()
try:
    client.call("nobody.home")
except Exception as error:
    print(type(error).__name__)
client.close()
"""
    assert _run(program, url) == (
        "this client was made before fork(), in the parent process; make a new one here\nUnroutable\n"
    )


@pytest.mark.parametrize(
    "last", ["None", "client.submit('tserved.hold', 20)", "[client.submit('tserved.pid') for _ in range(99)]"]
)
def test_a_program_ends_with_a_live_client_and_with_calls_under_way(url: str, last: str) -> None:
    with serving("tests.served", url=url) as server:
        program = f"from amqp_rpc import Client\nclient = Client()\nprint(client.call('tserved.pid'))\nheld = {last}"
        assert _run(program, url) == f"{server.pid}\n"
        server.send(signal.SIGKILL)  # it would wait for what it still holds


def test_a_call_that_is_waited_for_can_be_interrupted(url: str) -> None:
    with serving("tests.served", url=url):
        program = """
import os, signal, threading
from amqp_rpc import Client
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins with it ignored
client = Client()
client.call("tserved.pid")
threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    client.call("tserved.hold", 1)
except KeyboardInterrupt:
    print("interrupted")
print(client.call("tserved.hold", 0)[0] > 0)
"""
        assert _run(program, url) == "interrupted\nTrue\n"


def test_closing_while_many_threads_call_ends_every_call_with_one_of_our_errors(
    url: str, serve: Serve, service: Service
) -> None:
    @service.rpc
    def one() -> int:
        return 1

    serve(service)
    client = Client(url, timeout=20)
    ended: list[BaseException] = []
    calling = threading.Barrier(9)

    def call() -> None:
        client.call(one)
        calling.wait(20)
        try:
            while True:
                client.call(one)
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    calling.wait(20)
    client.close()
    until(lambda: len(ended) == 8, what="all threads to be told")
    assert all(isinstance(error, AmqpRpcError) for error in ended)
    with pytest.raises(ConfigurationError, match="closed"):
        client.call(one)


def _run(program: str, url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "AMQP_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return done.stdout


def test_a_server_may_be_stopped_twice_and_says_the_same(client: Client, serve: Serve, service: Service) -> None:
    """Its event loop is closed by then."""
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    async def one() -> int:
        return 1

    @service.rpc
    def hold() -> None:
        begun.set()
        go_on.wait(30)

    server = serve(service)
    assert client.call(one) == 1
    client.submit(hold)
    assert begun.wait(20)
    assert not server.stop(drain_timeout=0.01)
    go_on.set()
    until(lambda: server._pool.event_loop is not None and server._pool.event_loop.is_closed())
    assert not server.stop()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        stops = [pool.submit(server.stop) for _ in range(3)]
        assert [stop.result(timeout=20) for stop in stops] == [False] * 3


def test_a_server_that_is_stopped_while_it_declares_is_quiet(
    new_node: Callable[..., Node], caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()

    @service.task(queue="tquiet")
    def work() -> None:
        """Nothing to do."""

    # The levels of delay are declared one after another, a hundred steps.
    with Server(service, url=new_node().url):
        pass
    assert [record for record in caplog.records if record.name.startswith("amqp_rpc")] == []
