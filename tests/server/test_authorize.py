"""`authorize=`: a function runs for the senders that it allows, and only True is a yes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amqp_rpc import NotAuthorized, Service
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import Message, Properties, sender
from amqp_rpc.message.failures import rebuild
from amqp_rpc.message.headers import ATTEMPT, SENDER
from amqp_rpc.message.signature import Keys
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.invoke import Answer, Settings
from amqp_rpc.server.tasks import EventDispatcher, TaskDispatcher, TaskInvocation
from amqp_rpc.service.context import Context, context

KEYS = Keys([("shop", b"s" * 32)])


def dispatcher(authorize: Any, *, keys: Keys | None = None) -> tuple[CallDispatcher, list[int]]:
    service, ran = Service(authorize=authorize), list[int]()

    @service.rpc
    def charge(amount: int) -> int:
        ran.append(amount)
        return amount

    return CallDispatcher("rpc_queue", service.functions, Settings(1 << 20, keys=keys)), ran


def call(on: CallDispatcher, body: bytes = codec.encode([[5], {}], MSGPACK, limit=1 << 20), **changes: Any) -> Answer:
    properties = Properties(content_type=MSGPACK, type="charge", reply_to="amq.gen-1", correlation_id="c")
    for name, value in changes.items():
        setattr(properties, name, value)
    answer = on.run(properties, body, redelivered=False)
    assert isinstance(answer, Answer)
    return answer


def error_of(answer: Answer) -> Exception:
    assert answer.reply is not None
    return rebuild(codec.decode(answer.reply.body, MSGPACK, limit=1 << 20))


def test_the_hook_learns_who_calls_which_function() -> None:
    asked: list[Context] = []

    def authorize(sender: Context) -> bool:
        asked.append(sender)
        return sender.user_id == "web"

    on, ran = dispatcher(authorize)
    assert call(on, user_id="web", headers={"trace": "1", ATTEMPT: 2}).outcome == "result"
    refused = call(on, user_id="guest")
    assert (refused.outcome, refused.dead_letter, ran) == ("unauthorized", None, [5])
    error = error_of(refused)
    assert (type(error), str(error)) == (NotAuthorized, "charge() does not run for user guest")
    assert (asked[0].function, asked[0].user_id, asked[0].headers, asked[0].attempt) == (
        "charge",
        "web",
        {"trace": "1"},
        2,
    )
    assert asked[0].key is None


def test_a_call_that_ran_before_may_have_run_though_it_is_refused_now() -> None:
    on, _ = dispatcher(lambda _: False)
    assert not error_of(call(on)).may_have_run  # type: ignore[attr-defined]
    assert error_of(call(on, headers={ATTEMPT: 2})).may_have_run  # type: ignore[attr-defined]


@pytest.mark.parametrize("answer", [False, None, 1, "yes", [True]], ids=repr)
def test_all_but_true_is_a_no(answer: Any) -> None:
    on, ran = dispatcher(lambda _: answer)
    assert (call(on, user_id="web").outcome, ran) == ("unauthorized", [])


@pytest.mark.parametrize("raised", [ValueError("no such role"), KeyError("x"), SystemExit(1), asyncio.CancelledError()])
def test_a_hook_that_fails_is_a_no_and_its_error_is_not_sent(raised: BaseException, caplog: Any) -> None:
    def authorize(_sender: Context) -> bool:
        raise raised

    on, ran = dispatcher(authorize)
    answer = call(on, user_id="web")
    assert (answer.outcome, ran) == ("unauthorized", [])
    assert str(error_of(answer)) == "charge() did not run: whether user web may have it run is not known"
    assert "authorize= of charge() failed" in caplog.text


def test_a_hook_may_say_why_not() -> None:
    def authorize(_sender: Context) -> bool:
        raise NotAuthorized("ask the shop's owner")

    on, _ = dispatcher(authorize)
    assert str(error_of(call(on))) == "ask the shop's owner"


def test_the_key_is_known_where_it_was_checked_and_nowhere_else() -> None:
    asked: list[str | None] = []

    def authorize(sender: Context) -> bool:
        asked.append(sender.key)
        return True

    signed = Message("rpc_queue", Properties(), b"")
    KEYS.sign(signed)
    headers = signed.properties.headers
    for keys in (KEYS, None):
        on, _ = dispatcher(authorize, keys=keys)
        call(on, headers=headers)
    assert asked == ["shop", None]


def test_the_arguments_are_not_read_before_the_answer() -> None:
    on, _ = dispatcher(lambda _: False)
    assert isinstance(error_of(call(on, b"\xc1")), NotAuthorized)


def test_a_call_without_a_reply_address_is_a_dead_letter() -> None:
    on, _ = dispatcher(lambda _: False)
    assert call(on, reply_to=None).dead_letter == "charge() does not run for an unknown sender"


def test_a_function_may_have_a_hook_of_its_own() -> None:
    service = Service(authorize=lambda _: False)

    @service.rpc(authorize=lambda _: True)
    def charge(amount: int) -> int:
        return amount

    on = CallDispatcher("rpc_queue", service.functions, Settings(1 << 20))
    assert call(on).outcome == "result"


def test_a_refused_task_or_event_is_a_dead_letter_and_is_not_tried_again() -> None:
    service = Service(authorize=lambda sender: sender.user_id == "web")

    @service.task(retries=5)
    def work(amount: int) -> str | None:
        return context().user_id

    @service.subscribe("a.#", retries=5)
    def heard(amount: int) -> None: ...

    [task], [event] = service.tasks, service.subscriptions
    settings, body = Settings(1 << 20), codec.encode([[5], {}], MSGPACK, limit=1 << 20)
    for on in (TaskDispatcher(task.queue, {"work": task}, settings), EventDispatcher(event, settings)):
        properties = Properties(content_type=MSGPACK, type="work", message_id="m", user_id="guest")
        end = on.accept(properties, body, redelivered=False)
        assert isinstance(end, Answer)
        assert (end.outcome, end.again) == ("unauthorized", None)
        assert str(end.dead_letter).startswith("NotAuthorized: ")
    properties.user_id = "web"
    assert isinstance(
        TaskDispatcher(task.queue, {"work": task}, settings).accept(properties, body, redelivered=False), TaskInvocation
    )


@pytest.mark.parametrize("hook", ["web", 5, ["web"]], ids=repr)
def test_what_is_no_hook_is_refused_where_it_is_written(hook: Any) -> None:
    service = Service()
    with pytest.raises(ConfigurationError, match=r"test_authorize.py:\d+: authorize= of charge\(\) is an ordinary"):

        @service.rpc(authorize=hook)
        def charge(amount: int) -> int:
            return amount


def test_a_hook_that_is_a_coroutine_function_is_refused() -> None:
    async def authorize(_sender: Context) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="returns True or False"):
        dispatcher(authorize)


class TestSender:
    """Whose message it is: a server's copy names its sender, and nobody else's does."""

    @pytest.mark.parametrize(
        ("user", "named", "found"),
        [
            ("web", None, "web"),
            ("web", "admin", "web"),
            ("servers", "web", "web"),
            ("servers", None, "servers"),
            ("servers", 7, "servers"),
            (None, "admin", None),
            (b"\xff", "admin", None),
        ],
    )
    def test_it(self, user: Any, named: Any, found: str | None) -> None:
        properties = Properties(user_id=user, headers=None if named is None else {SENDER: named})
        assert sender(properties, frozenset({"servers"})) == found

    def test_no_header_names_a_sender_where_servers_send_no_names(self) -> None:
        assert sender(Properties(user_id="web", headers={SENDER: "admin"}), frozenset()) == "web"
