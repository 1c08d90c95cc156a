"""Calls that are lost without notice: judged by the reports of servers and by the state of the queue."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from amqp_rpc import CallTimeout, Client, MaybeExecuted, Server, Service
from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.amqp.pending import InFlight
from amqp_rpc.broker.node import Node
from amqp_rpc.client.call import CallOptions
from amqp_rpc.client.future import PendingCall
from amqp_rpc.client.reply import Decoder
from amqp_rpc.client.servers import Liveness
from tests.programs import serving
from tests.served_by import Raw
from tests.waiting import until

QUEUE = "rpc_queue"


class Watched:
    """A `Liveness` with calls, and what it has found."""

    def __init__(self) -> None:
        self.pending: InFlight[PendingCall] = InFlight()
        self.liveness = Liveness(self.pending)
        self.asked: list[str] = []
        self.lost: list[str] = []

    def write(
        self, identity: str, *, idempotent: bool = True, timeout: float = 10.0, queue: str = QUEUE
    ) -> PendingCall:
        call = PendingCall(identity, queue, "f", b"", timeout, Decoder(None, 1000), CallOptions(idempotent=idempotent))
        self.pending.add(identity, call)
        call.written = True
        self.liveness.written(call)
        return call

    def answer(self, identity: str, *, reports: bool = True) -> None:
        call = self.pending.take(identity)
        assert call is not None
        self.liveness.answered(call, reports=reports)

    def look(self, times: int) -> None:
        for _ in range(times):
            self.asked += self.liveness.look()

    def inspect(self, messages: int, consumers: int) -> None:
        state = QueueState(QUEUE, messages=messages, consumers=consumers)
        self.lost += [call.identity for call in self.liveness.lost(state)]


@pytest.fixture
def watched() -> Watched:
    """Its queue's server is known to send reports."""
    watched = Watched()
    watched.write("first")
    watched.answer("first")
    return watched


@pytest.mark.parametrize(("timeout", "looks"), [(1.0, 3), (10.0, 3), (15.0, 3), (30.0, 6), (50.0, 10), (600.0, 10)])
def test_the_queue_is_asked_for_after_a_tenth_of_the_timeout_within_bounds(watched, timeout, looks):
    watched.write("a", timeout=timeout)
    watched.look(looks - 1)
    assert watched.asked == []
    watched.look(1)
    assert watched.asked == [QUEUE]


def test_servers_without_reports_are_never_suspected():
    watched = Watched()
    watched.write("first")
    watched.answer("first", reports=False)
    watched.write("a")
    watched.look(100)
    assert watched.asked == []


def test_a_call_that_is_not_in_its_queue_any_more_is_lost(watched):
    watched.write("a")
    watched.look(3)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == ["a"]


def test_a_call_that_may_wait_in_its_queue_is_not_lost(watched):
    watched.write("a")
    watched.look(3)
    watched.inspect(messages=1, consumers=1)
    assert watched.lost == []


def test_a_call_that_a_server_takes_after_a_look_has_time_for_its_first_report(watched):
    watched.write("a")
    watched.look(3)
    watched.inspect(messages=1, consumers=1)
    watched.look(2)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == []
    watched.look(1)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == ["a"]


def test_a_report_restarts_the_silence(watched):
    watched.write("a")
    watched.look(2)
    watched.liveness.reported(["a", "unknown", 7, None, ["a"], b"a"])
    watched.look(2)
    watched.inspect(messages=0, consumers=1)
    assert watched.asked == watched.lost == []
    watched.look(1)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == ["a"]


def test_a_call_that_a_server_died_with_may_wait_in_its_queue_again(watched):
    watched.write("a")
    watched.liveness.reported(["a"])
    watched.look(10)
    watched.inspect(messages=1, consumers=1)
    assert watched.lost == []


def test_without_a_server_an_idempotent_call_waits_and_another_one_is_lost(watched):
    watched.write("pure")
    watched.write("once", idempotent=False)
    watched.liveness.reported(["pure", "once"])
    watched.look(3)
    watched.inspect(messages=2, consumers=0)
    assert watched.lost == ["once"]


def test_a_call_that_must_not_run_twice_and_may_run_still_is_left_alone(watched):
    watched.write("once", idempotent=False)
    watched.liveness.reported(["once"])
    watched.look(3)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == []


