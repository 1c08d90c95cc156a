"""Confirmed publishing on a fake connection: how each message ends, and when it is sent again."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.publisher import Publication, Publisher, _is_about
from amqp_rpc.errors import (
    AccessRefused,
    AmqpRpcError,
    BrokerError,
    ConfigurationError,
    ConnectionLost,
    DeclaredOtherwise,
    MessageTooLarge,
    NotConnected,
    PublishRefused,
)
from amqp_rpc.message import topology
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.exchanges import Exchange
from amqp_rpc.message.refusals import ReplyCode
from amqp_rpc.message.settings import broker_addresses
from tests.amqp.fake import FakeChannel, FakeConnection


class Guessed(Publication):
    guessed = True


class Once(Publication):
    once = True


class Replied(Publication):
    replied = True

    def addressed(self, reply_queue):
        self.message.properties.reply_to = reply_queue


class Place:
    """A publisher over a fake connection, and its notes."""

    def __init__(self, connection: FakeConnection) -> None:
        self.connection = connection
        self.publisher = Publisher(broker_addresses("amqp://localhost"))
        self.publisher.begin(cast("Connection", connection))
        self._numbers = 0

    def send(
        self,
        queue: str = "q",
        arguments: dict[str, Any] | None = None,
        *,
        kind: type[Publication] = Publication,
        delay: int = 0,
        exchange: Exchange | None = None,
        timeout: float | None = 30.0,
        body: bytes = b"",
    ) -> Publication:
        self._numbers += 1
        properties = Properties(message_id=str(self._numbers), type="resize")
        message = Message(queue, properties, body, delay, exchange)
        publication = kind(message, {} if arguments is None else arguments, timeout=timeout)
        self.publisher.add(publication)
        self.publisher.send(publication)
        return publication

    @property
    def channel(self) -> FakeChannel:
        """The channel with confirms, the newest one."""
        return [each for each in self.connection.channels if ("confirms", "") in each.requests][-1]

    @property
    def declaring(self) -> FakeChannel:
        return [each for each in self.connection.channels if each.queues or each.exchanges][-1]

    def lose(self) -> None:
        self.connection.lose()
        self.publisher.on_lost(BrokerError("gone"))

    def reconnect(self) -> None:
        self.connection.reopen()
        self.publisher.on_open()


@pytest.fixture
def place():
    return Place(FakeConnection())


def sent(place: Place) -> list[str]:
    return [message.routing_key for message in place.channel.published]


def error(publication: Publication) -> AmqpRpcError:
    assert publication.done()
    assert publication.value is not None
    return publication.value


def test_a_message_is_published_once_its_queue_is_declared_and_ends_with_its_confirm(place):
    place.connection.hold("q")
    publication = place.send(arguments={"x-max-length": 5})
    assert sent(place) == []
    place.connection.answer()
    assert (sent(place), place.declaring.queues) == (["q"], ["q"])
    assert not publication.done()
    place.channel.confirm()
    assert (publication.done(), publication.value) == (True, None)


def test_the_dead_letter_queue_is_declared_where_there_is_none():
    place = Place(FakeConnection(there={"q"}))
    place.send()
    assert place.declaring.queues == ["q", "q.dead"]


def test_messages_that_wait_for_one_queue_are_published_in_their_order(place):
    place.connection.hold("q")
    publications = [place.send() for _ in range(10_000)]
    place.connection.answer()
    assert [message.properties.message_id for message in place.channel.published] == [
        publication.identity for publication in publications
    ]
    assert place.declaring.queues == ["q"]


def test_messages_for_another_queue_are_published_when_that_one_is_there(place):
    for queue in ("a", "b"):
        place.connection.hold(queue)
    for queue in ("a", "a", "b", "a", "b"):
        place.send(queue)
    place.connection.answer(1)
    assert (sent(place), place.declaring.queues) == (["a", "a", "a"], ["a", "b"])
    place.connection.answer()
    assert (sent(place), place.declaring.queues) == (["a", "a", "a", "b", "b"], ["a", "b"])


def test_a_refused_queue_ends_its_messages_and_holds_up_no_other_queue(place):
    place.connection.arguments["a"] = {"x-max-length": 1}
    place.connection.hold("a")
    refused, other = place.send("a"), place.send("b")
    place.connection.answer()
    assert isinstance(error(refused), ConfigurationError)
    assert sent(place) == ["b"]
    assert not other.done()


def test_a_name_that_amqp_cannot_carry_ends_its_message_and_holds_up_no_other(place, monkeypatch):
    monkeypatch.setattr("amqp_rpc.amqp.publisher.where_signals_raise", lambda: False)
    declare = FakeChannel.declare

    def picky(self, queue, *args, **options):
        if queue == "bad":
            raise ValueError("too long")
        return declare(self, queue, *args, **options)

    monkeypatch.setattr(FakeChannel, "declare", picky)
    place.connection.hold("first")
    place.send("first")
    bad = place.send("bad")
    place.send("last")
    place.connection.answer()
    assert isinstance(error(bad), ConfigurationError)
    assert sent(place) == ["first", "last"]


def test_a_queue_whose_node_is_away_is_tried_again(place):
    place.connection.refuse("q", ReplyCode.NOT_FOUND)
    publication = place.send()
    assert not publication.done()
    place.connection.refuse("q", None)
    place.connection.loop.pass_time()
    place.channel.confirm()
    assert publication.value is None


def test_no_permission_for_a_queue_that_is_not_there_ends_its_messages():
    place = Place(FakeConnection(there=set()))
    place.connection.refuse("q", ReplyCode.ACCESS_REFUSED)
    assert isinstance(error(place.send()), AccessRefused)


def test_a_queue_that_is_there_needs_no_right_to_configure_it(place):
    for name in ("q", topology.arrivals_queue("q")):
        place.connection.refuse(name, ReplyCode.ACCESS_REFUSED)
    sent = [place.send(arguments={}), place.send(arguments={}), place.send(arguments={}, delay=1)]
    for _ in sent:
        place.channel.confirm()
    assert [each.value for each in sent] == [None] * 3
    assert [queue for channel in place.connection.channels for queue in channel.queues].count("q") == 1


def test_a_reply_queue_is_asked_for_by_the_first_message_that_wants_a_reply(place):
    asked = []
    place.publisher.on_replied = lambda: asked.append(len(place.channel.published))
    place.send()
    assert asked == []
    place.send(kind=Replied)
    assert asked == [1]


def test_a_delayed_message_needs_the_delay_queues_and_a_later_one_finds_them():
    place = Place(FakeConnection(there=set()))
    place.send("a", delay=1)
    place.send("b", delay=2)
    queues = place.declaring.queues
    assert [queues.count(topology.delay(level)) for level in range(topology.LEVELS)] == [1] * topology.LEVELS
    assert {"a", "b", topology.arrivals_queue("a"), topology.arrivals_queue("b")} <= set(queues)
    assert sent(place) == ["a", "b"]


def test_an_undelayed_message_does_not_stand_for_a_delayed_one_behind_it(place):
    place.connection.hold("q")
    place.send()
    place.send(delay=1)
    place.connection.answer()
    assert [message.delay for message in place.channel.published] == [0, 1]
    assert topology.arrivals_queue("q") in place.declaring.queues


def test_an_event_needs_its_exchange_and_the_default_one_nothing(place):
    place.send("topic", exchange=Exchange("logs"))
    place.send("q", exchange=Exchange("", kind="direct"))
    assert place.declaring.exchanges == ["logs"]
    assert sent(place) == ["topic", "q"]


def test_a_nack_of_a_queue_without_a_bound_means_another_try(place):
    publication = place.send()
    place.channel.nack()
    assert not publication.done()
    place.connection.loop.pass_time()
    place.channel.confirm()
    assert (publication.done(), publication.value) == (True, None)


def test_a_nack_of_a_full_queue_is_final(place):
    publication = place.send(arguments={"x-max-length": 1})
    place.channel.nack()
    assert isinstance(error(publication), PublishRefused)
    assert not error(publication).may_have_run
    assert publication.refused


def test_a_nack_may_be_of_the_second_copy_where_the_first_was_not_confirmed(place):
    publication = place.send(arguments={"x-max-length": 1})
    place.lose()
    place.reconnect()
    place.channel.nack()
    assert isinstance(error(publication), ConnectionLost)
    assert error(publication).may_have_run


@pytest.mark.parametrize("guessed_before", [False, True])
def test_a_queue_whose_arguments_are_not_known_may_have_a_bound(place, guessed_before):
    guess = {"x-queue-type": "quorum"}
    place.connection.arguments["q"] = {"x-max-length": 1}
    publication = place.send(arguments=guess, kind=Guessed)
    if guessed_before:
        # The second one finds it declared, and has the same guess.
        place.channel.confirm()
        publication = place.send(arguments=guess, kind=Guessed)
    place.channel.nack()
    assert isinstance(error(publication), PublishRefused)


def test_a_returned_message_is_published_again_after_its_queue_was_declared_again(place):
    publication = place.send()
    place.channel.give_back(publication.message)
    place.channel.confirm()
    assert not publication.done()
    assert place.declaring.queues == ["q", "q"]
    place.channel.confirm()
    assert publication.value is None


def test_a_return_without_a_known_id_means_all_messages_with_that_key_and_foreign_ids(place):
    own, foreign, other = place.send("q"), place.send("q"), place.send("other")
    place.publisher.drop(foreign)
    foreign.identity = "delivery 7"
    place.publisher.add(foreign)
    place.channel.give_back(Message("q", Properties(), b""))
    assert (own.returned, foreign.returned, other.returned) == (False, True, False)


def copy_of(place: Place, identity: str | None) -> Publication:
    """A publication of another program's message, as a server's copies are: its id in the table is our own."""
    publication = place.send("q")
    place.publisher.drop(publication)
    publication.identity = f"delivery {id(publication)}"
    publication.message.properties.message_id = identity
    place.publisher.add(publication)
    return publication


def test_a_return_means_the_copies_with_its_id_and_not_the_others_of_its_queue(place):
    first, second, nameless = copy_of(place, "1"), copy_of(place, "2"), copy_of(place, None)
    place.channel.give_back(second.message)
    assert (first.returned, second.returned, nameless.returned) == (False, True, False)
    place.channel.confirm()
    assert (first.done(), second.done()) == (True, False)
    place.channel.confirm()
    place.channel.confirm()
    assert place.channel.published[3:] == [second.message]
    place.channel.confirm()
    assert [each.value for each in (first, second, nameless)] == [None] * 3


def test_after_a_lost_connection_unconfirmed_messages_are_published_again_in_their_order(place):
    publications = [place.send() for _ in range(3)]
    place.channel.confirm()
    place.lose()
    place.reconnect()
    assert [message.properties.message_id for message in place.channel.published] == ["2", "3"]
    place.channel.confirm()
    place.channel.confirm()
    assert [publication.value for publication in publications] == [None] * 3


def test_messages_that_wait_for_a_declaration_survive_a_lost_connection_and_nothing_dangles(place):
    place.connection.hold("q")
    place.send()
    place.lose()
    assert place.connection.scripts == set()
    place.connection.answer()
    place.reconnect()
    place.connection.answer()
    assert sent(place) == ["q"]


def test_one_that_must_not_be_sent_twice_ends_with_the_connection(place):
    publication = place.send(kind=Once)
    place.lose()
    assert isinstance(error(publication), ConnectionLost)


def test_one_that_was_not_written_may_be_sent_over_the_next_connection_once(place):
    place.connection.blocked = "memory"
    publication = place.send(kind=Once)
    place.lose()
    place.connection.blocked = None
    place.reconnect()
    place.channel.confirm()
    assert publication.value is None


def test_a_first_connection_that_fails_ends_all(place):
    place.connection.is_open = place.connection.was_open = False
    publication = place.send()
    place.publisher.on_lost(NotConnected("no broker there"))
    assert isinstance(error(publication), NotConnected)


def test_a_closed_channel_means_another_one_and_the_messages_are_published_again(place):
    publication = place.send()
    place.channel.closed_by_broker(ReplyCode.NOT_FOUND)
    place.connection.loop.pass_time()
    place.channel.confirm()
    assert (publication.done(), publication.value) == (True, None)


def test_no_permission_for_an_exchange_ends_its_messages_and_the_others_go_on(place):
    refused = place.send("topic", exchange=Exchange("logs"))
    other = place.send()
    place.channel.closed_by_broker(
        ReplyCode.ACCESS_REFUSED, AccessRefused("write access to exchange 'logs' in vhost '/' refused for user 'ann'")
    )
    assert isinstance(error(refused), AccessRefused)
    place.connection.loop.pass_time()
    place.channel.confirm()
    assert other.value is None


def test_while_the_broker_takes_no_messages_they_wait(place):
    place.send()
    place.channel.confirm()
    place.connection.blocked = "memory"
    publication = place.send()
    assert len(place.channel.published) == 1
    place.connection.blocked = None
    place.publisher.on_unblocked()
    assert place.channel.published[1:] == [publication.message]


def test_a_message_with_a_reply_address_waits_for_the_reply_queue_and_others_do_not(place):
    publication = place.send("a", kind=Replied)
    place.send("b")
    assert sent(place) == ["b"]
    place.publisher.reply_queue = "amq.gen-1"
    place.publisher.send_unsent()
    assert sent(place) == ["b", "a"]
    assert publication.message.properties.reply_to == "amq.gen-1"


def test_a_message_that_amqp_cannot_carry_ends_with_an_error_that_says_so(place):
    place.send("q")
    place.channel.unwritable["topic"] = TypeError("no such type")
    publication = place.send("topic", exchange=Exchange("", kind="direct"))
    assert isinstance(error(publication), ConfigurationError)
    assert "AMQP can't carry: TypeError('no such type')" in str(error(publication))


def test_one_that_is_obsolete_when_it_could_be_written_is_not_written(place):
    class Obsolete(Publication):
        def is_obsolete(self):
            return True

    publication = place.send(kind=Obsolete)
    assert (publication.done(), publication.value, sent(place)) == (True, None, [])


def test_one_without_a_time_limit_never_expires(place):
    publication = place.send(timeout=None)
    assert place.connection.loop.later == []
    place.lose()
    place.reconnect()
    assert not publication.done()


def test_one_whose_time_is_over_ends_in_the_background(place, monkeypatch):
    publication = place.send(timeout=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: publication.expires_at + 1)
    place.connection.loop.pass_time()
    assert isinstance(error(publication), ConnectionLost)


def held_back(place: Place) -> Publication:
    """A publication that could be written from now on; its queue was declared before."""
    place.send()
    place.channel.confirm()
    place.connection.blocked = "memory"
    publication = place.send()
    place.connection.blocked = None
    assert len(place.channel.published) == 1
    return publication


def test_one_that_is_reported_as_unsent_is_not_written_meanwhile(place, monkeypatch):
    publication = held_back(place)
    too_late = place.publisher.too_late

    def slow(publication):
        said = too_late(publication)
        # By the I/O thread, in the middle of it.
        place.publisher.send_unsent()
        return said

    monkeypatch.setattr(place.publisher, "too_late", slow)
    place.publisher.expire(publication)
    assert isinstance(error(publication), PublishRefused)
    assert len(place.channel.published) == 1


def test_one_that_was_written_when_its_time_is_over_may_be_there(place):
    publication = held_back(place)
    place.publisher.send_unsent()
    place.publisher.expire(publication)
    assert len(place.channel.published) == 2
    assert isinstance(error(publication), ConnectionLost)


@pytest.mark.parametrize(
    ("prepare", "expected", "words"),
    [
        (lambda place: setattr(place.connection, "blocked", "memory"), PublishRefused, r"takes no messages \(memory\)"),
        (lambda place: place.connection.hold("q"), PublishRefused, "its queue was still being declared"),
        (lambda place: place.connection.lose(), NotConnected, "no connection to .*localhost"),
    ],
)
def test_an_unsent_message_ends_with_the_reason(place, prepare, expected, words):
    prepare(place)
    publication = place.send()
    place.publisher.expire(publication)
    assert type(error(publication)) is expected
    with pytest.raises(expected, match=f"a message for queue 'q' was not published within 30 s: .*{words}"):
        raise error(publication)


TOO_LARGE = (
    "the broker closed the channel: 406 PRECONDITION_FAILED - message size 30 is larger than configured max size 20"
)


def test_a_message_that_the_broker_is_not_known_to_take_waits_for_the_proof_and_those_behind_it_wait_too(place):
    place.send(body=b"small")
    place.channel.confirm()
    large = place.send(body=b"x" * 50_000)
    behind, another = place.send(body=b"behind"), place.send("other", body=b"another")
    assert [message.body for message in place.channel.published[1:]] == []
    place.connection.loop.pass_time()
    assert [len(message.body) for message in place.channel.published[1:]] == [50_000, 6, 7]
    for _ in range(3):
        place.channel.confirm()
    assert [each.value for each in (large, behind, another)] == [None] * 3


def test_a_message_that_the_broker_does_not_take_is_refused_with_both_numbers_and_the_others_go_on_once(place):
    place.connection.limit = 40_000
    large = place.send(body=b"x" * 50_000)
    behind = place.send(body=b"behind")
    place.connection.loop.pass_time()
    assert type(error(large)) is MessageTooLarge
    assert str(error(large)) == (
        "a message for queue 'q' was not published: its body has 50000 bytes, and the broker's limit is 40000 "
        "(max_message_size in rabbitmq.conf). It was not published"
    )
    assert not error(large).may_have_run
    place.channel.confirm()
    assert [message.body for message in place.channel.published] == [b"behind"]
    assert behind.value is None


def test_where_the_broker_closes_the_channel_all_the_same_only_those_above_its_limit_end(place):
    before, large, behind = (place.send(body=b"x" * size) for size in (20, 30, 2))
    place.channel.closed_by_broker(ReplyCode.PRECONDITION_FAILED, BrokerError(TOO_LARGE))
    assert type(error(large)) is MessageTooLarge
    assert "30 bytes, and the broker's limit is 20 " in str(error(large))
    place.connection.loop.pass_time()
    assert [len(message.body) for message in place.channel.published] == [20, 2]
    again = place.send(body=b"x" * 21)
    assert type(error(again)) is MessageTooLarge
    place.channel.confirm()
    place.channel.confirm()
    assert (before.value, behind.value) == (None, None)


def test_what_was_written_behind_a_message_that_is_too_large_is_surely_not_there_and_what_was_before_may_be(place):
    before, large, behind = (place.send(body=b"x" * size) for size in (20, 30, 2))
    last = place.send(body=b"x", kind=Once)
    place.channel.closed_by_broker(ReplyCode.PRECONDITION_FAILED, BrokerError(TOO_LARGE))
    place.connection.loop.pass_time()
    assert [len(message.body) for message in place.channel.published] == [20, 2, 1]
    assert [each.doubtful for each in (before, behind, last)] == [True, False, False]
    assert type(error(large)) is MessageTooLarge


def test_one_that_must_not_be_there_twice_and_was_written_before_a_message_that_is_too_large_ends(place):
    before, large = place.send(body=b"x", kind=Once), place.send(body=b"x" * 30)
    place.channel.closed_by_broker(ReplyCode.PRECONDITION_FAILED, BrokerError(TOO_LARGE))
    place.connection.loop.pass_time()
    assert (type(error(before)), type(error(large))) == (ConnectionLost, MessageTooLarge)
    assert len([each for each in place.connection.channels if each.published]) == 1


def test_a_limit_on_queues_is_an_error_at_once_and_no_other_arguments(place):
    said = "406 PRECONDITION_FAILED - queue limit in vhost '/' (45) is reached"
    place.connection.hold("q")
    publication = place.send()
    place.declaring.closed_by_broker(ReplyCode.PRECONDITION_FAILED, AccessRefused(said))
    assert type(error(publication)) is AccessRefused
    assert str(error(publication)) == f"a message for queue 'q' was not published: {said}. It was not published"


def test_arguments_that_no_queue_may_have_are_not_said_to_be_another_queue_s(place):
    place.connection.hold("q")
    publication = place.send()
    said = "406 PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q'"
    place.declaring.closed_by_broker(ReplyCode.PRECONDITION_FAILED, BrokerError(said))
    assert type(error(publication)) is DeclaredOtherwise
    assert "exists" not in str(error(publication))


def test_the_reason_why_a_queue_could_not_be_declared_is_in_the_error_of_its_time(place):
    place.connection.refuse("q", ReplyCode.NOT_FOUND)
    publication = place.send()
    place.publisher.expire(publication)
    assert "its queue could not be declared: the broker closed the channel: 404" in str(error(publication))


def test_of_several_messages_that_a_refusal_may_mean_those_that_were_written_may_be_there(place):
    several = [place.send(), place.send()]
    place.channel.closed_by_broker(ReplyCode.ACCESS_REFUSED, AccessRefused(NAMELESS))
    assert [type(error(each)) for each in several] == [ConnectionLost] * 2
    assert NAMELESS in str(error(several[0]))
    place.connection.loop.pass_time()
    alone = place.send()
    place.channel.closed_by_broker(ReplyCode.ACCESS_REFUSED, AccessRefused(NAMELESS))
    assert (type(error(alone)), error(alone).may_have_run) == (AccessRefused, False)


LOGS = "ACCESS_REFUSED - write access to exchange 'logs' in vhost '/' refused for user 'ann'"
NAMELESS = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'ann'"
A_TOPIC = "ACCESS_REFUSED - write access to topic 'a.b' in exchange 'logs' in vhost '/' refused for user 'ann'"


@pytest.mark.parametrize(
    ("reason", "message", "expected"),
    [
        (LOGS, Message("a", Properties(), b"", exchange=Exchange("logs")), True),
        (LOGS, Message("a", Properties(), b"", exchange=Exchange("log")), False),
        (LOGS, Message("logs", Properties(), b""), False),
        (NAMELESS, Message("logs", Properties(), b""), True),
        (NAMELESS, Message("logs", Properties(), b"", delay=4), False),
        (LOGS.replace("logs", "amqp_rpc.delay.02"), Message("logs", Properties(), b"", delay=4), True),
        (A_TOPIC, Message("a.b", Properties(), b"", exchange=Exchange("logs")), True),
        (A_TOPIC, Message("a.c", Properties(), b"", exchange=Exchange("logs")), False),
    ],
)
def test_a_refusal_is_about_the_exchange_and_the_topic_that_it_names(
    reason: str, message: Message, expected: bool
) -> None:
    assert _is_about(reason, message) is expected
