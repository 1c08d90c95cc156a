"""A call's errors say what happened, whether it may have run, and what to do; room for calls is bounded, and fair."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest

from amqp_rpc import (
    CallTimeout,
    Client,
    ConnectionLost,
    MaybeExecuted,
    NoServer,
    NotSent,
    Overloaded,
    Server,
    Service,
)
from amqp_rpc.amqp.pending import InFlight
from amqp_rpc.amqp.publisher import Publisher
from amqp_rpc.client.call import CallOptions, Capacity, encode_argument, no_consumers, no_queue
from amqp_rpc.client.future import PendingCall
from amqp_rpc.client.reply import Decoder
from amqp_rpc.client.rpc import Requests
from amqp_rpc.client.servers import Servers
from amqp_rpc.message.codec import OCTETS, TEXT
from amqp_rpc.message.settings import broker_addresses
from amqp_rpc.message.timing import Deadline
from tests.amqp.fake import FakeChannel, FakeConnection
from tests.waiting import until

if TYPE_CHECKING:
    from amqp_rpc.amqp.connection import Connection


def call(*, written: bool = False, attempt: int = 1, **options: Any) -> PendingCall:
    made = PendingCall("id", "rpc_queue", "charge", b"", 2.5, Decoder(None, 1000), CallOptions(**options))
    made.written, made.attempt = written, attempt
    return made


TOO_LATE = [
    pytest.param(
        call(written=True), {}, CallTimeout, True,
        "no answer from charge() within 2.5 s; it may have run, or may run still. Is its server overloaded? "
        "timeout= gives it longer",
        id="sent and not answered",
    ),
    pytest.param(
        call(written=True), {"blocked": "low on memory"}, CallTimeout, True,
        "no answer from charge() within 2.5 s; it may have run, or may run still. The broker takes no messages at the "
        "moment (low on memory)",
        id="sent, and then the broker blocked",
    ),
    pytest.param(
        call(attempt=2), {"unconnected": "the connection was lost"}, CallTimeout, True,
        "no answer from charge() within 2.5 s: it was sent and lost, and could not be sent again in time. It may have "
        "run",
        id="sent, lost, and not sent again",
    ),
    pytest.param(
        call(), {"unconnected": "no connection to a broker at x"}, NotSent, False,
        "charge() was not sent within 2.5 s: no connection to a broker at x",
        id="no connection",
    ),
    pytest.param(
        call(), {"blocked": "low on disk"}, NotSent, False,
        "charge() was not sent within 2.5 s: the broker takes no messages (low on disk)",
        id="the broker blocked before",
    ),
    pytest.param(
        call(wait_for_server=True), {}, NoServer, False,
        "charge() was not sent: no server within 2.5 s",
        id="waited for a server",
    ),
    pytest.param(
        call(), {}, NotSent, False,
        "charge() was not sent within 2.5 s: the broker did not report in time whether it has a server",
        id="the broker did not answer",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("late", "known", "kind", "may_have_run", "said"), TOO_LATE)
def test_a_call_that_is_too_late_says_why(late, known, kind, may_have_run, said):
    error = late.too_late(**{"blocked": None, "unconnected": None, **known})
    assert (type(error), error.may_have_run, str(error)) == (kind, may_have_run, said)


def test_a_lost_call_says_that_it_may_have_run_and_what_would_have_helped():
    assert str(call().lost("the connection was lost")) == (
        "charge() was sent, and then: the connection was lost. It may have run; if it may run twice, use "
        "idempotent=True"
    )
    assert str(call(idempotent=True).lost("the connection was lost")).endswith("It may have run")


def test_a_call_without_a_server_says_how_to_start_one_and_how_to_wait():
    unserved = no_consumers("rpc_queue.billing")
    unknown = no_queue("rpc_queue.billing", broker_addresses("amqp://user:secret@host/vhost"))
    assert unserved.startswith("queue 'rpc_queue.billing' has no consumers: is its server running?")
    assert unknown.startswith("there is no queue 'rpc_queue.billing' on amqp://user:***@host:5672/vhost: no server")
    for said in (unserved, unknown):
        assert said.endswith("`amqp-rpc serve` starts one, and wait_for_server=True waits for it")
        assert "secret" not in said


def test_a_call_for_which_there_is_no_room_names_the_bounds():
    assert str(call().overloaded(10_000)) == (
        "charge() was not sent: 10000 calls are in flight, and none ended within 2.5 s (max_pending, max_pending_bytes)"
    )


def test_no_more_calls_than_there_is_room_for_get_room():
    capacity = Capacity(calls=2, size=1000)
    assert [capacity.take(1), capacity.take(1)] == [None, None]
    assert capacity.take(1) is not None


def test_no_more_bytes_than_there_is_room_for_get_room():
    capacity = Capacity(calls=100, size=10)
    assert capacity.take(6) is None
    waiting = capacity.take(5)
    assert waiting is not None
    assert capacity.leave(waiting)
    assert capacity.take(4) is None


def test_a_single_call_gets_room_however_large_it_is():
    capacity = Capacity(calls=2, size=10)
    assert capacity.take(1000) is None
    assert not capacity.fits(1)
    capacity.give(1000)
    assert capacity.fits(1)


def test_room_that_is_given_back_goes_to_those_that_wait_in_their_order():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1) is None
    waiting = [capacity.take(1) for _ in range(3)]
    assert all(room is not None and not room.done() for room in waiting)
    capacity.give(1)
    assert [room.done() for room in waiting] == [True, False, False]
    capacity.give(1)
    assert [room.done() for room in waiting] == [True, True, False]


def test_room_is_not_taken_ahead_of_those_that_wait():
    capacity = Capacity(calls=100, size=10)
    assert capacity.take(9) is None
    large = capacity.take(5)
    assert large is not None
    assert not capacity.fits(1)
    small = capacity.take(1)
    assert small is not None
    # Only the large one kept it from its room.
    assert capacity.leave(large)
    assert small.done()


def test_a_place_that_has_got_room_can_not_be_left():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1) is None
    waiting = capacity.take(1)
    assert waiting is not None
    capacity.give(1)
    assert not capacity.leave(waiting)


def test_a_thread_that_waits_goes_on_when_room_is_given_back():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1) is None
    room = capacity.take(1)
    assert room is not None
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(room.wait(Deadline.after(20).at)))
    waiting.start()
    capacity.give(1)
    waiting.join(20)
    assert got == [True]


def test_closing_gives_room_to_all():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1) is None
    waiting = [capacity.take(1) for _ in range(5)]
    capacity.close()
    until(lambda: all(room is not None and room.done() for room in waiting))
    assert capacity.take(1) is None


Serve = Callable[..., Server]


@pytest.fixture
def gate(service: Service) -> threading.Event:
    """The event that the function `hold` waits for."""
    go_on = threading.Event()

    @service.rpc
    def hold() -> str:
        assert go_on.wait(30)
        return "done"

    return go_on


def test_over_the_bound_a_call_waits_until_its_deadline_and_did_not_run(
    url: str, serve: Serve, service: Service, gate: threading.Event
) -> None:
    serve(service)
    hold = service.functions["hold"].call
    with Client(url, timeout=20, max_pending=3) as client:
        held = [client.submit(hold) for _ in range(3)]
        with pytest.raises(Overloaded, match="3 calls are in flight") as caught:
            client.call(hold, timeout=0.2)
        assert not caught.value.may_have_run
        gate.set()
        assert [future.result() for future in held] == ["done"] * 3
        assert client.call(hold) == "done"


def test_bodies_are_bounded_together(url: str, serve: Serve, service: Service, gate: threading.Event) -> None:
    @service.rpc
    def take(data: bytes) -> int:
        gate.wait(30)
        return len(data)

    serve(service)
    with Client(url, timeout=20, max_pending_bytes=1000) as client:
        first = client.submit(take, b"x" * 900)
        with pytest.raises(Overloaded, match="max_pending_bytes"):
            client.call(take, b"x" * 900, timeout=0.2)
        gate.set()
        assert first.result() == 900
        assert client.call(take, b"x" * 5000) == 5000


def test_closing_ends_those_who_wait_for_room(url: str, serve: Serve, service: Service, gate: threading.Event) -> None:
    serve(service)
    hold = service.functions["hold"].call
    client = Client(url, timeout=20, max_pending=1)
    client.submit(hold)
    ended: list[BaseException] = []

    def call() -> None:
        try:
            client.call(hold)
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    client.close()
    until(lambda: len(ended) == 5)
    gate.set()


def requests(counters: Counter[str], connection: FakeConnection | None = None) -> Requests:
    addresses = broker_addresses("amqp://localhost")
    made = Requests(InFlight(), counters, addresses, Publisher(addresses))
    if connection is not None:
        made.begin(cast("Connection", connection))
    return made


@pytest.mark.parametrize(
    ("late", "counted"),
    [(call(written=True), 1), (call(attempt=2), 1), (call(), 0)],
    ids=["sent", "lost, and not sent again yet", "never sent"],
)
def test_what_ends_with_a_timeout_counts_as_one(late: PendingCall, counted: int) -> None:
    counters: Counter[str] = Counter()
    assert isinstance(requests(counters).too_late(late), CallTimeout) is bool(counted)
    assert counters["timeouts"] == counted


def test_a_look_at_a_queue_that_fails_does_not_keep_others_from_being_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = FakeConnection()
    servers = Servers(
        cast("Connection", connection), broker_addresses("amqp://x"), {}, send=print, end=print, inspected=print
    )
    inspected: list[str] = []

    def inspect(_channel: FakeChannel, name: str) -> Any:
        inspected.append(name)
        raise RuntimeError("a defect")

    monkeypatch.setattr(FakeChannel, "inspect", inspect)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a defect"):
            servers.inspect("one")
    assert inspected == ["one", "one"]


def test_a_call_that_was_never_written_did_not_run_when_its_connection_is_gone() -> None:
    known = requests(Counter())
    lost = ConnectionLost("the client was closed")
    calls = [call(), call(written=True), call(attempt=2)]
    errors: list[Any] = []
    for each in calls:
        known._pending.add(each.identity, each)
        known.end_gone(each, lost)
        errors.append(each.exception())
    assert [(type(error), error.may_have_run) for error in errors] == [
        (NotSent, False), (MaybeExecuted, True), (MaybeExecuted, True)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("30", b"30"),
        ("", b""),
        ("é", "é".encode()),
        (30, b"30"),
        (0.5, b"0.5"),
        (Decimal("1.10"), b"1.10"),
        (b"\x89PNG", b"\x89PNG"),
        (memoryview(b"\x89PNG"), b"\x89PNG"),
    ],
)
@pytest.mark.parametrize("content_type", [TEXT, OCTETS])
def test_a_call_in_text_or_bytes_is_its_one_argument(value, body, content_type):
    assert encode_argument("f", [value], {}, content_type, limit=100) == body
