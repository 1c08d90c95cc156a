"""Replies are read as their senders meant them: ours with a type, and those of other servers without one."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from amqp_rpc import FunctionNotFound, RemoteError, Service, Undecodable
from amqp_rpc.client.reply import Decoder, Reply
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Properties
from amqp_rpc.service.function import registered


def read(body: bytes, *, returns: Any = None, **properties: Any) -> Any:
    """Read a reply to a function with that return type; to one that is only known by its name without one."""
    known = None
    if returns is not None:

        def function() -> Any: ...

        function.__annotations__["return"] = returns
        known = registered(Service().rpc(function))
    return Decoder(known, 10_000).read(Reply(Properties(**properties), body), "function")


def test_a_reply_without_a_type_and_without_a_content_type_is_a_result_in_text() -> None:
    assert read(b"832040") == "832040"


@pytest.mark.parametrize(
    ("text", "hint", "result"),
    [
        ("832040", int, 832040),
        ("0.5", float, 0.5),
        ("True", bool, True),
        ("832040", str, "832040"),
        ("None", str, "None"),
        ("None", int | None, None),
        ("", type(None), None),
        ("2026-01-31", date, date(2026, 1, 31)),
        ("1.10", Decimal, Decimal("1.10")),
    ],
)
def test_text_is_converted_by_the_functions_annotation(text: str, hint: Any, result: Any) -> None:
    for said in ({}, {"type": "result", "content_type": "text/plain"}, {"content_type": "text/plain; charset=utf-8"}):
        assert read(text.encode(), returns=hint, **said) == result


def test_text_that_does_not_fit_the_annotation_says_so() -> None:
    with pytest.raises(Undecodable, match=r"function\(\) returned something else than its annotation: Expected `int`"):
        read(b"many", returns=int)


def test_a_reply_that_lost_its_type_is_no_result_in_text() -> None:
    with pytest.raises(Undecodable, match="its properties can't be read: the properties") as caught:
        read(b"30", returns=int, headers={"unreadable": "the properties"})
    assert caught.value.may_have_run
    lost = {"unreadable": "header 'score'"}
    assert read(b"30", returns=int, headers=lost, type="result", content_type=codec.JSON) == 30


def test_a_reply_without_a_type_in_json_is_a_result() -> None:
    assert read(b'{"n": [1, 2]}', content_type=codec.JSON) == {"n": [1, 2]}


def test_values_that_are_no_text_are_not_converted_leniently() -> None:
    with pytest.raises(Undecodable):
        read(b'"832040"', returns=int, content_type=codec.JSON)


def test_an_error_in_text_is_raised_with_the_type_that_it_names() -> None:
    with pytest.raises(ValueError, match="n must be positive") as raised:
        read(b"ValueError: n must be positive", type="error")
    assert isinstance(raised.value, RemoteError)
    assert (raised.value.type, raised.value.may_have_run) == ("ValueError", True)


def test_our_own_errors_in_text_are_raised_as_such() -> None:
    with pytest.raises(FunctionNotFound) as raised:
        read(b"FunctionNotFound: no function 'fob' here", type="error")
    assert not raised.value.may_have_run
    with pytest.raises(Undecodable) as unread:
        read(b"Undecodable: the body is not text", type="error")
    assert not unread.value.may_have_run


@pytest.mark.parametrize("text", ["it burns", "well, it burns: look", ": x"])
def test_an_error_in_text_that_names_no_type_is_an_error_with_that_message(text: str) -> None:
    with pytest.raises(RemoteError) as raised:
        read(text.encode(), type="error")
    assert raised.value.message == text


def test_a_type_that_is_not_known_is_still_refused() -> None:
    with pytest.raises(Undecodable, match="a reply of type 'pong' is not known"):
        read(b"1", type="pong")
