"""Whatever comes in, an answer goes out: a bad message, a bad result or a bad handler never stops a server."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc import Service
from amqp_rpc.message import codec
from amqp_rpc.message.codec import JSON, MSGPACK, TEXT
from amqp_rpc.message.envelope import Properties
from amqp_rpc.message.text import LONGEST_TRACEBACK
from amqp_rpc.server.calls import CallDispatcher, Chunk
from amqp_rpc.server.invoke import Answer, Settings

LIMIT = 10_000


class Hostile:
    def __repr__(self):
        raise RuntimeError("no text")


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


service = Service()


@service.rpc(default=True)
def double(n: int) -> int:
    return 2 * n


@service.rpc(idempotent=True)
def again(n: int) -> int:
    return n


@service.rpc
def result(kind: str) -> Any:
    deep: list = []
    for _ in range(int(kind) if kind.isdecimal() else 0):
        deep = [deep]
    results = {
        "object": object(),
        "long": 10**5000,
        "large": "x" * LIMIT,
        "half": "\ud800",
        "bad": Hostile(),
        "nan": float("nan"),
    }
    return results.get(kind, deep)


ERRORS: dict[str, BaseException] = {
    "ValueError": ValueError("bad"),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "CancelledError": asyncio.CancelledError(),
    "RecursionError": RecursionError("deep"),
    "StopIteration": StopIteration(1),
    "ExceptionGroup": ExceptionGroup("g", [ValueError(1)]),
    "NoText": NoText(),
    "NoText inside": ValueError(NoText(), Hostile()),
    "long": ValueError(10**5000),
    "half": ValueError("\ud800"),
    "large": ValueError("x" * LIMIT),
}


@service.rpc
def fail(kind: str) -> None:
    raise ERRORS[kind].with_traceback(None)


@service.rpc
async def wait(n: int) -> int:
    await asyncio.sleep(0)
    if n < 0:
        raise ValueError("negative")
    return n


@service.rpc
async def fail_later(kind: str) -> None:
    await asyncio.sleep(0)
    raise ERRORS[kind].with_traceback(None)


@service.rpc
def raiser(text: str) -> None:
    raise ValueError(text)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dispatcher(clock) -> CallDispatcher:
    return CallDispatcher(service.queue, service.functions, Settings(LIMIT, tracebacks=False, clock=clock))


def request(
    *args: Any, function: str | None = None, content_type: str = MSGPACK, **properties: Any
) -> tuple[Properties, bytes]:
    """A well-formed request; `properties` replace its own."""
    body = codec.encode([args, {}], content_type, limit=LIMIT * 2)
    kept = {
        "content_type": content_type,
        "reply_to": "replies",
        "correlation_id": "id-1",
        "type": function,
    } | properties
    return Properties(**kept), body


def answer(dispatcher: CallDispatcher, properties: Properties, body: bytes, *, redelivered: bool = False) -> Answer:
    answered = dispatcher.run(properties, body, redelivered=redelivered)
    return answered if isinstance(answered, Answer) else asyncio.run(awaited(answered))


async def awaited(answered: Coroutine[Any, Any, Answer]) -> Answer:
    return await answered


def said(answered: Answer) -> Any:
    """Return the reply's kind and its decoded body."""
    assert answered.reply is not None
    properties = answered.reply.properties
    value = codec.decode(answered.reply.body, codec.base_type(properties.content_type), limit=LIMIT * 20)
    return properties.type, value


def error_of(answered: Answer) -> str:
    """The type of the error that is the reply."""
    kind, value = said(answered)
    assert kind == "error"
    return value.partition(":")[0] if isinstance(value, str) else value["type"]


