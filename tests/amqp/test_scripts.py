"""Channel scripts: what resumes them, what ends them, and that none is left behind."""

from __future__ import annotations

from typing import Any

import pytest

from amqp_rpc.amqp.channel import BrokerAnswer, ChannelClosed, Script
from amqp_rpc.errors import BrokerError
from amqp_rpc.message.refusals import ReplyCode

CLOSED = ChannelClosed(BrokerError("no queue 'q'"), ReplyCode.NOT_FOUND)


@pytest.fixture
def running() -> set[Script]:
    return set()


def started(coroutine: Any, running: set[Script]) -> Script:
    script = Script(coroutine, running)
    script.resume()
    return script


def test_a_script_goes_on_with_each_answer(running):
    first, second, seen = BrokerAnswer[int](), BrokerAnswer[str](), []

    async def script():
        seen.append(await first)
        seen.append(await second)

    started(script(), running)
    first.arrive(1)
    assert (seen, len(running)) == ([1], 1)
    second.arrive("two")
    assert (seen, running) == ([1, "two"], set())


def test_requests_may_be_sent_before_their_answers_are_awaited(running):
    first, second, seen = BrokerAnswer[int](), BrokerAnswer[int](), []

    async def script():
        seen.append(await first + await second)

    started(script(), running)
    second.arrive(2)
    first.arrive(1)
    assert seen == [3]


def test_a_closed_channel_raises_at_the_await(running):
    answer, codes = BrokerAnswer[None](), []

    async def script():
        try:
            await answer
        except ChannelClosed as closed:
            codes.append((closed.code, str(closed.error)))

    started(script(), running)
    answer.fail(CLOSED)
    assert codes == [(404, "no queue 'q'")]
    assert running == set()


def test_a_closed_channel_ends_a_script_that_does_not_handle_it_without_noise(running, caplog):
    answer = BrokerAnswer[None]()

    async def script():
        await answer

    started(script(), running)
    answer.fail(CLOSED)
    assert running == set()
    assert caplog.records == []


@pytest.mark.parametrize("how", ["stop", "abandon"])
def test_a_script_that_is_stopped_runs_its_finally_blocks_and_nothing_more(running, how):
    answer, seen = BrokerAnswer[None](), []

    async def script():
        try:
            await answer
            seen.append("answered")
        finally:
            seen.append("finally")

    stopped = started(script(), running)
    stopped.stop() if how == "stop" else answer.abandon()
    answer.arrive(None)
    assert (seen, running) == (["finally"], set())


def test_a_script_that_stops_itself_ends_at_its_next_await(running):
    seen: list[str] = []

    async def script():
        seen.append("stopping")
        scripts[0].stop()
        seen.append("still at work")
        await BrokerAnswer[None]()
        seen.append("never")

    scripts = [Script(script(), running)]
    scripts[0].resume()
    assert (seen, running) == (["stopping", "still at work"], set())


def test_a_frozen_script_is_not_resumed_and_can_be_closed_later(running):
    answer, seen = BrokerAnswer[None](), []

    async def script():
        try:
            await answer
            seen.append("answered")
        finally:
            seen.append("finally")

    frozen = started(script(), running)
    frozen.freeze()
    answer.arrive(None)
    assert (seen, len(running)) == ([], 1)
    frozen.stop()
    assert (seen, running) == (["finally"], set())


def test_a_defect_in_a_script_is_logged_and_goes_no_further(running, caplog, monkeypatch):
    # On the main thread an exception may come from a signal handler, and is raised on.
    monkeypatch.setattr("amqp_rpc.amqp.channel.where_signals_raise", lambda: False)
    answer = BrokerAnswer[None]()

    async def faulty():
        await answer
        raise RuntimeError("a defect")

    started(faulty(), running)
    answer.arrive(None)
    assert running == set()
    assert ["faulty: failed" in r.message for r in caplog.records] == [True]


def test_a_signal_in_the_middle_of_a_script_goes_on_to_the_loop(running):
    answer = BrokerAnswer[None]()

    async def script():
        await answer
        raise KeyboardInterrupt

    started(script(), running)
    with pytest.raises(KeyboardInterrupt):
        answer.arrive(None)
    assert running == set()


def test_a_script_that_closes_its_channel_when_it_is_closed_is_closed_once(running):
    answer, seen = BrokerAnswer[None](), []

    async def script():
        try:
            await answer
        finally:
            answer.abandon()
            seen.append("finally")

    started(script(), running).stop()
    assert (seen, running) == (["finally"], set())
