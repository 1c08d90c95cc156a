"""Twenty thousand arbitrary messages: the server stays up, in bounded memory, and serves the next call."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pika
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amqp_rpc import Client
from amqp_rpc.message.topology import dead_letter_queue
from tests.programs import serving
from tests.served_by import Raw
from tests.waiting import until

QUEUE = "rpc_queue.tserved"
BATCHES, BATCH = 200, 100
#: Bytes that a server's memory may grow by: what an allocator keeps, and nothing that grows with the messages.
MOST_GROWTH = 60 * 1024 * 1024

texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
fields = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | texts
    | st.binary(max_size=10)
    | st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds have none
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
#: pika reads it as bytes.
NO_TEXT = b"\xff no text"
known = ["deadline", "attempt", "alive", "idempotent", "chunk", "crashes", "x-death", "traceparent"]
names = st.sampled_from(known) | texts
bodies = (
    st.binary(max_size=200)
    | values.map(msgpack.packb)
    | st.tuples(st.lists(values, max_size=3), st.dictionaries(texts, values, max_size=2)).map(msgpack.packb)
    | texts.map(str.encode)
)
# None of them ends a process or takes long: what handlers do is not the question here.
functions = st.sampled_from(["pid", "hold", "hold_async", "nope", "", None]) | texts
messages = st.tuples(
    bodies,
    st.fixed_dictionaries(
        {
            "type": functions,
            "content_type": st.sampled_from(["application/msgpack", "application/json", "text/plain", None]) | texts,
        },
        optional={
            "headers": st.dictionaries(names, fields, max_size=4),
            "content_encoding": st.sampled_from(["utf-8", "gzip"]) | texts,
            "correlation_id": texts | st.just(NO_TEXT),
            "message_id": texts,
            "reply_to": st.sampled_from(["nobody.has.this.queue", "", "amq.rabbitmq.reply-to.x", NO_TEXT]) | texts,
            "timestamp": st.integers(0, 2**63 - 1),
            "delivery_mode": st.sampled_from([1, 2]),
            "priority": st.integers(0, 255),
        },
    ),
)


@pytest.mark.slow(seconds=25)
@pytest.mark.timeout(400)
def test_the_server_survives_whatever_is_sent_to_it(url: str, raw: Raw) -> None:
    sent = 0

    @settings(
        max_examples=BATCHES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(messages, min_size=BATCH // 10, max_size=BATCH // 10))
    def send(batch: list[tuple[bytes, dict[str, Any]]]) -> None:
        nonlocal sent
        # Each drawn message goes ten times: drawing costs far more than sending.
        for body, properties in batch * 10:
            raw.channel.basic_publish("", QUEUE, body, pika.BasicProperties(**properties))
            sent += 1

    with serving("tests.served", "--log-level", "error", "--heartbeat", "60", url=url) as server:
        with Client(url, timeout=30) as client:
            assert client.call("tserved.pid") == server.pid
            before = _memory(server.pid)
            send()
            until(lambda: raw.count(QUEUE) == 0, timeout=200, what="all messages to be taken")
            assert client.call("tserved.pid") == server.pid
            assert _memory(server.pid) - before < MOST_GROWTH
        assert server.end() == 0
    assert sent >= BATCHES * BATCH
    assert raw.count(QUEUE) == 0, "what was left unacknowledged would be back"
    assert raw.count(dead_letter_queue(QUEUE)) > 0
    raw.channel.queue_delete(dead_letter_queue(QUEUE))


def _memory(pid: int) -> int:
    """The bytes that a process has in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