class TestGoodRequests:
    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    def test_the_reply_speaks_as_the_request_did(self, dispatcher, content_type):
        answered = answer(dispatcher, *request(4, function="double", content_type=content_type))
        assert said(answered) == ("result", 8)
        assert (answered.reply.properties.content_type, answered.dead_letter, answered.outcome) == (
            content_type,
            None,
            "result",
        )

    @pytest.mark.parametrize("content_type", [None, "", TEXT, "text/plain; charset=utf-8"])
    def test_text_is_the_argument_of_the_default_function_and_the_reply_is_text(self, dispatcher, content_type):
        answered = answer(dispatcher, Properties(content_type=content_type, reply_to="replies"), b"4")
        assert (answered.reply.body, answered.reply.properties.content_type) == (b"8", TEXT)

    def test_the_reply_goes_to_the_callers_queue_under_its_id(self, dispatcher):
        reply = answer(dispatcher, *request(4)).reply
        properties = reply.properties
        assert (reply.routing_key, properties.correlation_id, properties.delivery_mode) == ("replies", "id-1", 1)

    @pytest.mark.parametrize("identity", [None, "", "x" * 255, b"\xff" * 255])
    def test_any_correlation_id_comes_back_as_it_was(self, dispatcher, identity):
        assert answer(dispatcher, *request(4, correlation_id=identity)).reply.properties.correlation_id == identity

    def test_without_reply_to_it_runs_and_its_result_is_dropped(self, dispatcher):
        assert answer(dispatcher, *request(4, reply_to=None)) == Answer(None, None, "result")

    @pytest.mark.parametrize("encoding", [None, "", "utf-8", "binary", "identity"])
    def test_an_encoding_that_changes_nothing_is_accepted(self, dispatcher, encoding):
        assert said(answer(dispatcher, *request(4, content_encoding=encoding))) == ("result", 8)

    def test_an_empty_function_name_is_none(self, dispatcher):
        assert said(answer(dispatcher, *request(4, function=""))) == ("result", 8)


