"""All that one put needs of the broker has to be there by one time: said of a broker that takes a second for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from amqp_rpc.amqp.publisher import Publication
from amqp_rpc.errors import AmqpRpcError, ConfigurationError, ConnectionLost, NotAllAccepted, PublishRefused
from amqp_rpc.queues import put
from amqp_rpc.queues.put import NEVER, Putting
from amqp_rpc.queues.unfinished import Unfinished


class Broker:
    """Is the caller and its receipts, and their clock: each answer takes a second."""

    here: str | None = None
    blocked = None

    def __init__(self) -> None:
        self.now = 1000.0
        #: Seconds that were given for each answer.
        self.given: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def identity(self) -> str:
        return "me"

    def unfinished(self, _putter: str) -> Unfinished:
        return Unfinished()

    @contextmanager
    def converse(self, seconds: float) -> Iterator[Any]:
        self._answer(seconds)
        yield SimpleNamespace(ask=lambda _step: None)

    def address(self, seconds: float) -> str:
        if self.here is None:
            self._answer(seconds)
        self.here = "amqp_rpc.receipts.me"
        return self.here

    def publish(self, publication: Publication) -> None:
        assert publication.timeout is not None
        self._answer(publication.timeout)

    def confirmed(self, _publication: Publication) -> None:
        """It is."""

    def ended(self) -> None:
        """Wake nobody."""

    def _answer(self, seconds: float) -> None:
        self.given.append(seconds)
        self.now += 1


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(put, "time", broker)
    return broker


@pytest.mark.parametrize(
    "put",
    [
        lambda putting, until: putting.put(1, wait=True, until=until),
        lambda putting, until: putting.put_many([1], until=until),
    ],
)
@pytest.mark.parametrize(
    ("timeout", "given"), [(5.0, [5.0, 4.0, 3.0]), (2.0, [2.0, 1.0, 0.001]), (None, [30.0, 29.0, 28.0])]
)
def test_the_first_put_has_one_deadline_for_all_that_it_needs(
    broker: Broker, put: Callable[[Putting, float], None], timeout: float | None, given: list[float]
) -> None:
    first: Any = broker
    one = Putting(first, first, "numbers", {}, maxsize=0, timeout=30.0, limit=1000)
    put(one, NEVER if timeout is None else broker.now + timeout)
    assert broker.given == given


def test_each_later_put_has_its_own_time(broker: Broker) -> None:
    first: Any = broker
    one = Putting(first, first, "numbers", {}, maxsize=0, timeout=30.0, limit=1000)
    one.put(1, wait=True, until=NEVER)
    one.put_many([2, 3], until=NEVER)
    assert broker.given == [30.0, 29.0, 28.0, 30.0, 30.0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigurationError])
def test_what_could_not_be_published_is_not_waited_for(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    first: Any = broker
    one = Putting(first, first, "numbers", {}, maxsize=0, timeout=30.0, limit=1000)
    published: list[Publication] = []

    def publish(publication: Publication) -> None:
        if published:
            raise error
        published.append(publication)

    monkeypatch.setattr(broker, "publish", publish)
    with pytest.raises(error) as raised:
        one.put_many([1, 2, 3], until=NEVER)
    assert raised.value.__notes__ == ["1 item was put into queue 'numbers' before"]
    assert len(one.unfinished) == 1
    with pytest.raises(error):
        one.put(4, wait=True, until=NEVER)
    assert len(one.unfinished) == 1


@pytest.mark.parametrize(("values", "errors"), [(range(10), range(3, 10)), (itertools.count(), [3])])
def test_when_the_time_is_over_nothing_more_is_sent(
    broker: Broker, values: Iterable[int], errors: Iterable[int]
) -> None:
    first: Any = broker
    one = Putting(first, first, "numbers", {}, maxsize=0, timeout=30.0, limit=1000)
    with pytest.raises(NotAllAccepted, match="number 3: it was not sent: the time was over") as raised:
        one.put_many(values, until=broker.now + 5)
    # Two seconds went to the first item's needs.
    assert broker.given == [5.0, 4.0, 3.0, 2.0, 1.0]
    assert list(raised.value.errors) == list(errors)
    assert {type(error) for error in raised.value.errors.values()} == {PublishRefused}
    assert not raised.value.may_have_run
    assert ("after number 3 was not read" in str(raised.value)) == (values != range(10))
    assert len(one.unfinished) == 3


def refused_with(monkeypatch: pytest.MonkeyPatch, broker: Broker, error: AmqpRpcError) -> None:
    def confirmed(publication: Publication) -> None:
        publication.refused = True
        raise error

    monkeypatch.setattr(broker, "confirmed", confirmed)


def test_who_waits_for_room_hears_that_the_object_is_closed(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    first: Any = broker
    one = Putting(first, first, "numbers", {}, maxsize=1, timeout=30.0, limit=1000)
    refused_with(monkeypatch, broker, PublishRefused("it is full"))
    monkeypatch.setattr(broker, "sleep", lambda _seconds: setattr(one, "closed", True), raising=False)
    with pytest.raises(ConfigurationError, match="is closed"):
        one.put(1, wait=True, until=NEVER)
    assert len(one.unfinished) == 0


def test_a_refused_item_that_may_be_there_from_before_is_said_to_be(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: Any = broker
    one = Putting(first, first, "numbers", {}, maxsize=1, timeout=30.0, limit=1000)
    refused_with(monkeypatch, broker, ConnectionLost("test"))
    with pytest.raises(ConnectionLost, match=r"refused an item of queue 'numbers' that was sent before.* may be there"):
        one.put(1, wait=True, until=NEVER)
