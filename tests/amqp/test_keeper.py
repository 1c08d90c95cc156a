"""A channel that is kept open: when it is opened, set up, reported and opened again."""

from __future__ import annotations

from typing import Any

import pytest

from amqp_rpc.amqp.channel import BrokerAnswer, ChannelClosed
from amqp_rpc.amqp.keeper import Keeper
from amqp_rpc.errors import AccessRefused, BrokerError
from amqp_rpc.message.refusals import ReplyCode
from tests.amqp.fake import FakeConnection


class Noted(Keeper):
    """Declares a queue, consumes it, and notes what happens."""

    def __init__(self, connection: FakeConnection) -> None:
        super().__init__("queue q")
        self.notes: list[Any] = []
        self.is_wanted = True
        self.begin(connection)

    async def set_up(self, channel):
        await channel.declare("q")
        await channel.consume("q", lambda _delivery: None, acknowledge=True, on_cancelled=self.cancelled)

    def ready(self):
        self.notes.append("ready")

    def closed(self, error, code):
        self.notes.append(("closed", code, str(error)))

    def lost(self, error):
        self.notes.append(("lost", str(error)))

    def wanted(self):
        return self.is_wanted


@pytest.fixture
def connection():
    return FakeConnection()


def opened(connection: FakeConnection) -> Noted:
    keeper = Noted(connection)
    keeper.on_open()
    return keeper


def test_it_opens_with_the_connection_and_is_there_once_it_is_set_up(connection):
    connection.hold("q")
    keeper = opened(connection)
    assert (keeper.channel, keeper.notes) == (None, [])
    connection.answer()
    assert (keeper.channel, keeper.notes) == (connection.channels[0], ["ready"])


def test_it_is_opened_once_however_often_it_is_asked_for(connection):
    connection.hold("q")
    keeper = opened(connection)
    keeper.open()
    keeper.on_open()
    connection.answer()
    keeper.open()
    assert len(connection.channels) == 1


def test_one_that_is_not_wanted_waits_until_it_is(connection):
    keeper = Noted(connection)
    keeper.is_wanted = False
    keeper.on_open()
    assert connection.channels == []
    keeper.open()
    assert keeper.channel is not None


def test_without_a_connection_it_opens_nothing_and_starts_with_the_next(connection):
    connection.lose()
    keeper = opened(connection)
    assert connection.channels == []
    connection.reopen()
    keeper.on_open()
    assert keeper.notes == ["ready"]


def test_a_channel_that_the_broker_closes_is_opened_again_after_a_pause(connection):
    keeper = opened(connection)
    connection.channels[0].closed_by_broker(ReplyCode.NOT_FOUND)
    assert keeper.notes == ["ready", ("closed", 404, "the broker closed the channel: 404")]
    assert (keeper.channel, len(connection.channels)) == (None, 1)
    connection.loop.pass_time()
    assert keeper.channel is connection.channels[1]
    assert keeper.notes[2:] == ["ready"]


def test_one_that_cannot_be_set_up_is_tried_again_and_reported_at_its_beginning_and_end(connection, caplog):
    connection.refuse("q", ReplyCode.NOT_FOUND)
    keeper = opened(connection)
    for _ in range(3):
        connection.loop.pass_time()
    connection.refuse("q", None)
    connection.loop.pass_time()
    assert keeper.notes == [("closed", 404, "the broker closed the channel: 404")] * 4 + ["ready"]
    assert [r.message[:60] for r in caplog.records] == [
        "queue q: the broker closed the channel: 404; trying again in",
        "queue q: works again",
    ]
    connection.loop.pass_time()
    assert caplog.records[-1].message == "queue q: has worked for 5 s; 4 times in 0 s"


def test_a_channel_that_cannot_be_had_is_as_one_that_the_broker_closes(connection, monkeypatch):
    full = BrokerAnswer()
    full.fail(ChannelClosed(AccessRefused("all channels are in use"), ReplyCode.NOT_ALLOWED))
    with monkeypatch.context() as patch:
        patch.setattr(connection, "open_channel", lambda: full)
        keeper = opened(connection)
    assert keeper.notes == [("closed", 530, "all channels are in use")]
    connection.loop.pass_time()
    assert keeper.notes[1:] == ["ready"]


