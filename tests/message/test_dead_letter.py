"""Dead letters as values: reading any content, the filter, and the replayed message."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc import ConfigurationError, NamesAnotherQueue
from amqp_rpc.message import codec
from amqp_rpc.message.dead_letter import (
    LONGEST_REASON,
    LONGEST_REMEMBERED,
    MOST_DEATHS,
    Choice,
    Death,
    dead_letter,
    died,
    read,
    renewed,
    replayed,
)
from amqp_rpc.message.envelope import Properties
from amqp_rpc.message.topology import MOST_DELIVERIES, dead_letter_arguments, task_arguments

DIED = datetime(2026, 1, 31, 12, tzinfo=UTC)


def letter(**headers: Any) -> Properties:
    known = {"reason": "R", "queue": "q", "died": int(DIED.timestamp() * 1000), "attempt": 3}
    return Properties(type="f", message_id="1", content_type="application/msgpack", headers={**known, **headers})


def arguments(*args: Any, **kwargs: Any) -> bytes:
    return codec.encode([args, kwargs], codec.MSGPACK, limit=2**24)


class TestReading:
    def test_it_says_what_the_headers_say(self) -> None:
        found = read(letter(crashes=2, traceback="T"), arguments(1, "x", y=None), queue="other")
        assert (found.id, found.function, found.queue, found.reason, found.attempt) == ("1", "f", "q", "R", 3)
        assert (found.crashes, found.died, found.traceback, found.history) == (2, DIED, "T", [])
        assert found.arguments == "1, 'x', y=None"

    def test_long_arguments_are_shortened_in_a_list_and_not_when_one_is_looked_at(self) -> None:
        body = arguments("x" * 1000)
        assert len(read(letter(), body, queue="q").arguments) == 40
        assert read(letter(), body, queue="q", whole=True).arguments == repr("x" * 1000)

    def test_a_body_too_large_to_be_shown_is_its_first_bytes(self) -> None:
        assert read(letter(), arguments("x" * 2**21), queue="q").arguments.startswith("b'")

    @pytest.mark.parametrize(
        "value",
        [10**5000, [10**5000], {10**5000: 10**5000}, datetime.max.replace(tzinfo=UTC), {frozenset([1]): {}}],
        ids=["large", "in a list", "a key", "the last day", "a set"],
    )
    def test_any_argument_is_shown(self, value: Any) -> None:
        assert read(letter(), arguments(value, note="seen"), queue="q").arguments.endswith(", note='seen'")

    def test_a_reason_is_written_on_one_line_and_a_history_of_anything_is_read(self) -> None:
        dead = dead_letter(Properties(), b"", queue="q", reason="a\nb\x1b[2J", now=2.0)
        assert (dead.properties.headers or {})["reason"] == "a\\nb\\x1b[2J"
        deep = '{"reason": ' + "[" * 500 + "]" * 500 + "}"
        assert len(read(letter(history=f"[{deep}]"), b"", queue="q").history) in (0, 1)

    def test_a_chunk_of_calls_is_so_many(self) -> None:
        body = codec.encode([[[1], {}], [[2], {}]], codec.MSGPACK, limit=1000)
        assert read(letter(chunk=True), body, queue="q").arguments.startswith("2 calls: ")

    def test_what_the_broker_put_there_has_the_broker_s_reason(self) -> None:
        properties = Properties(headers={"x-first-death-reason": "expired"})
        assert read(properties, b"", queue="q").reason == "expired"

    VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just([{}])
    NAMES = st.sampled_from(["reason", "queue", "died", "attempt", "crashes", "traceback", "history", "deadline"])

    @given(st.dictionaries(NAMES, VALUES), st.binary() | st.just(b"[[1], {}]"), VALUES)
    @settings(max_examples=300, deadline=None)
    def test_whatever_stands_in_a_message_it_is_read_and_goes_back(
        self, headers: dict[str, Any], body: bytes, timestamp: Any
    ) -> None:
        properties = Properties(headers=headers, content_type="application/json", timestamp=timestamp)
        assert read(properties, body, queue="q").size == len(body)
        again = replayed(properties, body, queue="q", now=1.0, to="q")
        assert (again.body, again.properties.headers is not None, again.routing_key != "") == (body, True, True)
        assert len(read(again.properties, body, queue="q").history) >= 1


class TestChoosing:
    @pytest.mark.parametrize(
        ("filters", "taken"),
        [
            ({}, True),
            ({"ids": "1"}, True),
            ({"ids": ["2", "3"]}, False),
            ({"function": "f"}, True),
            ({"function": "g"}, False),
            ({"before": DIED}, False),
            ({"before": DIED + timedelta(seconds=1)}, True),
            ({"after": DIED}, True),
            ({"after": DIED + timedelta(seconds=1)}, False),
            ({"ids": "1", "function": "g"}, False),
        ],
    )
    def test_what_fits_all_that_is_given_is_meant(self, filters: dict[str, Any], taken: bool) -> None:
        assert Choice(**filters).takes(letter()) is taken

    def test_what_does_not_say_when_it_died_is_not_meant_by_a_time(self) -> None:
        assert not Choice(before=datetime.now(UTC)).takes(Properties())
        assert Choice().takes(Properties())

    def test_a_time_has_a_zone(self) -> None:
        with pytest.raises(ConfigurationError, match="after has no time zone"):
            Choice(after=datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused


class TestGoingBack:
    def test_it_is_the_same_message_at_its_first_try(self) -> None:
        properties = letter(crashes=4, traceback="T", error="E", mine=5, **{"x-death": [{}]})
        properties.reply_to, properties.expiration = "gone", "5"
        again = replayed(properties, b"body", queue="q", now=0.0)
        history = again.properties.headers.pop("history")  # type: ignore[union-attr]
        assert (again.routing_key, again.body, again.delay) == ("q", b"body", 0)
        assert again.properties == Properties(
            type="f",
            message_id="1",
            content_type="application/msgpack",
            delivery_mode=2,
            headers={"attempt": 1, "mine": 5},
        )
        assert json.loads(history) == [{"died": int(DIED.timestamp() * 1000), "reason": "R", "attempt": 3}]

    def test_one_that_names_another_queue_goes_there_only_if_that_is_said(self) -> None:
        with pytest.raises(NamesAnotherQueue, match=r"dead letter \[1\] names another queue, 'q'") as caught:
            replayed(letter(), b"", queue="mine", now=0.0)
        assert caught.value.queues == {"q": ["1"]}
        for to in ("q", "mine", "third"):
            assert replayed(letter(), b"", queue="mine", now=0.0, to=to).routing_key == to

    @pytest.mark.parametrize(("now", "kept"), [(4.9, {"deadline": 5000}), (5.0, {}), (6.0, {})])
    def test_a_time_that_is_over_is_taken_away(self, now: float, kept: dict[str, int]) -> None:
        headers = replayed(letter(deadline=5000), b"", queue="q", now=now).properties.headers or {}
        assert {name: value for name, value in headers.items() if name == "deadline"} == kept

    def test_it_remembers_its_last_deaths_and_their_reasons_shortened(self) -> None:
        properties = letter(reason="x" * 1000)
        for number in range(MOST_DEATHS + 3):
            headers = replayed(properties, b"", queue="q", now=0.0).properties.headers or {}
            properties = letter(reason=str(number), history=headers["history"])
        history = read(properties, b"", queue="q").history
        assert history[-1] == Death(DIED, str(MOST_DEATHS + 1), 3)
        assert len(history) == MOST_DEATHS
        headers = replayed(letter(reason="x" * 1000), b"", queue="q", now=0.0).properties.headers or {}
        assert json.loads(headers["history"])[0]["reason"] == "x" * LONGEST_REMEMBERED

    def test_what_has_no_id_gets_one(self) -> None:
        first, second = (replayed(Properties(), b"", queue="q", now=0.0).properties.message_id for _ in range(2))
        assert first is not None
        assert first != second

    def test_a_copy_for_the_same_queue_is_still_dead(self) -> None:
        again = renewed(letter(traceback="T", **{"x-delivery-count": 7}), b"body", queue="q.dead")
        assert (again.routing_key, again.body, died(again.properties)) == ("q.dead", b"body", DIED)
        assert read(again.properties, b"body", queue="q") == read(letter(traceback="T"), b"body", queue="q")


def test_dead_letters_are_kept_as_their_queue_is_and_may_be_looked_at_without_end() -> None:
    bounded = task_arguments("quorum", max_length=5)
    assert dead_letter_arguments(bounded) == {"x-queue-type": "quorum", "x-delivery-limit": MOST_DELIVERIES}
    assert dead_letter_arguments(task_arguments("classic", max_priority=9)) == {"x-queue-type": "classic"}


class TestDying:
    def test_a_letter_is_the_message_with_its_reason(self) -> None:
        theirs = Properties(
            type="f", message_id="1", reply_to="r", expiration="5", app_id="x", headers={"x-death": [], "mine": 1}
        )
        dead = dead_letter(theirs, b"body", queue="q", reason="R" * 2000, now=2.0, details={"attempt": 3})
        assert (dead.routing_key, dead.body) == ("q.dead", b"body")
        headers = {
            "mine": 1,
            "reason": "R" * LONGEST_REASON + "… (2000 characters)",
            "queue": "q",
            "died": 2000,
            "attempt": 3,
        }
        assert dead.properties == Properties(type="f", message_id="1", delivery_mode=2, headers=headers)

    def test_it_may_have_an_id_of_its_own(self) -> None:
        dead = dead_letter(Properties(message_id="1"), b"", queue="q", reason="R", now=2.0, identity="2")
        assert dead.properties.message_id == "2"