class TestRefusals:
    @pytest.mark.parametrize(
        ("properties", "body", "error"),
        [
            ({"content_type": MSGPACK}, b"\xc1", "Undecodable"),
            ({"content_type": MSGPACK}, b"", "Undecodable"),
            ({"content_type": JSON}, b"{", "Undecodable"),
            ({"content_type": TEXT}, b"\xff", "Undecodable"),
            ({"content_type": "application/xml"}, b"<n>4</n>", "Undecodable"),
            ({"content_type": "application/x-python-pickle"}, b"cos\nsystem\n(S'true'\ntR.", "Undecodable"),
            ({"content_type": JSON, "content_encoding": "gzip"}, b"[[4],{}]", "Undecodable"),
            (
                {"content_type": JSON, "content_encoding": "gzip", "headers": {"chunk": True}},
                b"[[[4],{}]]",
                "Undecodable",
            ),
            ({"content_type": JSON}, b"x" * (LIMIT + 1), "MessageTooLarge"),
            ({"content_type": JSON, "type": "nothing"}, b"[[4],{}]", "FunctionNotFound"),
            ({"content_type": JSON, "type": "__class__"}, b"[[4],{}]", "FunctionNotFound"),
            ({"content_type": JSON, "type": b"\xff"}, b"[[4],{}]", "FunctionNotFound"),
            ({"content_type": JSON}, b"[[],{}]", "InvalidArguments"),
            ({"content_type": JSON}, b"[[1,2],{}]", "InvalidArguments"),
            ({"content_type": JSON}, b'[["4"],{}]', "InvalidArguments"),
            ({"content_type": JSON}, b'[[],{"m":4}]', "InvalidArguments"),
            ({"content_type": JSON}, b'["\\ud800",{}]', "InvalidArguments"),
            ({"content_type": JSON}, b'[["\\ud800"],{}]', "InvalidArguments"),
            ({"content_type": JSON}, b'[[],{"\\ud800":4}]', "InvalidArguments"),
            ({"content_type": JSON}, b"4", "InvalidArguments"),
            ({"content_type": JSON}, b"null", "InvalidArguments"),
            ({"content_type": JSON}, b"[[4]]", "InvalidArguments"),
            ({"content_type": JSON}, b"[{},[4]]", "InvalidArguments"),
            ({"content_type": JSON}, b'"ab"', "InvalidArguments"),
            ({"content_type": MSGPACK}, codec.encode([[], {1: 2}], MSGPACK, limit=LIMIT), "InvalidArguments"),
            ({"content_type": MSGPACK}, codec.encode(10**5000, MSGPACK, limit=LIMIT), "InvalidArguments"),
            ({"content_type": MSGPACK}, codec.encode([[[10**5000]], {}], MSGPACK, limit=LIMIT), "InvalidArguments"),
            ({"content_type": JSON, "headers": {"chunk": True}}, b"4", "InvalidArguments"),
            ({"content_type": JSON, "headers": {"chunk": True}}, b"{}", "InvalidArguments"),
            ({"content_type": TEXT, "headers": {"chunk": True}}, b"4", "InvalidArguments"),
            ({"content_type": TEXT}, b"four", "InvalidArguments"),
        ],
    )
    def test_a_request_that_cannot_run_is_answered_or_dead_lettered(self, dispatcher, properties, body, error):
        refused = dispatcher.accept(Properties(reply_to="replies", **properties), body, redelivered=False)
        assert error == error_of(refused)
        assert (refused.outcome, refused.dead_letter) == ("refused", None)

        nobody = dispatcher.accept(Properties(**properties), body, redelivered=False)
        assert (nobody.reply, nobody.outcome) == (None, "refused")
        assert nobody.dead_letter

    def test_an_unknown_function_is_answered_with_those_that_there_are(self, dispatcher):
        _, error = said(answer(dispatcher, *request(4, function="fibb")))
        assert error["message"].startswith("no function 'fibb' here; there are: double, again, ")

    def test_a_message_without_a_name_needs_a_default_function(self):
        two = {name: service.functions[name] for name in ("again", "wait")}
        refused = answer(CallDispatcher(service.queue, two, Settings(LIMIT, tracebacks=False)), *request(4))
        assert said(refused)[1]["message"].endswith("none is the default; there are: again, wait")

    @pytest.mark.parametrize(
        "headers", [{"deadline": "x"}, {"idempotent": 5}, {"chunk": "yes"}, {"x-death": [{}]}, {"": b"\xff"}]
    )
    def test_headers_of_odd_types_are_as_good_as_none(self, dispatcher, headers):
        assert said(answer(dispatcher, *request(4, headers=headers))) == ("result", 8)

    def test_one_bad_message_is_one_line_in_the_log(self, dispatcher, caplog):
        caplog.set_level(logging.INFO)
        answer(dispatcher, Properties(content_type=JSON), b"{")
        (record,) = caplog.records
        assert "message without reply_to dead-lettered: the body (1 bytes) is not application/json" in record.message
        assert "\n" not in record.message

    @pytest.mark.parametrize("reply_to", ["q", None])
    def test_a_flood_of_bad_messages_is_no_flood_of_lines(self, dispatcher, caplog, reply_to):
        caplog.set_level(logging.INFO)
        for number in range(1000):
            answer(dispatcher, *request("x", reply_to=reply_to, message_id=str(number)))
        assert len(caplog.records) == 1
        # Another one is not hidden by it.
        answer(dispatcher, *request(function=f"unknown{'x' * 100}", reply_to=reply_to))
        assert len(caplog.records) == 2
        for number in range(1000):
            answer(dispatcher, *request(function=f"unknown{number}", reply_to=reply_to))
        assert len(caplog.records) < 30

    @pytest.mark.parametrize("reply_to", ["q", None])
    def test_what_a_stranger_writes_is_quoted_and_cut_in_the_log_and_in_the_answer(self, dispatcher, caplog, reply_to):
        caplog.set_level(logging.INFO)
        forged = "x\n2026-11-28 00:00:00,000 CRITICAL\x1b[2J"
        answered = [
            answer(dispatcher, *request(1, function=forged, reply_to=reply_to, message_id=forged)),
            answer(dispatcher, *request({forged + "k" * 5000: 1}, function="double", reply_to=reply_to)),
            answer(dispatcher, *request("x" * 9000, function="double", reply_to=reply_to, message_id="2")),
            answer(dispatcher, *request(forged + "y" * 9000, function="raiser", reply_to=reply_to, message_id=forged)),
        ]
        assert len(caplog.records) == len(answered)
        for record, each in zip(caplog.records, answered, strict=True):
            text = record.getMessage()
            assert text.isprintable()
            assert len(text) <= 2030
            assert record.id is None or record.id.isprintable()
            assert len(each.dead_letter or "") <= 2030
            assert len(each.reply.body if each.reply is not None else b"") <= 8000


