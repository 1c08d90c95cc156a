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


def test_a_client_that_is_not_used_before_a_fork_works_in_each_child(url: str) -> None:
    program = """
import asyncio, os, warnings
warnings.simplefilter("ignore")
from amqp_rpc import AsyncClient, Client
client, other = Client(), AsyncClient()
items = client.queue("tfork.items", queue_type="classic")
children = []
for _ in range(2):
    children.append(os.fork())
    if not children[-1]:
        ids = [client.publish("tfork.event", 1), asyncio.run(other.publish("tfork.event", 1))]
        items.put(os.getpid())
        os.write(1, (" ".join(ids) + " ").encode())
        client.close()
        os._exit(0)
for child in children:
    os.waitpid(child, 0)
taken = [items.get(timeout=10) for _ in children]
[items.task_done() for _ in children]
print(sorted(taken) == sorted(children), end="")
client.close()
"""
    *ids, worked = _run(program, url).split()
    assert worked == "True"
    assert len(set(ids)) == 4


#: Each is made in `__del__`, when the interpreter is about to end, and says which error came.
AT_THE_END = """
import os
from amqp_rpc import AmqpRpcError, Client
client, fresh = Client(), Client()
items = client.queue("tend.items", queue_type="classic")
{before}
class Last:
    # As defaults: names of modules may be gone by then.
    def __del__(self, write=os.write, Error=AmqpRpcError, client=client, fresh=fresh, items=items):
        for attempt in (lambda: client.call("tend.nobody"), lambda: client.submit("tend.nobody").result(),
                        lambda: client.enqueue("tend_nobody"), lambda: client.publish("tend.event", 1),
                        lambda: items.put(1), lambda: fresh.call("tend.nobody"), lambda: fresh.publish("tend.event")):
            try:
                attempt()
            except Error as error:
                write(1, (type(error).__name__ + " " + str(error.may_have_run) + chr(10)).encode())
        client.close()
        fresh.close()
last = Last()
last.itself = last
"""


@pytest.mark.parametrize("before", ["", "client.publish('tend.event', 1); items.put(1)"])
def test_what_is_sent_while_the_interpreter_ends_is_one_error_at_once(url: str, before: str) -> None:
    """Each of these took its whole timeout, of half a minute."""
    assert _run(AT_THE_END.format(before=before), url).splitlines() == ["NotConnected False"] * 7


def test_a_first_use_at_exit_works_or_is_one_error(url: str) -> None:
    """Python 3.12 starts no thread any more then; other versions do."""
    program = """
import atexit
from amqp_rpc import Client, NotConnected
client = Client()
def last():
    try:
        client.publish("tend.event", 1)
    except NotConnected as error:
        print(error.may_have_run)
    else:
        print(False)
atexit.register(last)
"""
    assert _run(program, url) == "False\n"


def test_a_forked_child_does_not_stop_its_parents_server(url: str) -> None:
    program = """
import os, warnings
warnings.simplefilter("ignore")
from amqp_rpc import Client, Server, Service
service = Service("tparent")
@service.rpc
def pid() -> int:
    return os.getpid()
with Server(service) as server, Client() as client:
    if not os.fork():
        server.stop()
        os._exit(3)
    print(os.waitstatus_to_exitcode(os.wait()[1]), client.call("tparent.pid") == os.getpid())
"""
    assert _run(program, url) == "3 True\n"


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


def test_a_server_that_is_stopped_while_it_declares_is_quiet(vhost: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()

    @service.task(queue="tquiet")
    def work() -> None:
        """Nothing to do."""

    # The levels of delay are declared one after another, a hundred steps.
    with Server(service, url=vhost):
        pass
    assert [record for record in caplog.records if record.name.startswith("amqp_rpc")] == []
