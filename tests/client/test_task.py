"""How tasks are enqueued: many at once, with priorities, once for a key, into full queues, and from asyncio."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from amqp_rpc import (
    AlreadyQueued,
    AsyncClient,
    AsyncTaskHandle,
    CallTimeout,
    Client,
    ConfigurationError,
    MessageTooLarge,
    NotAllAccepted,
    PublishRefused,
    RemoteError,
    Server,
    Service,
    TaskHandle,
)
from amqp_rpc.broker.node import Node
from amqp_rpc.service.policy import Policy
from tests.served_by import Raw, noting
from tests.waiting import until

Serve = Callable[..., Server]


def doubling(service: Service, queue: str, **options: Any) -> Callable[[int], int]:
    @service.task(queue=queue, **options)
    def double(n: int) -> int:
        return 2 * n

    return double


def test_a_function_of_several_queues_is_enqueued_to_the_one_that_is_named(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    urgent = f"{queue}_urgent"

    @service.task(queue=[queue, urgent], max_length=100)
    def double(n: int) -> int:
        return 2 * n

    waiting = client.enqueue(double, 1)
    hurried = client.enqueue(double, 2, queue=urgent)  # type: ignore[call-arg]
    assert (waiting.queue, hurried.queue) == (queue, urgent)
    serve(service, queues=urgent)
    assert hurried.result() == 4
    assert waiting.state == "PENDING"
    serve(service, queues=queue)
    assert waiting.result() == 2


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "amqp_rpc.client.task"]


def test_a_name_that_leads_to_a_queue_without_a_server_is_warned_of_once_with_the_queue_that_has_the_task(
    client: Client, service: Service, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    @service.task(queue=queue, name=f"fetch_{queue}")
    def fetch(address: str) -> None: ...

    name = f"{service.name}.fetch_{queue}"
    task = client.enqueue(name, "x")
    client.enqueue(name, "y")
    client.enqueue_many(name, [("z",)])
    made = f"task_queue.{service.name}"
    (warned,) = warnings(caplog)
    assert warned.startswith(f"queue {made}: no server has ever served it; tasks of fetch_{queue}() wait there")
    assert warned.endswith(f"This program knows fetch_{queue}() in queue '{queue}': give it queue=")
    with pytest.raises(CallTimeout) as raised:
        task.result(timeout=0.01)
    assert f"queue '{made}' has no consumers, and 3 messages wait in it" in str(raised.value)
    assert f"in queue '{queue}'" in str(raised.value)
    assert "goes on" not in str(raised.value)


def test_a_name_that_no_program_here_knows_is_warned_of_with_queues_of_such_names(
    client: Client, service: Service, queue: str, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    raw.channel.queue_declare(f"{service.name}", durable=True)
    client.enqueue(f"{service.name}.{queue}", 1)
    (warned,) = warnings(caplog)
    assert re.search(rf"Queues with such names: .*'{service.name}'", warned)
    raw.channel.queue_delete(f"{service.name}")


def test_a_name_that_leads_to_a_served_queue_is_not_warned_of(
    client: Client, serve: Serve, service: Service, queue: str, raw: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    doubling(service, queue)
    serve(service).stop()
    client.enqueue("double", 1, queue=queue)
    # Another program's worker serves a queue of its own.
    raw.channel.queue_declare(f"{queue}_foreign", durable=True, auto_delete=True)
    raw.channel.basic_consume(f"{queue}_foreign", lambda *_: None)
    client.enqueue("double", 1, queue=f"{queue}_foreign")
    assert warnings(caplog) == []


def test_a_task_without_a_result_is_told_of_by_what_is_known(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    go_on = threading.Event()

    @service.task(queue=queue)
    def wait() -> None:
        go_on.wait(30)

    task = client.enqueue(wait)
    with pytest.raises(
        CallTimeout, match=rf"no result .* 0.01 s: queue '{queue}' has no consumers, and 1 message waits"
    ):
        task.result(timeout=0.01)
    serve(service)
    until(lambda: client.queue_states([queue])[queue].messages == 0)  # type: ignore[union-attr]
    with pytest.raises(CallTimeout, match=rf"queue '{queue}' has 1 consumer, and 0 messages wait in it"):
        task.result(timeout=0.01)
    go_on.set()
    task.result()


@pytest.mark.parametrize("handle", [TaskHandle, AsyncTaskHandle])
def test_a_result_is_waited_for_longer_than_the_default_retries_take(handle: type[Any]) -> None:
    policy = Policy("any")
    longest = max(sum(policy.delay(attempt + 1) for attempt in range(policy.retries)) for _ in range(200))
    assert longest < inspect.signature(handle.result).parameters["timeout"].default


def test_many_tasks_are_enqueued_at_once_and_their_handles_are_in_order(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    double = doubling(service, queue)
    handles = client.enqueue_many(double, ((n,) if n % 2 else {"n": n} for n in range(3000)))
    assert len(handles) == 3000
    serve(service)
    assert [handle.result(timeout=30) for handle in handles] == [2 * n for n in range(3000)]


def test_what_the_broker_does_not_take_of_many_is_named_and_the_rest_runs(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    double = doubling(service, queue, queue_type="classic", max_length=10)
    with pytest.raises(NotAllAccepted, match=r"tasks of double\(\) were not accepted; the others will run") as raised:
        client.enqueue_many(double, [(n,) for n in range(30)])
    refused = raised.value.errors
    assert all(isinstance(error, PublishRefused) for error in refused.values())
    assert 20 <= len(refused) < 30
    assert not raised.value.may_have_run
    accepted = {n: handle for n, handle in enumerate(raised.value.handles) if handle is not None}
    assert set(accepted) | set(refused) == set(range(30))
    assert not set(accepted) & set(refused)
    serve(service)
    assert {n: handle.result(timeout=20) for n, handle in accepted.items()} == {n: 2 * n for n in accepted}


def test_an_argument_that_cannot_be_sent_is_named_and_the_rest_is_accepted(
    url: str, serve: Serve, service: Service, queue: str
) -> None:
    doubling(service, queue)
    with Client(url, max_message_size=1000) as client:
        with pytest.raises(
            NotAllAccepted, match=r"^1 of 3 tasks of double\(\) was not accepted; .* number 1: "
        ) as raised:
            client.enqueue_many("double", [(1,), ("x" * 2000,), (3,)], queue=queue)
        assert isinstance(raised.value.errors[1], MessageTooLarge)
        serve(service)
        assert [handle and handle.result(timeout=20) for handle in raised.value.handles] == [2, None, 6]


def test_what_was_enqueued_before_the_arguments_failed_is_said_and_runs(
    client: Client, serve: Serve, queue: str
) -> None:
    service, work, ran = noting(queue)

    def arguments() -> Iterator[tuple[int]]:
        yield from [(1,), (2,)]
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="the file ends here") as raised:
        client.enqueue_many(work, arguments())
    assert raised.value.__notes__ == ["2 tasks were enqueued before, for work(), and will run"]
    serve(service)
    until(lambda: sorted(ran) == [1, 2])


def test_one_argument_alone_is_refused_before_it_is_taken_apart(client: Client, service: Service, queue: str) -> None:
    with pytest.raises(ConfigurationError, match=r"one argument is \(x,\)"):
        client.enqueue_many(doubling(service, queue), [5])  # type: ignore[list-item]


def test_a_full_queue_takes_no_more_and_says_so(client: Client, service: Service, queue: str) -> None:
    double = doubling(service, queue, queue_type="classic", max_length=2)
    client.enqueue(double, 1)
    client.enqueue(double, 2)
    with pytest.raises(PublishRefused, match=f"queue '{queue}' takes no more"):
        client.enqueue(double, 3)


def test_a_quorum_queue_takes_some_more_than_its_bound_and_refuses_in_the_end_what_is_not_delayed(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    double = doubling(service, queue, max_length=3)
    accepted: list[TaskHandle[int]] = []

    def fill() -> None:
        for n in range(1000):
            accepted.append(client.enqueue(double, n))  # noqa: PERF401 - it ends with an error

    with pytest.raises(PublishRefused, match=f"queue '{queue}' takes no more") as raised:
        fill()
    assert not raised.value.may_have_run
    # A soft bound: so much for one at a time (https://www.rabbitmq.com/docs/quorum-queues#limitations).
    assert 3 <= len(accepted) < 100
    # A delayed task is accepted all the same: it waits elsewhere.
    client.enqueue(double, 1, delay=0.1)
    serve(service)
    assert [handle.result(timeout=20) for handle in accepted] == [2 * n for n in range(len(accepted))]
    assert client.enqueue(double, 21).result(timeout=20) == 42


def test_tasks_of_a_higher_priority_are_taken_first(client: Client, serve: Serve, service: Service, queue: str) -> None:
    ran: list[int] = []

    @service.task(queue=queue, queue_type="classic", max_priority=9, priority=3)
    def work(n: int) -> None:
        ran.append(n)

    client.enqueue(work, 3)
    client.enqueue(work, 1, priority=1)
    client.enqueue(work, 9, priority=9)
    client.enqueue(work, 5, priority=5)
    # One at a time: otherwise the last would run beside the first.
    serve(service, threads=1)
    until(lambda: len(ran) == 4)
    assert ran == [9, 5, 3, 1]


def test_a_quorum_queue_knows_the_priorities_that_its_version_has(client: Client, serve: Serve, queue: str) -> None:
    service, work, ran = noting(queue)
    order = [1, 3, 5, 9]
    for n in order:
        client.enqueue(work, n, priority=n)
    connection = client._session.connection
    assert connection is not None
    serve(service, threads=1)
    until(lambda: len(ran) == 4)
    if connection.version >= (4, 3):
        assert ran == order[::-1]
    else:
        # Two levels, and none in RabbitMQ 3.
        assert ran == ([5, 9, 1, 3] if connection.version >= (4, 0) else order)


@pytest.mark.parametrize("priority", [-1, 10, True, "high"])
def test_a_priority_that_amqp_does_not_have_is_refused(client: Client, priority: Any) -> None:
    with pytest.raises(ConfigurationError, match="a priority is a whole number from 0 to 9"):
        client.enqueue("work", priority=priority)


def test_a_key_is_queued_once_until_its_time_is_over(
    client: Client, serve: Serve, service: Service, queue: str
) -> None:
    double = doubling(service, queue)
    first = client.enqueue(double, 1, unique_for=1.0)
    with pytest.raises(AlreadyQueued, match=r"double\(\) was not enqueued: one with the same key was") as raised:
        client.enqueue(double, 1, unique_for=1.0)
    assert not raised.value.may_have_run
    # Other arguments, another key, or none at all, are others.
    others = [
        client.enqueue(double, 2, unique_for=1.0),
        client.enqueue(double, 1, unique_for=1.0, unique_key="mine"),
        client.enqueue(double, 1),
    ]
    with pytest.raises(AlreadyQueued):
        client.enqueue(double, 5, unique_for=1.0, unique_key="mine")

    def again() -> Any:
        try:
            return client.enqueue(double, 1, unique_for=1.0)
        except AlreadyQueued:
            return None

    later = until(again)
    serve(service)
    assert [handle.result(timeout=20) for handle in [first, *others, later]] == [2, 4, 2, 2, 2]


def test_a_key_does_not_depend_on_the_order_of_named_arguments(client: Client, queue: str) -> None:
    client.enqueue("work", a=1, b=2, queue=queue, unique_for=60.0)
    with pytest.raises(AlreadyQueued):
        client.enqueue("work", b=2, a=1, queue=queue, unique_for=60.0)
    client.enqueue("work", a=2, b=1, queue=queue, unique_for=60.0)


@pytest.mark.parametrize(
    "times",
    [{"delay": 60.0, "expires": 59.9}, {"delay": 0.2, "expires": 0.1}, {"eta": datetime(2999, 1, 1, tzinfo=UTC)}],
)
def test_a_task_that_would_expire_before_a_worker_may_take_it_is_refused(client: Client, times: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="it would never run, only become a dead letter"):
        client.enqueue("work", **{"expires": 3600.0, **times})
    with pytest.raises(ConfigurationError, match="it would never run, only become a dead letter"):
        client.enqueue_many("work", [()], **{"expires": 3600.0, **times})


def test_times_are_timedeltas_and_moments_too(client: Client, serve: Serve, service: Service, queue: str) -> None:
    double = doubling(service, queue, backoff=(timedelta(0), timedelta(0)), time_limit=timedelta(minutes=1))
    serve(service)
    soon = client.with_options(
        delay=timedelta(milliseconds=100), timeout=timedelta(seconds=20), unique_for=timedelta(1)
    )
    assert soon.enqueue(double, 1).result(timeout=timedelta(seconds=20)) == 2
    with pytest.raises(AlreadyQueued, match="less than 86400 s ago"):
        soon.enqueue(double, 1)
    until_tomorrow = client.with_options(expires=datetime.now(UTC) + timedelta(days=1))
    assert until_tomorrow.enqueue(double, 2).result() == 4
    handles = client.enqueue_many(double, [(3,)], expires=timedelta(hours=1), timeout=timedelta(seconds=20))
    assert [handle.result() for handle in handles] == [6]


@pytest.mark.parametrize("eta", [date(2030, 1, 1), "2030-01-01", 1893456000.0, timedelta(hours=1), 5])
def test_an_eta_of_another_type_is_refused_in_one_line(client: Client, eta: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"eta is a datetime with a time zone, .*, not "):
        client.enqueue("work", eta=eta)


def test_an_eta_too_far_ahead_is_refused_as_one(client: Client) -> None:
    with pytest.raises(ConfigurationError, match=r"^eta=datetime.* is more than 310 days ahead$"):
        client.enqueue("work", eta=datetime(2999, 1, 1, tzinfo=UTC))


def test_an_expiry_that_is_over_is_refused(client: Client) -> None:
    with pytest.raises(ConfigurationError, match="is over already"):
        client.enqueue("work", expires=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(ConfigurationError, match="is over already"):
        client.publish("a", expires=datetime(2020, 1, 1, tzinfo=UTC))


def test_the_ids_of_tasks_have_nothing_in_common(client: Client, queue: str) -> None:
    ids = [handle.id for handle in client.enqueue_many("double", [(n,) for n in range(50)], queue=queue)]
    ids.append(client.enqueue("double", 1, queue=queue).id)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    assert len({each[:12] for each in ids}) == len({each[-12:] for each in ids}) == 51


@pytest.mark.parametrize("expires", [0, -1, "5", True, float("nan"), float("inf")])
def test_a_time_after_which_nothing_starts_that_makes_no_sense_is_refused(client: Client, expires: Any) -> None:
    with pytest.raises(ConfigurationError, match="expires must be a number above 0"):
        client.enqueue("work", expires=expires)


def test_two_clients_that_ask_at_once_enqueue_a_key_once(url: str, service: Service, queue: str) -> None:
    double = doubling(service, queue)
    outcomes: list[str] = []
    ready = threading.Barrier(4)

    def enqueue() -> None:
        with Client(url, timeout=20) as client:
            client.enqueue(double, 0)
            ready.wait(30)
            try:
                client.enqueue(double, 1, unique_for=30.0)
                outcomes.append("accepted")
            except AlreadyQueued:
                outcomes.append("already")

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    assert sorted(outcomes) == ["accepted", "already", "already", "already"]


def test_the_key_of_a_task_that_was_not_accepted_is_free_again(
    client: Client, service: Service, raw: Raw, queue: str
) -> None:
    double = doubling(service, queue, queue_type="classic", max_length=1)
    client.enqueue(double, 1)
    with pytest.raises(PublishRefused, match="takes no more"):
        client.enqueue(double, 2, unique_for=60.0)
    raw.channel.queue_purge(queue)
    assert client.enqueue(double, 2, unique_for=60.0).queue == queue


def test_a_key_without_its_time_is_refused(client: Client, service: Service, queue: str) -> None:
    with pytest.raises(ConfigurationError, match="unique_key= is the key of unique_for="):
        client.enqueue(doubling(service, queue), 1, unique_key="mine")


def test_tasks_are_enqueued_and_awaited_in_asyncio(url: str, serve: Serve, service: Service, queue: str) -> None:
    double = doubling(service, queue)

    @service.task(queue=queue, retries=0)
    def fail() -> None:
        raise ValueError("no")

    serve(service)

    async def main() -> list[Any]:
        async with AsyncClient(url, timeout=20) as client:
            one = await client.enqueue(double, 1)
            many = await client.enqueue_many(double, [(n,) for n in range(5)])
            failed = await client.enqueue("fail", queue=queue)
            results = [await handle.result(timeout=20) for handle in [one, *many]]
            with pytest.raises(RemoteError, match="no"):
                await failed.result(timeout=20)
            assert (await one.state, await failed.state, await one.ready()) == ("SUCCESS", "FAILURE", True)
            waiting = await client.enqueue(double, 1, delay=60)
            with pytest.raises(TimeoutError):
                await waiting.result(timeout=0.2)
            return results

    assert asyncio.run(main()) == [2, 0, 2, 4, 6, 8]


def test_many_tasks_that_are_under_way_when_the_connection_breaks_are_all_accepted(
    node: Node,
    queue_name: str,
) -> None:
    service = Service()
    ran: set[int] = set()

    @service.task(queue=queue_name)
    def work(n: int) -> None:
        ran.add(n)

    begun = threading.Event()

    def arguments() -> Iterator[tuple[int]]:
        for n in range(5000):
            if n == 1500:
                begun.set()
            yield (n,)

    with Client(node.url, timeout=60) as client, Server(service, url=node.url):
        breaking = threading.Thread(
            target=lambda: begun.wait(30) and node.ctl("close_all_connections", "test"), daemon=True
        )
        breaking.start()
        assert len(client.enqueue_many(work, arguments())) == 5000
        breaking.join(30)
        until(lambda: ran == set(range(5000)), timeout=40)
