"""A signature covers what decides, each key verifies, and each signature counts once."""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.exchanges import Exchange
from amqp_rpc.message.headers import ATTEMPT, CRASHES, DEADLINE, IDEMPOTENT, SENDER, SIGNATURE, TOPIC
from amqp_rpc.message.signature import VARIABLE, Gate, Keys, NotProved, Seen, key_of, keys_of

OLD, NEW = ("old", b"o" * 32), ("new", b"n" * 32)


def message(**changes: Any) -> Message:
    properties = Properties(
        content_type="application/json", headers={DEADLINE: 1_800_000_000_000, ATTEMPT: 1, "own": "x"},
        correlation_id="c", reply_to="amq.gen-1", message_id="m", timestamp=1_700_000_000, type="charge",
    )  # fmt: skip
    return Message("rpc_queue", dataclasses.replace(properties, **changes), b"[[1],{}]")


def check(keys: Keys, sent: Message, body: bytes | None = None, key: str = "rpc_queue", exchange: str = "") -> str:
    return keys.check(sent.properties, sent.body if body is None else body, routing_key=key, exchange=exchange)


def test_what_was_signed_is_proved_by_each_key_that_is_known() -> None:
    sent = message()
    Keys([OLD]).sign(sent)
    assert len(check(Keys([NEW, OLD]), sent)) == 32
    assert key_of(sent.properties) == "old"
    with pytest.raises(NotProved, match="a key that is not known here"):
        check(Keys([NEW]), sent)
    with pytest.raises(NotProved, match="its signature is wrong"):
        check(Keys([("old", b"x" * 32)]), sent)


def test_an_answer_is_signed_with_the_key_of_its_request_and_all_else_with_the_first() -> None:
    request, answer, other = message(), message(), message()
    Keys([OLD]).sign(request)
    both = Keys([NEW, OLD])
    both.sign(answer, like=request.properties)
    both.sign(other)
    assert (key_of(answer.properties), key_of(other.properties)) == ("old", "new")


@pytest.mark.parametrize(
    "changed",
    [
        {"type": "refund"}, {"message_id": "n"}, {"correlation_id": "d"}, {"reply_to": "amq.gen-2"}, {"reply_to": None},
        {"content_type": "text/plain"}, {"content_encoding": "gzip"}, {"timestamp": 1}, {"timestamp": None},
        {"app_id": "amqp_rpc"},
    ],
    ids=str,
)  # fmt: skip
def test_a_changed_property_is_noticed(changed: dict[str, Any]) -> None:
    keys, sent = Keys([OLD]), message()
    keys.sign(sent)
    sent.properties = dataclasses.replace(sent.properties, **changed)
    with pytest.raises(NotProved, match="its signature is wrong"):
        check(keys, sent)


@pytest.mark.parametrize(
    "headers",
    [
        {DEADLINE: "1900000000000"}, {DEADLINE: None}, {IDEMPOTENT: True}, {ATTEMPT: 2}, {CRASHES: 1}, {"own": "y"},
        {"own": True}, {"more": None}, {TOPIC: "a"},
    ],
    ids=str,
)  # fmt: skip
def test_a_changed_header_is_noticed(headers: dict[str, Any]) -> None:
    keys, sent = Keys([OLD]), message()
    keys.sign(sent)
    sent.properties.headers = {**(sent.properties.headers or {}), **headers}
    with pytest.raises(NotProved, match="its signature is wrong"):
        check(keys, sent)


@pytest.mark.parametrize("name", [DEADLINE, ATTEMPT, "own"])
def test_a_missing_header_is_noticed(name: str) -> None:
    keys, sent = Keys([OLD]), message()
    keys.sign(sent)
    sent.properties.headers = {each: value for each, value in (sent.properties.headers or {}).items() if each != name}
    with pytest.raises(NotProved, match="its signature is wrong"):
        check(keys, sent)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.integers(0, 2**32).map(lambda second: datetime.fromtimestamp(second, UTC)),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=3), values, max_size=3),
    max_leaves=5,
)
HEADERS = st.dictionaries(st.text(max_size=5).filter(lambda name: not name.startswith("x-")), VALUES, max_size=4)
TEXTS = st.none() | st.text(max_size=4)


@given(headers=HEADERS, kind=TEXTS, reply_to=TEXTS, body=st.binary(max_size=5))
def test_what_pika_reads_on_the_other_side_has_the_same_signature(
    headers: dict[str, Any], kind: str | None, reply_to: str | None, body: bytes
) -> None:
    keys, sent = Keys([OLD]), Message("q", Properties(headers=headers, type=kind, reply_to=reply_to), body)
    keys.sign(sent)
    on_the_wire = b"".join(
        pika.BasicProperties(**{name: getattr(sent.properties, name) for name in Properties.__slots__}).encode()
    )
    received: Any = pika.BasicProperties()
    received.decode(on_the_wire)
    # The broker may write them in another order.
    received.headers = dict(reversed(received.headers.items()))
    keys.check(received, body, routing_key="q")