def test_a_defect_ends_what_waits_with_itself_and_another_channel_is_opened(connection, caplog, monkeypatch):
    monkeypatch.setattr("amqp_rpc.amqp.keeper.where_signals_raise", lambda: False)
    keeper = Noted(connection)
    keeper.end_all = lambda error: keeper.notes.append(("ended", str(error)))
    with monkeypatch.context() as patch:
        patch.setattr(keeper, "ready", [].pop)
        keeper.on_open()
        for _ in range(3):
            connection.loop.pass_time()
    said = "queue q: failed, by a defect: IndexError: pop from empty list"
    assert keeper.notes == [("closed", 0, said), ("ended", said)] * 4
    assert [record.message for record in caplog.records if record.exc_info] == ["queue q: failed"]
    connection.loop.pass_time()
    assert keeper.notes[8:] == ["ready"]


def test_whatever_a_hook_raises_the_channel_is_opened_again(connection, monkeypatch):
    monkeypatch.setattr("amqp_rpc.amqp.channel.where_signals_raise", lambda: False)
    keeper = opened(connection)
    monkeypatch.setattr(keeper, "closed", lambda _error, _code: [].pop())
    connection.channels[-1].closed_by_broker()
    connection.loop.pass_time()
    assert keeper.channel is connection.channels[1]


def test_the_pauses_grow_and_begin_anew_once_it_has_worked_for_a_while(connection, monkeypatch):
    now = 1000.0
    monkeypatch.setattr("amqp_rpc.amqp.keeper.time.monotonic", lambda: now)
    keeper = opened(connection)
    for _ in range(3):
        connection.channels[-1].closed_by_broker()
        connection.loop.pass_time()
    assert keeper.closings == 3
    now += 60
    connection.channels[-1].closed_by_broker()
    assert keeper.closings == 1


def test_a_consumer_that_the_broker_cancels_means_another_channel(connection, caplog):
    keeper = opened(connection)
    connection.channels[0].cancel_consumers()
    assert keeper.notes[1:] == [("closed", 0, "consumer cancelled by the broker (was the queue deleted?)")]
    assert not connection.channels[0].is_open
    connection.loop.pass_time()
    assert keeper.channel is connection.channels[1]
    assert caplog.records[0].message.startswith("queue q: consumer cancelled by the broker")


def test_a_lost_connection_ends_the_set_up_and_the_next_one_begins_anew(connection):
    connection.hold("q")
    keeper = opened(connection)
    connection.lose()
    keeper.on_lost(BrokerError("gone"))
    assert (keeper.notes, connection.scripts) == ([("lost", "gone")], set())
    connection.answer()
    connection.reopen()
    keeper.on_open()
    connection.answer()
    assert keeper.notes == [("lost", "gone"), "ready"]
    assert keeper.channel is connection.channels[1]


def test_one_that_waits_to_be_opened_again_is_opened_once_by_a_new_connection(connection):
    keeper = opened(connection)
    connection.channels[0].closed_by_broker()
    connection.lose()
    keeper.on_lost(BrokerError("gone"))
    connection.reopen()
    keeper.on_open()
    connection.loop.pass_time()
    assert len(connection.channels) == 2


def test_one_that_is_closed_stays_closed(connection):
    keeper = opened(connection)
    keeper.close()
    keeper.on_open()
    assert (keeper.channel, connection.channels[0].is_open, len(connection.channels)) == (None, False, 1)


def test_one_that_is_closed_while_it_is_set_up_leaves_no_script_behind(connection):
    connection.hold("q")
    keeper = opened(connection)
    keeper.close()
    connection.answer()
    assert (keeper.notes, connection.scripts, connection.channels[0].is_open) == ([], set(), False)


def test_the_end_of_another_channel_that_the_set_up_needs_means_another_try(connection):
    class Probes(Noted):
        async def set_up(self, channel):  # noqa: ARG002
            with await self.connection.open_channel() as probe:
                await probe.inspect("q")

    connection.refuse("q", ReplyCode.NOT_FOUND)
    keeper = Probes(connection)
    keeper.on_open()
    assert keeper.notes == [("closed", 404, "the broker closed the channel: 404")]
    connection.refuse("q", None)
    connection.loop.pass_time()
    assert keeper.notes[1:] == ["ready"]
    assert [channel.is_open for channel in connection.channels] == [False, False, True, False]
