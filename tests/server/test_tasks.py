"""From a task's delivery to its outcome, without a broker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from amqp_rpc import Retry, Service
from amqp_rpc.message.envelope import ERROR, Properties, task_properties
from amqp_rpc.server.invoke import Answer, HandlerOutcome, Settings, invoke
from amqp_rpc.server.tasks import TaskDispatcher, TaskInvocation, deaths, requeued


def end(tasks: TaskDispatcher, accepted: TaskInvocation | Answer) -> Answer:
    """Run a task that was accepted, and return its answer."""
    assert isinstance(accepted, TaskInvocation)
    outcome = invoke(accepted)
    assert isinstance(outcome, HandlerOutcome)
    tasks.leave(accepted)
    return tasks.answer(accepted, outcome)


def run(result: Any, *, records: bool, reply_to: str | None) -> Answer:
    """Run a task that returns something."""
    service = Service()

    @service.task(queue="q")
    def work() -> Any:
        return result

    tasks = TaskDispatcher("q", {"work": service.tasks[0]}, Settings(100, tracebacks=True, records=records))
    properties = task_properties(function="work", identity="1", expires=None, now=0.0)
    properties.reply_to = reply_to
    return end(tasks, tasks.accept(properties, b"\x92\x90\x80", redelivered=False))


@pytest.mark.parametrize("result", [object(), "x" * 101], ids=["no data", "too large"])
@pytest.mark.parametrize(("records", "reply_to"), [(True, None), (False, "replies"), (True, "replies")])
def test_a_task_whose_result_can_t_be_sent_has_failed_and_is_logged_so(
    caplog: pytest.LogCaptureFixture, result: Any, records: bool, reply_to: str | None
) -> None:
    with caplog.at_level(logging.INFO, "amqp_rpc"):
        answer = run(result, records=records, reply_to=reply_to)
    assert "succeeded" not in caplog.text
    assert "Task work() [1] failed after" in caplog.text
    assert "work() ran, and its result was not sent: " in caplog.text
    # It ran to its end: it is not tried again.
    assert (answer.outcome, answer.again, answer.dead_letter) == ("raised", None, None)
    if records:
        assert answer.record is not None
        assert answer.record.state == "FAILURE"
        assert (answer.record.error or "").startswith("work() ran, and its result was not sent: ")
    assert (answer.reply and answer.reply.properties.type) == (ERROR if reply_to else None)


def test_a_result_that_nobody_wants_need_not_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "amqp_rpc"):
        answer = run(object(), records=False, reply_to=None)
    assert "Task work() [1] succeeded" in caplog.text
    assert (answer.outcome, answer.reply) == ("result", None)


def ends(raises: Callable[[], BaseException]) -> Answer:
    """Run a task whose handler raises, and return its answer."""
    service = Service()

    @service.task(queue="q")
    def work() -> None:
        raise raises()

    tasks = TaskDispatcher("q", {"work": service.tasks[0]}, Settings(100, tracebacks=True))
    properties = task_properties(function="work", identity="1", expires=None, now=0.0)
    return end(tasks, tasks.accept(properties, b"\x92\x90\x80", redelivered=False))


@pytest.mark.parametrize(
    ("after", "delay"), [(0, 0), (0.25, 3), (30, 300), (1e12, 2**28 - 1), (float("inf"), 2**28 - 1)]
)
def test_a_task_that_asks_for_another_try_gets_it_after_its_time_310_days_at_most(after: float, delay: int) -> None:
    answer = ends(lambda: Retry("busy", after=after))
    assert answer.again is not None
    assert answer.again.delay == delay


@pytest.mark.parametrize("after", ["30", -1, float("nan")])
def test_a_handler_that_asks_for_another_try_at_no_time_has_failed_in_words(
    caplog: pytest.LogCaptureFixture, after: Any
) -> None:
    answer = ends(lambda: Retry("busy", after=after))
    assert answer.outcome == "retried"
    assert f"(ConfigurationError: Retry(after=) is a number of seconds from 0, not {after!r}); retry 1" in caplog.text


def suspected(*, crashes: int, limit: float | None = None) -> tuple[TaskDispatcher, Any]:
    """A dispatcher, and how to give it one more task that so many workers died with."""
    service = Service()

    @service.task(queue="q", time_limit=limit)
    def work(fail: bool = False) -> None:  # noqa: FBT002 - a task's arguments are a list
        if fail:
            raise ValueError(fail)

    tasks = TaskDispatcher("q", {"work": service.tasks[0]}, Settings(100, tracebacks=True))
    properties = task_properties(function="work", identity="1", expires=None, now=0.0)
    properties.headers = {**(properties.headers or {}), "crashes": crashes}
    return tasks, lambda body=b"\x92\x90\x80": tasks.accept(properties, body, redelivered=False)


@pytest.mark.parametrize("body", [b"\x92\x90\x80", b"\x92\x91\xc3\x80"], ids=["succeeds", "fails"])
def test_of_tasks_that_two_workers_died_with_one_runs_at_a_time(body: bytes) -> None:
    tasks, accept = suspected(crashes=2)
    first = accept(body)
    assert isinstance(first, TaskInvocation)

    back = accept()
    assert isinstance(back, Answer)
    assert back.again is not None
    assert (back.again.properties.headers or {})["crashes"] == 2
    assert back.again.delay > 0

    end(tasks, first)
    assert isinstance(accept(), TaskInvocation)


def test_a_suspected_task_that_does_not_end_at_its_time_limit_holds_up_no_other() -> None:
    tasks, accept = suspected(crashes=2, limit=1.0)
    first = accept()
    assert isinstance(accept(), Answer)

    tasks.overrun(first, 1.0, None)
    assert isinstance(accept(), TaskInvocation)
    # That its handler ends at last makes no room for two.
    tasks.leave(first)
    assert isinstance(accept(), Answer)


def test_a_task_that_one_worker_died_with_runs_beside_others() -> None:
    _, accept = suspected(crashes=1)
    assert all(isinstance(accept(), TaskInvocation) for _ in range(3))


@pytest.mark.parametrize(
    ("before", "counted", "expected"),
    [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 7, 2), (1, 1, 2), (1, 7, 2), (2, 1, 3), (2, 3, 3), (4, 7, 5), (3, None, 4)],
)
def test_a_task_that_a_stopping_broker_gave_to_many_is_not_taken_for_what_ended_them(
    before: int, counted: int | None, expected: int
) -> None:
    headers = {} if counted is None else {"x-delivery-count": counted}
    assert deaths(before, Properties(headers=headers)) == expected


def test_a_task_that_rabbitmq_4_3_took_back_from_another_worker_runs_and_no_crash_is_counted() -> None:
    service = Service()
    service.task(queue="q", name="work")(lambda: None)
    tasks = TaskDispatcher("q", {"work": service.tasks[0]}, Settings(100))
    task = tasks.accept(
        Properties(type="work", content_type="application/json", headers={"x-acquired-count": 9}),
        b"[[],{}]",
        redelivered=True,
    )
    assert isinstance(task, TaskInvocation)
    assert task.request.crashes == 0


def test_a_requeued_task_keeps_the_count_of_the_workers_that_it_ended() -> None:
    headers = {"attempt": 2, "crashes": 2, "x-delivery-count": 1, "x-death": [], "mine": "x"}
    properties = Properties(headers=headers, type="f", message_id="1", reply_to="r", expiration="1000")
    back = requeued("q", properties, b"body")
    assert (back.routing_key, back.body, back.delay) == ("q", b"body", 0)
    assert back.properties.headers == {"attempt": 2, "crashes": 3, "mine": "x"}
    assert (back.properties.type, back.properties.message_id, back.properties.reply_to) == ("f", "1", "r")
    assert (back.properties.delivery_mode, back.properties.expiration) == (2, None)
    assert "crashes" not in (requeued("q", Properties(headers={"attempt": 1}), b"").properties.headers or {})