@given(
    st.tuples(HEADERS, TEXTS, TEXTS, TEXTS, st.binary(max_size=5), st.text(max_size=3), st.text(max_size=3)),
    st.tuples(HEADERS, TEXTS, TEXTS, TEXTS, st.binary(max_size=5), st.text(max_size=3), st.text(max_size=3)),
)
def test_no_two_messages_have_the_same_signature(one: Any, other: Any) -> None:
    keys = Keys([OLD])

    def made(parts: Any) -> tuple[Message, str]:
        headers, kind, reply_to, correlation_id, body, key, exchange = parts
        properties = Properties(headers=dict(headers), type=kind, reply_to=reply_to, correlation_id=correlation_id)
        return Message(key, properties, body, exchange=Exchange(exchange) if exchange else None), exchange

    (signed, _), (forged, exchange) = made(one), made(other)
    keys.sign(signed)
    assert signed.properties.headers is not None
    forged.properties.headers = {**(forged.properties.headers or {}), SIGNATURE: signed.properties.headers[SIGNATURE]}
    # As text: 1, 1.0 and True are equal in Python, and three values on the wire.
    alike = repr([sorted(one[0].items()), *one[1:]]) == repr([sorted(other[0].items()), *other[1:]])
    try:
        check(keys, forged, key=forged.routing_key, exchange=exchange)
    except NotProved:
        assert not alike
    else:
        assert alike


def test_a_header_with_tables_upon_tables_is_refused() -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = {"a": deep}
    signature = f"v1:old:{'0' * 32}:{'0' * 64}"
    with pytest.raises(NotProved, match="too many tables in each other"):
        check(Keys([OLD]), message(headers={"deep": deep, SIGNATURE: signature}))


def test_another_body_queue_or_exchange_is_noticed() -> None:
    keys, sent = Keys([OLD]), message()
    keys.sign(sent)
    for changed in ({"body": b"[[2],{}]"}, {"key": "rpc_queue.pay"}, {"exchange": "logs"}):
        with pytest.raises(NotProved):
            check(keys, sent, **changed)  # type: ignore[arg-type]
    event = Message("orders.paid", Properties(), b"", exchange=Exchange("logs"))
    keys.sign(event)
    check(keys, event, key="orders.paid", exchange="logs")


def test_what_the_broker_and_servers_add_is_not_signed() -> None:
    keys, sent = Keys([OLD]), message()
    keys.sign(sent)
    sent.properties.headers = {**(sent.properties.headers or {}), "x-death": "y", "CC": ["a"], SENDER: "web"}
    sent.properties.expiration, sent.properties.delivery_mode, sent.properties.priority = None, 2, 9
    check(keys, sent)


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "v1",
        "v1:old",
        "v1:old:x:y",
        "v2:old:" + "0" * 32 + ":" + "0" * 64,
        7,
        b"\xff",
        {},
        [None],
        "v1:old:" + "0" * 33 + ":" + "0" * 64,
        "v1:old:" + "0" * 32 + ":" + "0" * 64 + "\n",
        "v1:old:" + "٣" * 32 + ":" + "0" * 64,
    ],
    ids=repr,
)
def test_a_signature_that_is_none_is_refused(signature: object) -> None:
    sent = message(headers={SIGNATURE: signature})
    with pytest.raises(NotProved):
        check(Keys([OLD]), sent)
    key_of(sent.properties)


def test_a_message_without_one_is_refused() -> None:
    with pytest.raises(NotProved, match="it is not signed"):
        check(Keys([OLD]), message(headers=None))


def test_the_signed_bytes_are_those_of_the_wire_format() -> None:
    # A client in another language starts here.
    sent = Message("q", Properties(type="f", headers={ATTEMPT: 1, IDEMPOTENT: True}), b"[]")
    Keys([OLD]).sign(sent)
    version, name, nonce, mac = str((sent.properties.headers or {})[SIGNATURE]).split(":")
    headers = "7:attempt,2:I1,10:idempotent,2:t1,"
    signed = f"2:v1,3:old,32:{nonce},0:,1:q,1:f,-,-,-,-,-,-,-,{len(headers)}:{headers},[]".encode()
    assert (version, name) == ("v1", "old")
    assert hmac.new(b"o" * 32, signed, hashlib.sha256).hexdigest() == mac