class TestRedelivery:
    def test_a_call_that_may_have_run_is_not_run_again(self, dispatcher):
        refused = answer(dispatcher, *request(4), redelivered=True)
        assert (error_of(refused), refused.outcome) == ("MaybeExecuted", "refused")

    @pytest.mark.parametrize("properties", [{"type": "again"}, {"headers": {"idempotent": True}}])
    def test_one_that_is_idempotent_by_the_server_or_the_caller_goes_back_counted(self, dispatcher, properties):
        sent, body = request(4, **properties)
        back = answer(dispatcher, sent, body, redelivered=True)
        assert (back.reply, back.dead_letter, back.outcome) == (None, None, "again")
        assert (back.again.routing_key, back.again.body) == ("rpc_queue", body)
        assert back.again.properties.headers == {**(sent.headers or {}), "crashes": 1}
        for name in ("type", "content_type", "reply_to", "correlation_id", "message_id"):
            assert getattr(back.again.properties, name) == getattr(sent, name)
        assert said(answer(dispatcher, back.again.properties, back.again.body))[0] == "result"

    def test_one_that_goes_back_keeps_its_deadline_and_loses_what_the_broker_wrote(self, dispatcher, clock):
        headers = {"deadline": int((clock.now + 2.5) * 1000), "x-death": [{"count": 1}], "mine": 1}
        sent, body = request(4, function="again", headers=headers, expiration="9000")
        back = answer(dispatcher, sent, body, redelivered=True).again.properties
        assert back.headers == {"deadline": headers["deadline"], "mine": 1, "crashes": 1}
        assert back.expiration == "2500"

    def test_one_that_took_three_servers_with_it_is_not_tried_again(self, dispatcher):
        properties, body = request(4, function="again")
        for _ in range(2):
            back = answer(dispatcher, properties, body, redelivered=True)
            assert back.outcome == "again"
            properties, body = back.again.properties, back.again.body
        refused = answer(dispatcher, properties, body, redelivered=True)
        assert (error_of(refused), refused.outcome) == ("MaybeExecuted", "refused")
        assert "3 servers died" in said(refused)[1]["message"]

    def test_one_that_nobody_waits_for_is_dropped_and_not_dead_lettered(self, dispatcher):
        assert Answer(None, None, "refused") == answer(dispatcher, *request(4, reply_to=None), redelivered=True)


class TestDeadlines:
    @pytest.mark.parametrize(("now", "outcome"), [(1000.0, "result"), (1002.9, "result"), (1003.1, "expired")])
    def test_expired_work_is_not_started_with_a_second_for_the_clocks(self, dispatcher, clock, now, outcome):
        clock.now = now
        assert outcome == answer(dispatcher, *request(4, headers={"deadline": 1_002_000})).outcome

    def test_whoever_waits_all_the_same_is_told(self, dispatcher):
        assert error_of(answer(dispatcher, *request(4, headers={"deadline": 1}))) == "Expired"

    def test_without_reply_to_it_is_dropped(self, dispatcher):
        expired = answer(dispatcher, *request(4, reply_to=None, headers={"deadline": 1}))
        assert Answer(None, None, "expired") == expired


class TestResultsThatCannotBeSent:
    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    @pytest.mark.parametrize("kind", ["object", "half", "bad"])
    def test_one_without_a_form_on_the_wire_is_an_error_that_says_it_ran(self, dispatcher, kind, content_type):
        _, error = said(answer(dispatcher, *request(kind, function="result", content_type=content_type)))
        assert (error["type"], error["data"]) == ("Unencodable", {"ran": True})
        assert error["message"].startswith("result() ran, and its result was not sent: ")

    @pytest.mark.parametrize("kind", ["nan", "long"])
    def test_one_that_json_does_not_know_is_an_error_in_json(self, dispatcher, kind):
        assert error_of(answer(dispatcher, *request(kind, function="result", content_type=JSON))) == "Unencodable"

    @pytest.mark.parametrize("kind", ["long", "half", "bad"])
    def test_one_without_a_text_is_an_error_in_text(self, dispatcher, kind):
        answered = answer(dispatcher, Properties(type="result", reply_to="replies"), kind.encode())
        assert error_of(answered) == "Unencodable"

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    @pytest.mark.parametrize("depth", [980, 1000, 1022, 1023, 1024, 3000])
    def test_one_nested_too_deep_is_an_error_or_sent(self, dispatcher, depth, content_type):
        assert answer(dispatcher, *request(str(depth), function="result", content_type=content_type)).reply

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    def test_one_that_is_too_large_is_an_error_that_says_it_ran(self, dispatcher, content_type):
        _, error = said(answer(dispatcher, *request("large", function="result", content_type=content_type)))
        assert (error["type"], error["data"]) == ("MessageTooLarge", {"ran": True})