def test_a_call_in_a_queue_without_servers_that_was_never_reported_is_left_alone(watched):
    watched.write("once", idempotent=False)
    watched.look(3)
    watched.inspect(messages=1, consumers=0)
    assert watched.lost == []


def test_a_call_that_was_not_written_is_not_watched(watched):
    watched.write("a").written = False
    watched.look(100)
    watched.inspect(messages=0, consumers=1)
    assert watched.asked == watched.lost == []


def test_a_call_that_is_written_again_is_silent_from_then_on(watched):
    call: Any = watched.write("a")
    watched.liveness.reported(["a"])
    watched.look(3)
    watched.liveness.written(call)
    watched.look(2)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == []


Serve = Callable[..., Server]


def take_away(raw: Raw, queue: str) -> None:
    """Be a server that took a call and whose reply was lost on its way."""
    method, _, _ = raw.channel.basic_get(queue, auto_ack=True)
    assert method is not None


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(lambda raw, queue: raw.channel.queue_delete(queue), id="queue deleted"),
        pytest.param(lambda raw, queue: raw.channel.queue_purge(queue), id="queue purged"),
        pytest.param(take_away, id="reply lost"),
    ],
)
def test_an_idempotent_call_that_is_lost_is_sent_again_without_a_lost_connection(
    lose: Callable[[Raw, str], None], client: Client, raw: Raw, serve: Serve, service: Service
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    def occupy() -> None:
        begun.set()
        go_on.wait(30)

    @service.rpc(idempotent=True)
    def look(number: int) -> int:
        return number

    serve(service, threads=1, prefetch=1)
    assert client.call(look, 1, idempotent=True) == 1
    occupied = client.submit(occupy)
    assert begun.wait(20)
    waiting = client.submit(look, 2, timeout=20, idempotent=True)
    until(lambda: raw.count(service.queue) == 1, what="the call in its queue")
    lose(raw, service.queue)
    go_on.set()
    occupied.exception()
    assert waiting.result() == 2
    assert client.counters["retries"] == 1


def test_a_reply_queue_that_is_deleted_is_made_again_and_what_waits_for_a_reply_says_what_is_known(
    node: Node, service: Service
) -> None:
    go_on = threading.Event()
    ran: list[str] = []

    @service.rpc
    def hold(name: str) -> str:
        ran.append(name)
        go_on.wait(60)
        return "done"

    @service.task(queue=f"{service.name}.tasks")
    def work() -> str:
        go_on.wait(60)
        return "done"

    with Server(service, url=node.url, threads=10), Client(node.url, timeout=60) as client:
        asked = [client.submit(f"{service.name}.hold", "x", idempotent=each) for each in (False, True)]
        task = client.enqueue(work)
        until(lambda: len(ran) == 2, what="both calls on the server")
        replies = client._session.reply_queue
        address = replies.address
        assert address is not None
        node.ctl("delete_queue", address)
        with pytest.raises(MaybeExecuted, match="It may have run"):
            asked[0].result(timeout=20)
        until(lambda: replies.address not in (None, address), what="another reply queue")
        go_on.set()
        assert asked[1].result(timeout=20) == "done"
        assert client.call(hold, "y") == "done"
        assert client.enqueue(work).result(timeout=20) == "done"
        # Its result went to the queue that is gone.
        with pytest.raises(CallTimeout, match="has 1 consumer, and 0 messages wait in it") as late:
            task.result(timeout=0.2)
        assert "goes on" not in str(late.value)


def test_a_slow_call_that_a_server_has_is_not_sent_again(client: Client, serve: Serve, service: Service) -> None:
    ran: list[int] = []
    go_on = threading.Event()

    @service.rpc(idempotent=True)
    def slow() -> int:
        ran.append(1)
        go_on.wait(30)
        return len(ran)

    @service.rpc
    def quick() -> int:
        return 1

    serve(service)
    # A call's patience is 1.5 s here: many signs of life, and other calls that pass it, while it runs for longer.
    call = client.submit(slow, timeout=12, idempotent=True)
    threading.Timer(3.5, go_on.set).start()
    while not go_on.wait(0.01):
        assert client.call(quick) == 1
    assert call.result() == 1
    assert client.counters["retries"] == 0


def test_a_call_that_waits_long_in_its_queue_is_not_sent_again(
    client: Client, raw: Raw, serve: Serve, service: Service
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    def occupy() -> None:
        begun.set()
        go_on.wait(30)

    @service.rpc(idempotent=True)
    def look() -> int:
        return 1

    serve(service, threads=1, prefetch=1)
    assert client.call(look) == 1
    occupied = client.submit(occupy)
    assert begun.wait(20)
    waiting = client.submit(look, timeout=12, idempotent=True)
    threading.Timer(3.5, go_on.set).start()
    assert waiting.result() == 1
    assert occupied.result() is None
    assert client.counters["retries"] == 0


def test_the_call_of_a_server_that_dies_ends_at_once_though_no_other_is_there(url: str) -> None:
    arguments = ("tests.served", "--threads", "1")
    with serving(*arguments, url=url) as server, Client(url, timeout=600) as client:
        assert client.call("tserved.pid") > 0
        held = client.submit("tserved.hold", 600.0, timeout=15)
        until(lambda: held.reported, what="a sign of life")
        server.send(signal.SIGKILL)
        with pytest.raises(
            MaybeExecuted, match=r"hold\(\) was sent, and then: the server that had it is gone"
        ) as caught:
            held.result()
        assert caught.value.may_have_run


def test_signs_of_life_go_only_to_callers_that_ask_for_them(raw: Raw, serve: Serve, service: Service) -> None:
    go_on = threading.Event()

    @service.rpc
    def wait() -> str:
        go_on.wait(30)
        return "done"

    serve(service)
    request = {"type": "wait", "content_type": "application/json", "reply_to": raw.reply_queue}
    raw.send(service.queue, b"[[],{}]", correlation_id="silent", **request)
    raw.send(service.queue, b"[[],{}]", correlation_id="told", headers={"alive": True}, **request)

    def signs() -> list[bytes]:
        raw.connection.process_data_events(0.01)
        return [body for properties, body in raw.replies if properties.type == "alive"]

    # It may be any program's queue: such a message would be a dead letter there.
    declared = raw.channel.queue_declare(f"{service.queue}.tasks", durable=True)
    request["reply_to"] = declared.method.queue
    raw.send(service.queue, b"[[],{}]", correlation_id="elsewhere", headers={"alive": True}, **request)
    until(lambda: len(signs()) >= 2, what="two signs")
    go_on.set()
    until(lambda: signs() and len(raw.replies) - len(signs()) == 2, what="two results")
    assert raw.get(declared.method.queue)[0].type == "result"
    assert raw.count(declared.method.queue) == 0
    raw.channel.queue_delete(declared.method.queue)
    assert set(signs()) == {b"\x91\xa4told"}


#: Thousands of UUIDs whose hashes are one.
COLLIDING = msgpack.packb([msgpack.ExtType(5, (k * (2**61 - 1)).to_bytes(16, "big")) for k in range(5000)])
FORGED = {
    "colliding hashes": msgpack.packb(msgpack.ExtType(6, COLLIDING)),
    "a map": msgpack.packb({"a": 1}),
    "no msgpack": b"\xc1",
    "many names": msgpack.packb(["x" * 30] * 5000),
    "megabytes": b"\xdd\x00\x80\x00\x00" + bytes(8 * 2**20),
    "deep": b"\x91" * 5000,
    "nothing": b"",
}


def test_forged_signs_of_life_keep_no_call_from_its_result(
    client: Client, serve: Serve, service: Service, raw: Raw, queue_name: str
) -> None:
    """Each server that a client has called knows its reply queue, and its thread reads them."""

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    serve(service)
    raw.channel.queue_declare(queue_name, auto_delete=True)

    def answer(_channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        for body in FORGED.values():
            raw.send(properties.reply_to, body, type="alive", content_type="application/msgpack")
        raw.send(properties.reply_to, b"1", type="result", correlation_id=properties.correlation_id)

    raw.channel.basic_consume(queue_name, answer, auto_ack=True)
    asked = client.submit("f", queue=queue_name, timeout=20)
    until(lambda: raw.connection.process_data_events(0.01) or asked.done())
    assert asked.result() == "1"
    assert client.call(double, 21) == 42
