"""Properties of requests, as they are written for servers in any language and read from clients in any language."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pika
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc.errors import Undecodable
from amqp_rpc.message.envelope import (
    Message,
    Properties,
    Request,
    bare,
    lighter,
    read_time_to_live,
    republished,
    request_properties,
    time_to_live,
)
from amqp_rpc.message.headers import RESERVED
from tests.message.test_headers import ANYTHING


def read(**properties) -> Request:
    return Request.read(Properties(**properties), b"", redelivered=False)


def write(**options):
    return request_properties(
        **{
            "function": "fib",
            "content_type": "application/msgpack",
            "identity": "id-1",
            "reply_to": "amq.gen-1",
            "remaining": 2.5,
            **options,
        }
    )


class TestWriting:
    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch):
        monkeypatch.setattr(time, "time", lambda: 1_700_000_000.25)

    def test_a_request_has_the_properties_of_the_wire_format(self):
        assert write() == Properties(
            content_type="application/msgpack",
            headers={"deadline": "1700000002750", "attempt": 1, "alive": True},
            correlation_id="id-1",
            reply_to="amq.gen-1",
            expiration="2500",
            message_id="id-1",
            timestamp=1_700_000_000,
            type="fib",
        )

    def test_an_idempotent_one_says_so(self):
        assert write(idempotent=True).headers["idempotent"] is True

    def test_a_chunk_says_so(self):
        assert write(chunk=True).headers["chunk"] is True

    def test_a_repeated_one_counts(self):
        assert write(attempt=3).headers["attempt"] == 3

    @pytest.mark.parametrize("remaining", [0.0, 0.0001, -5.0])
    def test_one_with_no_time_left_expires_after_a_millisecond_and_not_never(self, remaining):
        assert write(remaining=remaining).expiration == "1"


class TestReading:
    def test_a_request_is_read_as_it_was_written(self):
        request = Request.read(write(idempotent=True, chunk=True), b"body", redelivered=True)
        assert (request.function, request.content_type, request.reply_to, request.correlation_id, request.body) == (
            "fib",
            "application/msgpack",
            "amq.gen-1",
            "id-1",
            b"body",
        )
        assert request.idempotent
        assert request.chunked
        assert request.redelivered

    def test_one_without_any_property_may_be_text_for_the_default_function(self):
        request = read()
        assert (
            request.function,
            request.content_type,
            request.reply_to,
            request.correlation_id,
            request.deadline,
        ) == (None, "application/octet-stream", None, None, None)
        assert not request.idempotent
        assert not request.chunked

    def test_an_empty_reply_to_is_none(self):
        assert read(reply_to="").reply_to is None

    @pytest.mark.parametrize("value", ["yes", 1, "false", b"1", [True]])
    def test_only_true_makes_it_idempotent_or_a_chunk(self, value):
        request = read(headers={"idempotent": value, "chunk": value})
        assert not request.idempotent
        assert not request.chunked

    @pytest.mark.parametrize("value", ["soon", "1.5", "-1", "", "²", "9" * 20, None, True, b"1", [1], {}])
    def test_a_deadline_of_another_type_is_none(self, value):
        assert read(headers={"deadline": value}).deadline is None

    @pytest.mark.parametrize("value", ["1700000000500", 1_700_000_000_500, 1_700_000_000_500.0])
    def test_a_deadline_may_be_text_or_a_number(self, value):
        assert read(headers={"deadline": value}).deadline == 1_700_000_000.5

    def test_a_deadline_is_over_once_the_clocks_cannot_explain_it(self):
        request = read(headers={"deadline": 5_000})
        assert not request.expired(6.0)
        assert request.expired(6.01)
        assert not request.expired(35.0, clock_skew=30.0)
        assert request.expired(35.01, clock_skew=30.0)
        assert request.expired(5.01, clock_skew=0)

    def test_one_without_a_deadline_is_never_over(self):
        assert not read().expired(1e18)

    def test_a_function_name_of_bytes_that_are_no_text_is_shown_escaped(self):
        assert read(type=b"f\xffb").function == "f\\xffb"

    odd = st.none() | st.integers(-(2**63), 2**64) | st.floats() | st.binary() | st.text() | st.lists(st.booleans())

    ours = st.sampled_from(["deadline", "idempotent", "chunk", "attempt", "crashes", "tick", "unreadable"])

    @settings(max_examples=60, deadline=None)
    @given(st.dictionaries(ours, odd), odd, odd)
    def test_nothing_that_amqp_can_carry_makes_reading_fail(self, headers, name, content_type):
        request = read(headers=headers, type=name, content_type=content_type)
        assert isinstance(request.expired(0.0), bool)
        assert isinstance(request.may_have_run, bool)
        assert request.tick is None or request.tick > 0
        assert {type(request.idempotent), type(request.chunked)} == {bool}
        assert (headers.get("unreadable") is None) == (request.unreadable is None)

    def test_a_request_of_which_something_could_not_be_read_is_refused(self):
        read(headers={"unreadable": None}).check()
        with pytest.raises(Undecodable, match="header 'x'"):
            read(headers={"unreadable": "header 'x'"}).check()

    @pytest.mark.parametrize(("value", "crashes"), [(None, 0), (2, 2), (-1, 0), ("2", 0), (True, 0)])
    def test_crashes_are_a_count(self, value, crashes):
        assert read(headers={"crashes": value}).crashes == crashes

    @pytest.mark.parametrize(("value", "tick"), [(None, None), (5, 5), ("5", 5), (0, None), ("x", None), (1.5, 1)])
    def test_a_tick_is_text_or_a_number(self, value, tick):
        assert read(headers={"tick": value}).tick == tick


def test_a_message_becomes_lighter_by_texts_that_people_read_and_keeps_its_publishers_headers():
    deaths = [{"died": n, "reason": "x" * 300, "attempt": 6} for n in range(10)]
    headers = {
        "attempt": 2, "deadline": 1.5, "reason": "r" * 1000, "traceback": "t" * 20_000 + "the cause",
        "error": "e" * 1000, "history": json.dumps(deaths), "theirs": "y" * 5000, "tick": None,
    }  # fmt: skip
    message = Message("q", Properties(headers=headers, message_id="1"), b"body", delay=3)
    copies = [each.properties.headers for each in lighter(message)]
    sizes = [len(json.dumps(each)) for each in copies]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    for each in copies:
        assert (each["theirs"], each["attempt"], each["deadline"]) == ("y" * 5000, 2, 1.5)
        assert each.get("traceback", "the cause").endswith("the cause")
        assert json.loads(each.get("history", "[]")) == deaths[10 - len(json.loads(each.get("history", "[]"))) :]
    assert (len(copies[0]["traceback"]), len(copies[0]["error"])) == (16_000, 1000)
    assert [len(json.loads(each.get("history", "[]"))) for each in copies] == [10, 10, 10, 5, 2, 1, 0, 0, 0, 0]
    assert copies[-1] == {"attempt": 2, "deadline": 1.5, "reason": "r" * 30, "theirs": "y" * 5000}
    for copy in (*lighter(message), bare(message)):
        assert (copy.routing_key, copy.body, copy.delay, copy.properties.message_id) == ("q", b"body", 3, "1")
    assert message.properties.headers == headers


def test_a_bare_message_has_what_decides_something_and_says_that_the_rest_is_missing():
    headers = {"attempt": 2, "reason": "x" * 1000, "traceback": "…", "theirs": "y", "queue": "q", "tick": None}
    assert bare(Message("q", Properties(headers=headers), b"")).properties.headers == {
        "attempt": 2, "reason": "x" * 300, "queue": "q", "headers_dropped": True,
    }  # fmt: skip


@given(st.dictionaries(st.sampled_from(sorted(RESERVED)), ANYTHING))
@settings(max_examples=200, deadline=None)
def test_headers_of_any_program_become_lighter_without_an_error(headers):
    message = Message("q", Properties(headers={**headers, "theirs": 1}), b"")
    assert all((each.properties.headers or {})["theirs"] == 1 for each in lighter(message))
    bare(message)


def test_a_republished_message_keeps_what_the_broker_only_carries():
    theirs = Properties(
        content_type="text/plain", content_encoding="utf-8", type="f", reply_to="r", correlation_id="c", message_id="1",
        priority=3, timestamp=5, app_id="theirs",
        headers={"attempt": 1, "crashes": 2, "mine": 1},
    )  # fmt: skip
    again = republished(theirs, {"attempt": 2}, without={"crashes"})
    assert again == replace(theirs, delivery_mode=2, headers={"attempt": 2, "mine": 1})
    assert republished(theirs, reply_to=None).reply_to is None
    assert republished(Properties()) == Properties(headers={}, delivery_mode=2)


@pytest.mark.parametrize(
    ("theirs", "copied"),
    [
        ({"headers": {"CC": ["payments"], "BCC": ["payments"], "x-death": [], "x-delay": 5}}, {"headers": {}}),
        ({"delivery_mode": 1}, {"delivery_mode": 2}),
        ({"delivery_mode": 255}, {"delivery_mode": 2}),
        ({"expiration": "60000"}, {"expiration": None}),
        ({"priority": 255}, {"priority": 9}),
        ({"priority": 0}, {"priority": 0}),
        ({"reply_to": "amq.rabbitmq.reply-to"}, {"reply_to": None}),
        ({"reply_to": "amq.rabbitmq.reply-to.abc"}, {"reply_to": "amq.rabbitmq.reply-to.abc"}),
    ],
)
def test_what_the_broker_acts_on_is_not_copied(theirs, copied):
    assert republished(Properties(**theirs)) == Properties(**{"headers": {}, "delivery_mode": 2, **copied})


def test_of_pika_s_properties_neither_the_user_nor_the_cluster_is_copied():
    theirs = pika.BasicProperties(user_id="somebody", cluster_id="elsewhere", type="f", headers={"CC": ["q"]})
    assert republished(theirs) == Properties(type="f", headers={}, delivery_mode=2)


@pytest.mark.parametrize(
    ("expiration", "read"),
    [
        ("7", "7"),
        ("0", "1"),
        (str(2**62), str(2**32 - 1)),
        ("9" * 255, str(2**32 - 1)),
        (None, None),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        (b"5", None),
    ],
)
def test_a_time_to_live_is_one_that_the_broker_takes_or_none(expiration, read):
    assert read_time_to_live(Properties(expiration=expiration)) == read


@pytest.mark.parametrize(("milliseconds", "written"), [(1500.7, "1500"), (-3, "1"), (2.0**62, str(2**32 - 1))])
def test_a_time_to_live_is_written_within_the_broker_s_bounds(milliseconds, written):
    assert time_to_live(milliseconds) == written
