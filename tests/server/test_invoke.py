"""What a server logs of the handlers that it runs: the same for calls, tasks and events."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from amqp_rpc import Retry, Service
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import Properties, mark
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.invoke import Dispatcher, HandlerOutcome, Settings, invoke
from amqp_rpc.server.tasks import EventDispatcher, TaskDispatcher, TaskInvocation

KINDS = ["Call", "Task", "Event"]
LIMIT = 100_000


def handle(kind: str, handler: Callable[[], Any], *, retries: int = 0, **properties: Any) -> None:
    """Deliver one message of a kind to a handler, which runs."""
    service = Service("log")
    handler.__name__ = "work"
    settings = Settings(LIMIT)
    dispatcher: Dispatcher
    given = Properties(content_type=MSGPACK, **{"message_id": "7", "type": "work", **properties})
    body = b"\x92\x90\x80"
    if kind == "Call":
        service.rpc(handler)
        dispatcher = CallDispatcher(service.queue, service.functions, settings)
        given.reply_to = "replies"
        dispatcher.run(given, body, redelivered=False)
        return
    if kind == "Task":
        service.task(queue="work", retries=retries)(handler)
        dispatcher = TaskDispatcher("work", {"work": service.tasks[0]}, settings)
    else:
        service.subscribe("#", retries=retries)(handler)
        dispatcher = EventDispatcher(service.subscriptions[0], settings)
        mark(given, "amqp_rpc.events", "a.b")
    invocation = dispatcher.accept(given, body, redelivered=False)
    assert isinstance(invocation, TaskInvocation)
    outcome = invoke(invocation)
    assert isinstance(outcome, HandlerOutcome)
    dispatcher.answer(invocation, outcome)


def fail() -> None:
    raise ZeroDivisionError("by nothing")


def queue_of(kind: str) -> str:
    return {"Call": "rpc_queue.log", "Task": "work", "Event": "events.log.work"}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_of_a_handler_is_an_error_with_its_traceback_and_whose_it_is(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    handle(kind, fail)
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith(f"{kind} work() [7] failed after 0.00")
    assert "(ZeroDivisionError: by nothing)" in record.getMessage()
    assert record.exc_info is not None
    # The user's frames, and none of ours.
    assert [frame.name for frame in traceback.extract_tb(record.exc_info[2])] == ["fail"]
    named = {name: getattr(record, name) for name in ("queue", "function", "id", "attempt")}
    assert named == {"queue": queue_of(kind), "function": "work", "id": "7", "attempt": 1}


@pytest.mark.parametrize("kind", ["Task", "Event"])
@pytest.mark.parametrize("error", [ZeroDivisionError("by nothing"), Retry("busy")])
def test_a_retry_is_a_warning_with_the_traceback(kind: str, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    def handler() -> None:
        raise error

    handle(kind, handler, retries=1, headers={"attempt": 1})
    (record,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert (record.levelname, record.exc_info and record.exc_info[1]) == ("WARNING", error)
    assert "retry 1 of 1 in " in record.getMessage()
    assert (vars(record)["queue"], vars(record)["attempt"]) == (queue_of(kind), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_success_is_a_line_at_info_and_no_line_above(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "amqp_rpc"):
        handle(kind, lambda: None)
    last = caplog.records[-1]
    assert last.levelname == "INFO"
    assert last.getMessage().startswith(f"{kind} work() [7] succeeded in 0.00")
    assert (vars(last)["queue"], vars(last)["function"], vars(last)["id"]) == (queue_of(kind), "work", "7")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "amqp_rpc"):
        handle(kind, lambda: None)
    assert caplog.records == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_that_can_t_be_sent_is_an_error(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    handle(kind, lambda: [object()], reply_to="replies")
    # An event has nobody to send a result to.
    assert [each.levelname for each in caplog.records] == ([] if kind == "Event" else ["ERROR"])
    assert kind == "Event" or "work() ran, and its result was not sent" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("given", "subject"), [({"message_id": None, "type": None}, "{} work() failed")])
def test_a_message_without_id_and_function_reads_well(
    kind: str, given: dict[str, Any], subject: str, caplog: pytest.LogCaptureFixture
) -> None:
    handle(kind, fail, **given)
    assert caplog.records[-1].getMessage().startswith(subject.format(kind))


def test_a_message_without_function_for_two_reads_well(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    for name in ("a", "b"):
        service.task(queue="work", name=name)(lambda: None)
    tasks = TaskDispatcher("work", {each.name: each for each in service.tasks}, Settings(LIMIT))
    tasks.accept(Properties(content_type=MSGPACK), b"\x92\x90\x80", redelivered=False)
    assert caplog.records[-1].getMessage().startswith("Task without a function dead-lettered: FunctionNotFound: ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["x" * 40_000, "one\ntwo\r\x1b[31mred"], ids=["long", "several lines"])
def test_a_line_of_the_log_is_one_line_and_short_whatever_is_raised(kind: str, text: str) -> None:
    def handler() -> None:
        raise ValueError(text) from KeyError(text)

    written = io.StringIO()
    stream = logging.StreamHandler(written)
    logger = logging.getLogger("amqp_rpc")
    logger.addHandler(stream)
    try:
        handle(kind, handler)
    finally:
        logger.removeHandler(stream)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) < 2100
    assert sum(line.startswith(kind) for line in lines) == 1
    assert lines[0].startswith(f"{kind} work() [7] failed after 0.00")
    # What became of it is not cut off.
    assert kind == "Call" or lines[0].endswith("; dead-lettered")
    assert "\x1b" not in written.getvalue()


def test_an_error_tracker_has_the_exception_whole(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("x" * 40_000)

    def handler() -> None:
        raise error

    handle("Call", handler)
    assert caplog.records[-1].exc_info is not None
    assert caplog.records[-1].exc_info[1] is error
