"""What callers are told: each sentence says what happened, whether the function may have run, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from amqp_rpc import CallTimeout, NoServer, NotSent
from amqp_rpc.client import verdicts
from amqp_rpc.client.future import PendingCall
from amqp_rpc.client.reply import Decoder
from amqp_rpc.message.settings import broker_addresses


def call(*, written: bool = False, attempt: int = 1, **options: Any) -> PendingCall:
    made = PendingCall(
        "id", "rpc_queue", "charge", b"", timeout=2.5,
        chunk=False, awaited=False, decoder=Decoder(None, 1000),
        **{"idempotent": False, "wait_for_server": False, **options},
    )  # fmt: skip
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
        "charge() was not sent within 2.5 s: the broker did not say in time whether it has a server",
        id="the broker did not answer",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("late", "known", "kind", "may_have_run", "said"), TOO_LATE)
def test_a_call_that_is_too_late_says_why(late, known, kind, may_have_run, said):
    error = verdicts.too_late(late, **{"blocked": None, "unconnected": None, **known})
    assert (type(error), error.may_have_run, str(error)) == (kind, may_have_run, said)


def test_a_lost_call_says_that_it_may_have_run_and_what_would_have_helped():
    assert verdicts.lost(call(), "the connection was lost") == (
        "charge() was sent, and then: the connection was lost. It may have run; if it may run twice, use "
        "idempotent=True"
    )
    assert verdicts.lost(call(idempotent=True), "the connection was lost").endswith("It may have run")


def test_a_call_without_a_server_says_how_to_start_one_and_how_to_wait():
    nobody = verdicts.nobody_consumes("rpc_queue.billing")
    no_queue = verdicts.no_queue("rpc_queue.billing", broker_addresses("amqp://user:secret@host/vhost"))
    assert nobody.startswith("nobody consumes queue 'rpc_queue.billing': is its server running?")
    assert no_queue.startswith("there is no queue 'rpc_queue.billing' on amqp://user:***@host:5672/vhost: no server")
    for said in (nobody, no_queue):
        assert said.endswith("`amqp-rpc serve` starts one, and wait_for_server=True waits for it")
        assert "secret" not in said


def test_a_call_for_which_there_is_no_room_names_the_bounds():
    assert verdicts.too_many(call(), 10_000) == (
        "charge() was not sent: 10000 calls are under way, and none ended within 2.5 s (max_pending, max_pending_bytes)"
    )