class TestWhatHandlersRaise:
    @pytest.mark.parametrize("kind", ERRORS)
    @pytest.mark.parametrize("tracebacks", [False, True])
    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    def test_anything_is_an_error_reply_within_the_limit(self, kind, tracebacks, content_type):
        dispatcher = CallDispatcher(service.queue, service.functions, Settings(LIMIT, tracebacks=tracebacks))
        answered = answer(dispatcher, *request(kind, function="fail", content_type=content_type))
        assert answered.outcome == "raised"
        assert error_of(answered).rpartition(".")[2] == type(ERRORS[kind]).__name__
        assert len(answered.reply.body) <= LIMIT

    @pytest.mark.parametrize("kind", ERRORS)
    def test_to_a_text_client_it_is_one_text_within_the_limit(self, dispatcher, kind):
        answered = answer(dispatcher, Properties(type="fail", reply_to="replies"), kind.encode())
        assert error_of(answered).rpartition(".")[2] == type(ERRORS[kind]).__name__
        assert len(answered.reply.body) <= LIMIT

    @pytest.mark.parametrize("kind", ERRORS)
    def test_without_reply_to_it_is_a_line_in_the_log(self, dispatcher, kind, caplog):
        assert Answer(None, None, "raised") == answer(dispatcher, *request(kind, function="fail", reply_to=None))
        assert len(caplog.records) == 1

    @pytest.mark.parametrize("kind", ERRORS)
    def test_an_async_handler_is_treated_alike(self, dispatcher, kind):
        answered = asyncio.run(dispatcher.run_async(*request(kind, function="fail_later"), redelivered=False))
        # Python itself turns a StopIteration of a coroutine into a RuntimeError.
        expected = "RuntimeError" if kind == "StopIteration" else type(ERRORS[kind]).__name__
        assert error_of(answered).rpartition(".")[2] == expected

    def test_the_traceback_travels_only_where_it_is_allowed(self, dispatcher):
        assert "traceback" not in said(answer(dispatcher, *request("ValueError", function="fail")))[1]

    def test_the_traceback_begins_at_the_handler(self):
        dispatcher = CallDispatcher(service.queue, service.functions, Settings(LIMIT, tracebacks=True))
        traceback = said(answer(dispatcher, *request("ValueError", function="fail")))[1]["traceback"]
        assert "raise ERRORS[kind]" in traceback
        assert "invoke.py" not in traceback

    def test_only_the_end_of_a_long_traceback_travels(self):
        dispatcher = CallDispatcher(service.queue, service.functions, Settings(100_000, tracebacks=True))
        error = said(answer(dispatcher, *request("large", function="fail")))[1]
        assert len(error["traceback"]) <= LONGEST_TRACEBACK


def chunk(
    *calls: Any, function: str = "double", content_type: str = MSGPACK, **headers: Any
) -> tuple[Properties, bytes]:
    body = codec.encode(
        [[list(args), {}] if isinstance(args, tuple) else args for args in calls], content_type, limit=LIMIT * 2
    )
    return Properties(content_type=content_type, reply_to="r", type=function, headers={"chunk": True, **headers}), body


def outcomes(answered: Answer) -> list[Any]:
    """The results of a chunk, each an error's type where it is one."""
    kind, value = said(answered)
    assert kind == "results"
    return [each if ran else each["type"] for ran, each in value]


