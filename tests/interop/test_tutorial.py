"""Programs written as RabbitMQ's tutorials teach get their answers from our server, unmodified."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pika
import pytest

from tests.interop.programs import PATIENCE, run

CLIENT = Path(__file__).with_name("rpc_client.py")

FIB_300 = 222232244629420445529739893461909967206666939096499764990979600


def ask(url: str, body: bytes, **properties: str) -> tuple[pika.BasicProperties, bytes]:
    """Publish one request to rpc_queue with plain pika and return the reply's properties and body."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        answers = channel.queue_declare(queue="", exclusive=True).method.queue
        got: list[tuple[pika.BasicProperties, bytes]] = []
        channel.basic_consume(answers, lambda _c, _m, p, b: got.append((p, b)), auto_ack=True)
        channel.basic_publish(
            "", "rpc_queue", body, pika.BasicProperties(reply_to=answers, correlation_id="the one", **properties)
        )
        until = time.monotonic() + PATIENCE
        while not got:
            assert time.monotonic() < until, "no reply came"
            connection.process_data_events(time_limit=1)
        return got[0]


def test_the_tutorials_client_gets_its_number(served):
    printed = run(sys.executable, CLIENT, "30", url=served)

    assert printed == " [x] Requesting fib(30)\n [.] Got 832040\n"


def test_the_tutorials_client_gets_a_number_beyond_64_bits_exactly(served):
    assert f" [.] Got {FIB_300}\n" in run(sys.executable, CLIENT, "300", url=served)


def test_the_reply_to_text_is_text_with_the_same_correlation_id(served):
    properties, body = ask(served, b"30")

    assert body == b"832040"
    assert (
        properties.content_type, properties.type, properties.correlation_id
    ) == ("text/plain", "result", "the one")  # fmt: skip


def test_a_body_that_is_no_number_is_answered_with_a_text_that_says_so(served):
    printed = run(sys.executable, CLIENT, "x", url=served)

    assert " [.] Got InvalidArguments: fib(): parameter 'n': expected int, got str; it was 'x'\n" in printed


def test_the_reply_to_a_bad_body_is_marked_as_an_error(served):
    properties, _ = ask(served, b"x")

    assert properties.type == "error"


def test_what_the_function_raises_is_answered_with_its_name_and_message(served):
    properties, body = ask(served, b"-1")

    assert properties.type == "error"
    assert body == b"ValueError: n must be from 0 to 10000, not -1"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"1.5", b"9" * 10_000], ids=["empty", "no UTF-8", "float", "huge"])
def test_no_body_stops_the_server(served, body):
    assert ask(served, body)[0].type == "error"

    assert ask(served, b"30")[1] == b"832040"


def test_a_text_request_may_name_another_function_in_its_type(served):
    assert ask(served, b"20", type="naive_fib")[1] == b"6765"


def test_a_text_request_for_a_function_that_is_not_there_is_told_which_are(served):
    properties, body = ask(served, b"20", type="fob")

    assert properties.type == "error"
    assert body == b"FunctionNotFound: no function 'fob' here; there are: fib, naive_fib"


@pytest.mark.parametrize("call", ["[[30], {}]", '[[], {"n": 30}]'], ids=["by position", "by name"])
def test_json_arguments_travel_by_position_or_by_name(served, call):
    properties, body = ask(served, call.encode(), content_type="application/json", type="fib")

    assert (properties.content_type, properties.type, body) == ("application/json", "result", b"832040")


def test_json_without_a_type_reaches_the_default_function(served):
    assert ask(served, b"[[30], {}]", content_type="application/json")[1] == b"832040"


def test_an_error_in_json_is_a_map_of_its_type_message_and_data(served):
    _, body = ask(served, b"[[-1], {}]", content_type="application/json", type="fib")

    error = json.loads(body)
    assert (error["type"], error["message"]) == ("ValueError", "n must be from 0 to 10000, not -1")
    assert error["data"] == {"args": ["n must be from 0 to 10000, not -1"]}


def test_json_whose_charset_is_said_is_json(served):
    assert ask(served, b"[[30], {}]", content_type="application/json; charset=utf-8", type="fib")[1] == b"832040"