class TestSeen:
    A, B, C = "aa" * 16, "bb" * 16, "cc" * 16

    def test_each_signature_counts_once_until_it_may_be_forgotten(self) -> None:
        seen = Seen()
        assert [seen.add(self.A, until=10, now=0), seen.add(self.A, until=10, now=9.9)] == [True, False]
        assert seen.add(self.B, until=20, now=12)
        assert len(seen) == 1

    def test_one_that_never_expires_counts_once_among_the_last_ones(self) -> None:
        seen = Seen(most_without=2)
        assert [seen.add(each, None, now=0) for each in (self.A, self.A, self.B, self.B)] == [True, False, True, False]
        assert seen.add(self.C, None, now=1e9)
        assert seen.add(self.A, None, now=1e9)
        assert len(seen) == 2

    def test_many_with_a_deadline_do_not_push_out_those_without(self) -> None:
        seen = Seen(most=10, most_without=1)
        seen.add(self.A, None, now=0)
        for number in range(100):
            seen.add(f"{number:032x}", until=100 + number, now=0)
        assert len(seen) <= 11
        assert not seen.add(self.A, None, now=0)
        assert not seen.add(f"{99:032x}", until=199, now=0)


class TestGate:
    def admit(self, gate: Gate, sent: Message, *, redelivered: bool = False) -> None:
        gate.admit(sent.properties, sent.body, routing_key="rpc_queue", redelivered=redelivered)

    @pytest.mark.parametrize(
        "deadline", [{}, {DEADLINE: "1"}, {DEADLINE: 4_000_000_000_000}, {DEADLINE: "soon"}], ids=str
    )
    def test_a_message_comes_in_once_unless_the_broker_delivers_it_again(self, deadline: dict[str, Any]) -> None:
        keys, sent = Keys([OLD]), message(headers=deadline)
        keys.sign(sent)
        gate = Gate(keys)
        self.admit(gate, sent)
        self.admit(gate, sent, redelivered=True)
        with pytest.raises(NotProved, match="it came before"):
            self.admit(gate, sent)

    def test_a_forged_copy_does_not_keep_the_message_out(self) -> None:
        keys, sent = Keys([OLD]), message()
        keys.sign(sent)
        gate, forged = Gate(keys), message(type="refund", headers=sent.properties.headers)
        with pytest.raises(NotProved, match="its signature is wrong"):
            self.admit(gate, forged)
        self.admit(gate, sent)


class TestKeys:
    def test_a_file_has_a_line_for_each_key_and_the_first_one_signs(self, tmp_path: Any, monkeypatch: Any) -> None:
        path = tmp_path / "keys"
        path.write_text(f"# since May\nnew {'n' * 32}\n\nold {'o' * 32}\n")
        monkeypatch.setenv(VARIABLE, str(path))
        for keys in (keys_of(None), keys_of(path), keys_of({"new": "n" * 32, "old": b"o" * 32})):
            assert repr(keys) == "<Keys new, old>"
        monkeypatch.delenv(VARIABLE)
        assert keys_of(None) is None

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ({}, "there is no key"),
            ({"a": "short"}, "key 'a' has 5 bytes, and needs 32"),
            ({"a b": "k" * 32}, "a key's id is"),
            ("/nowhere/keys", "can't be read"),
        ],
        ids=str,
    )
    def test_what_is_no_key_is_refused(self, source: Any, said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            keys_of(source)

    def test_a_line_of_a_file_that_is_no_key_is_refused_and_not_shown(self, tmp_path: Any) -> None:
        (tmp_path / "keys").write_text("secretwithoutid\n")
        with pytest.raises(ConfigurationError, match="key number 1 of") as caught:
            keys_of(tmp_path / "keys")
        assert "secretwithoutid" not in str(caught.value)

    def test_a_file_is_read_again_when_it_changes(self, tmp_path: Any, monkeypatch: Any, caplog: Any) -> None:
        caplog.set_level("INFO")
        now = [0.0]
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        path, sent = tmp_path / "keys", message()
        path.write_text(f"old {'o' * 32}\n")
        keys = keys_of(path)
        assert keys is not None
        Keys([NEW]).sign(sent)

        def written(text: str) -> None:
            (tmp_path / "new").write_text(text)
            (tmp_path / "new").replace(path)
            now[0] += 2

        with pytest.raises(NotProved, match="not known here"):
            check(keys, sent)
        written(f"old {'o' * 32}\nnew {'n' * 32}\n")
        check(keys, sent)
        # Half a file changes nothing, nor does none.
        written("new")
        check(keys, sent)
        path.unlink()
        now[0] += 2
        check(keys, sent)
        written(f"new {'n' * 32}\n")
        mine = message()
        keys.sign(mine)
        assert key_of(mine.properties) == "new"
        assert [record.getMessage().split(":")[1] for record in caplog.records if record.levelname == "INFO"] == [
            " read again",
            " read again",
        ]
        assert "those of before are used" in caplog.text