class TestChunks:
    def test_the_results_are_in_the_order_of_the_calls(self, dispatcher):
        assert outcomes(answer(dispatcher, *chunk((3,), (1,), (2,)))) == [6, 2, 4]

    def test_an_empty_one_has_no_results(self, dispatcher):
        assert outcomes(answer(dispatcher, *chunk())) == []

    def test_json_chunks_are_answered_in_json(self, dispatcher):
        assert answer(dispatcher, *chunk((3,), content_type=JSON)).reply.body == b"[[true,6]]"

    def test_a_call_that_does_not_fit_fails_alone_and_in_its_place(self, dispatcher):
        calls = chunk((1,), ("x",), (), 5, [[1], {}, 2], [[], {"n": 2}], ([10**5000],), (3,))
        bad = "InvalidArguments"
        assert outcomes(answer(dispatcher, *calls)) == [2, bad, bad, bad, bad, 4, bad, 6]

    def test_a_call_that_raises_fails_alone_and_in_its_place(self):
        dispatcher = CallDispatcher(service.queue, service.functions, Settings(LIMIT * 20, tracebacks=False))
        names = outcomes(answer(dispatcher, *chunk(*((kind,) for kind in ERRORS), function="fail")))
        assert [name.rpartition(".")[2] for name in names] == [type(error).__name__ for error in ERRORS.values()]

    def test_a_result_that_cannot_be_sent_fails_alone_and_in_its_place(self, dispatcher):
        assert outcomes(answer(dispatcher, *chunk(("",), ("object",), ("half",), ("",), function="result"))) == [
            [],
            "Unencodable",
            "Unencodable",
            [],
        ]

    @pytest.mark.parametrize("kinds", [("large", ""), ("large", "object"), ("object", "large")])
    def test_a_result_that_is_too_large_fails_alone_and_in_its_place(self, dispatcher, kinds):
        expected = {"large": "MessageTooLarge", "object": "Unencodable", "": []}
        assert outcomes(answer(dispatcher, *chunk(*((kind,) for kind in kinds), function="result"))) == [
            expected[kind] for kind in kinds
        ]

    def test_results_that_are_too_large_together_are_one_error(self):
        own = Service()

        @own.rpc
        def text(length: int) -> str:
            return "x" * length

        dispatcher = CallDispatcher(own.queue, own.functions, Settings(LIMIT, tracebacks=False))
        answered = answer(dispatcher, *chunk((LIMIT // 2,), (LIMIT // 2,), function="text"))
        kind, error = said(answered)
        assert (kind, error["type"], error["data"]) == ("error", "MessageTooLarge", {"ran": True})

    @pytest.mark.parametrize("content_type", [MSGPACK, JSON])
    @pytest.mark.parametrize("depth", [980, 984, 988, 992, *range(1019, 1027), 3000])
    def test_a_result_nested_too_deep_is_an_error_in_its_place_or_sent(self, dispatcher, depth, content_type):
        calls = chunk(("",), (str(depth),), function="result", content_type=content_type)
        try:
            kind = answer(dispatcher, *calls).reply.properties.type
        except RecursionError:
            kind = "none"  # raised a thousand levels deep, it would take minutes to show
        assert kind in {"results", "error"}

    def test_calls_whose_time_is_over_in_the_middle_are_not_started(self, clock):
        ran = []
        own = Service()

        @own.rpc
        def slow(n: int) -> int:
            ran.append(n)
            clock.now += 1.0
            return n

        dispatcher = CallDispatcher(own.queue, own.functions, Settings(LIMIT, tracebacks=False, clock=clock))
        answered = answer(dispatcher, *chunk((1,), (2,), (3,), (4,), function="slow", deadline=1_000_500))
        assert outcomes(answered) == [1, 2, "Expired", "Expired"]
        assert ran == [1, 2]

    def test_without_reply_to_it_runs(self, dispatcher):
        properties, body = chunk((1,), (2,))
        properties.reply_to = None
        assert answer(dispatcher, properties, body) == Answer(None, None, "result")

    def test_one_of_an_async_function_runs_together_and_answers_in_order(self, dispatcher):
        calls = chunk((1,), (-1,), ("x",), (2,), function="wait")
        assert isinstance(dispatcher.accept(*calls, redelivered=False), Chunk)
        answered = asyncio.run(dispatcher.run_async(*calls, redelivered=False))
        assert outcomes(answered) == [1, "ValueError", "InvalidArguments", 2]

    @pytest.mark.parametrize("awaits", [True, False], ids=["async def", "returns an awaitable"])
    def test_no_more_of_its_calls_run_at_once_than_the_server_has_room_for(self, awaits):
        running, most = 0, 0
        own = Service()

        async def work(n: int) -> int:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return n

        own.rpc(work if awaits else as_ordinary(work))
        dispatcher = CallDispatcher(own.queue, own.functions, Settings(10_000, concurrency=3))
        calls = chunk(*((n,) for n in range(100)), function="work")

        def begin() -> Coroutine[Any, Any, Answer]:
            begun = (dispatcher.run_async if awaits else dispatcher.run)(*calls, redelivered=False)
            assert asyncio.iscoroutine(begun)
            return begun

        async def run() -> list[Answer]:
            return await asyncio.gather(begin(), begin())

        for answered in asyncio.run(run()):
            assert outcomes(answered) == list(range(100))
        assert most == 3

    @pytest.mark.parametrize("awaits", [True, False], ids=["async def", "returns an awaitable"])
    def test_many_calls_in_it_make_no_more_tasks_than_run_at_once(self, awaits):
        own, tasks = Service(), 0

        async def work(n: int) -> int:
            nonlocal tasks
            tasks = max(tasks, len(asyncio.all_tasks()))
            await asyncio.sleep(0)
            return n

        own.rpc(work if awaits else as_ordinary(work))
        dispatcher = CallDispatcher(own.queue, own.functions, Settings(100_000, concurrency=3))
        calls = chunk(*((n % 100,) for n in range(2000)), function="work")

        async def run() -> Any:
            return await (dispatcher.run_async if awaits else dispatcher.run)(*calls, redelivered=False)

        assert outcomes(asyncio.run(run())) == [n % 100 for n in range(2000)]
        # Each of them, the test's own, and one that awaits what a function has returned.
        assert tasks <= 3 + 1 + 3

    def test_async_functions_that_never_wait_leave_the_loop_to_others(self):
        own = Service()

        @own.rpc
        async def work(n: int) -> int:
            return n

        dispatcher = CallDispatcher(own.queue, own.functions, Settings(10_000, concurrency=2))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async def run() -> None:
            others = asyncio.ensure_future(count())
            await dispatcher.run_async(*chunk(*((n,) for n in range(50)), function="work"), redelivered=False)
            others.cancel()

        asyncio.run(run())
        assert turns > 10


def as_ordinary(function: Any) -> Any:
    @functools.wraps(function)
    def ordinary(*args: Any) -> Any:
        return function(*args)

    return ordinary


class TestAsync:
    def test_an_async_function_is_awaited(self, dispatcher):
        answered = asyncio.run(dispatcher.run_async(*request(4, function="wait"), redelivered=False))
        assert said(answered) == ("result", 4)

    @pytest.mark.parametrize(
        ("name", "expected"), [("wait", True), ("double", False), (None, False), ("nothing", False)]
    )
    def test_it_is_known_beforehand_where_a_delivery_runs(self, dispatcher, name, expected):
        assert dispatcher.asynchronous(Properties(type=name)) is expected


class TestAnything:
    short = st.none() | st.text(max_size=20) | st.binary(max_size=20)
    value = short | st.booleans() | st.integers(-(2**63), 2**64) | st.floats() | st.lists(st.integers(0, 9), max_size=2)
    headers = st.none() | st.dictionaries(st.sampled_from(["deadline", "chunk", "idempotent", "attempt", "x"]), value)
    bodies = st.binary(max_size=50) | st.sampled_from([b"[[4],{}]", b"4", b"[[[4],{}],[]]", b"\x92\x91\x04\x80"])

    @settings(max_examples=200, deadline=None)
    @given(
        properties=st.builds(
            Properties,
            content_type=st.sampled_from([MSGPACK, JSON, TEXT, None, "application/xml"]) | short,
            content_encoding=st.none() | short,
            headers=headers,
            correlation_id=short,
            reply_to=st.just("replies") | short,
            type=st.sampled_from(["double", "again", "fail", "result", None]) | short,
        ),
        body=bodies,
        redelivered=st.booleans(),
    )
    def test_any_delivery_ends_in_an_answer(self, properties, body, redelivered):
        dispatcher = CallDispatcher(service.queue, service.functions, Settings(LIMIT, tracebacks=False))
        dispatcher.asynchronous(properties)
        answered = answer(dispatcher, properties, body, redelivered=redelivered)
        assert answered.outcome in {"result", "raised", "refused", "expired", "again"}
