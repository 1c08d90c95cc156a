"""The errors of `enqueue` when the broker does not answer, and the tasks of a worker that ends."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from amqp_rpc import (
    AlreadyQueued,
    Client,
    ConnectionLost,
    NotConnected,
    PublishRefused,
    Reject,
    Server,
    Service,
    context,
)
from amqp_rpc.amqp.publisher import Publication
from amqp_rpc.broker.node import Node
from amqp_rpc.cli.exits import Exit
from tests.programs import serving
from tests.served_by import Raw, declare_dead, lines, noting
from tests.waiting import until

TASKS = ("tests.served", "--queues", "tserved_limited")


def freeze(node: Node) -> None:
    """Stop a broker's process; return when each of its threads has stopped, and answers nothing any more."""
    os.kill(node.pid, signal.SIGSTOP)
    threads = Path(f"/proc/{node.pid}/task")
    until(lambda: all("\nState:\tT" in (each / "status").read_text() for each in threads.iterdir()))


@contextmanager
def frozen(node: Node) -> Iterator[None]:
    """A broker that neither reads nor answers; its connections stay."""
    freeze(node)
    try:
        yield
    finally:
        os.kill(node.pid, signal.SIGCONT)


def words(path: Path) -> list[str]:
    return [word for word, _ in lines(path)]


def test_without_a_broker_enqueue_says_so_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with Client(f"amqp://127.0.0.1:{free.getsockname()[1]}", timeout=20) as client:
            with pytest.raises(NotConnected, match="connection refused") as caught:
                client.enqueue("resize")
            assert not caught.value.may_have_run


@pytest.mark.parametrize("many", ["enqueue_many", "publish_many"])
def test_ctrl_c_in_the_middle_of_many_does_not_wait_for_a_broker_that_does_not_answer(
    node: Node, queue_name: str, many: str
) -> None:
    raised: list[BaseException] = []

    def three() -> Iterator[tuple[str, str]]:
        freeze(node)
        yield from [("a", "b")] * 3
        raise KeyboardInterrupt

    def work(client: Client) -> None:
        try:
            if many == "enqueue_many":
                client.enqueue_many("work", three(), queue=queue_name)
            else:
                client.publish_many(three())
        except BaseException as error:
            raised.append(error)

    with Client(node.url, timeout=600) as client:
        client.enqueue("work", "a", "b", queue=queue_name)
        client.publish("a", "b")
        thread = threading.Thread(target=work, args=(client,), daemon=True)
        thread.start()
        try:
            thread.join(60)
        finally:
            os.kill(node.pid, signal.SIGCONT)
    assert [type(error) for error in raised] == [KeyboardInterrupt]
    assert "0 " in raised[0].__notes__[0]
    assert raised[0].__notes__[0].endswith("; of 3 more it is not known")


def test_a_task_whose_confirm_does_not_come_may_run_and_that_is_said(node: Node, queue_name: str) -> None:
    service, work, ran = noting(queue_name)

    with Client(node.url, timeout=60) as client, Server(service, url=node.url):
        client.enqueue(work, 1)
        with frozen(node), pytest.raises(ConnectionLost, match="Enqueue it again only if it may run twice") as caught:
            client.enqueue(work, 2, timeout=0.5)
        assert caught.value.may_have_run
        # It did: what was on its way arrived when the broker went on.
        until(lambda: ran == [1, 2])
        client.enqueue(work, 3).result(timeout=30)


def test_the_key_of_a_task_that_may_have_been_accepted_stays_taken(
    node: Node, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, work, ran = noting(queue_name)

    with Client(node.url, timeout=60) as client, Server(service, url=node.url):
        client.enqueue(work, 1)
        confirm = client._session.confirm

        async def then_frozen(publication: Publication) -> None:
            await confirm(publication)
            # That was the key's.
            freeze(node)

        monkeypatch.setattr(client._session, "confirm", then_frozen)
        try:
            with pytest.raises(ConnectionLost):
                client.enqueue(work, 2, unique_for=600.0, timeout=0.5)
        finally:
            monkeypatch.undo()
            os.kill(node.pid, signal.SIGCONT)
        until(lambda: ran == [1, 2])
        with pytest.raises(AlreadyQueued):
            client.enqueue(work, 2, unique_for=600.0)


def test_under_a_memory_alarm_enqueue_is_refused_at_its_timeout_and_accepted_when_it_is_over(
    node: Node,
    queue_name: str,
) -> None:
    service, work, ran = noting(queue_name)

    with Client(node.url, timeout=60) as client, Server(service, url=node.url):
        client.enqueue(work, 1)
        node.ctl("set_vm_memory_high_watermark", "0.0000001")
        # The broker says that it takes nothing only when it is sent something.
        with pytest.raises(ConnectionLost, match="may have it"):
            client.enqueue(work, 2, timeout=0.5)
        with pytest.raises(PublishRefused, match=r"takes no messages \(.*memory.*It will not run") as caught:
            client.enqueue(work, 3, timeout=0.5)
        assert not caught.value.may_have_run
        accepted = threading.Thread(target=lambda: client.enqueue(work, 4))
        accepted.start()
        node.ctl("set_vm_memory_high_watermark", "0.4")
        accepted.join(60)
        until(lambda: set(ran) == {1, 2, 4})


def test_tasks_that_wait_in_a_worker_that_is_killed_are_done_by_another_one(
    url: str, client: Client, tmp_path: Path
) -> None:
    path, gate = tmp_path / "ran", tmp_path / "gate"
    gate.touch()
    with serving(*TASKS, "--threads", "1", "--prefetch", "5", url=url) as first:
        first_task = client.enqueue("note_until", str(path), str(gate), queue="tserved_limited")
        until(lambda: words(path) == ["began"])
        waiting = [client.enqueue("note_until", str(path), "", queue="tserved_limited") for _ in range(4)]
        # All are in its hands: none is left to be taken.
        until(lambda: (state := client.queue_states(["tserved_limited"])["tserved_limited"]) and not state.messages)
        first.send(signal.SIGKILL)
        gate.unlink()
        with serving(*TASKS, url=url) as second:
            assert [handle.result(timeout=30) for handle in [first_task, *waiting]] == [second.pid] * 5
    # The one that had begun has begun twice; nothing else has.
    assert (words(path).count("began"), words(path).count("ended")) == (6, 5)


def test_a_worker_that_is_told_to_stop_finishes_the_tasks_in_hand_and_takes_no_more(
    client: Client, serve: Callable[..., Server], raw: Raw, queue: str
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def worker(name: str) -> Service:
        service = Service(name)

        @service.task(queue=queue)
        def work(wait: bool) -> str:
            if wait:
                begun.set()
                assert go_on.wait(30)
            return name

        return service

    server = serve(worker("first"), threads=1)
    in_hand = client.enqueue("work", True, queue=queue)
    assert begun.wait(20)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    until(lambda: not server._state.delivering)
    later = client.enqueue("work", False, queue=queue)
    go_on.set()
    stopping.join(30)
    assert in_hand.result(timeout=20) == "first"
    assert later.state == "PENDING"
    serve(worker("second"))
    assert later.result(timeout=20) == "second"
    until(lambda: raw.count(queue) == 0)


def test_what_is_not_done_when_the_drain_is_over_is_done_by_another_worker(
    url: str, client: Client, tmp_path: Path
) -> None:
    path, gate = tmp_path / "ran", tmp_path / "gate"
    gate.touch()
    with serving(*TASKS, "--drain-timeout", "0.1", url=url) as server:
        handle = client.enqueue("note_until", str(path), str(gate), queue="tserved_limited")
        until(lambda: words(path) == ["began"])
        assert server.end() == Exit.DRAIN_TIMEOUT
        gate.unlink()
    said = [line for line in server.text().splitlines() if handle.id in line]
    assert len(said) == 1
    assert (
        f"drain: not done within 0.1 s, requeued by the broker: note_until [{handle.id}]. Another worker gets it"
        in said[0]
    )
    with serving(*TASKS, url=url) as other:
        assert handle.result(timeout=30) == other.pid
    assert words(path).count("ended") == 1


def test_coroutines_that_are_cut_off_when_the_drain_is_over_are_said_to_be_given_back_and_not_to_have_failed(
    url: str, client: Client, service: Service, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun, cut_off = threading.Semaphore(0), threading.Semaphore(0)

    @service.task(queue=queue)
    async def work() -> None:
        begun.release()
        try:
            await asyncio.Event().wait()
        finally:
            cut_off.release()

    server = Server(service, url=url)
    server.start()
    handles = [client.enqueue(work) for _ in range(7)]
    for _ in handles:
        assert begun.acquire(timeout=20)
    assert not server.stop(drain_timeout=0.1)
    for _ in handles:
        assert cut_off.acquire(timeout=20)
    server.stop()
    until(lambda: not any(thread.name == "amqp_rpc async handlers" for thread in threading.enumerate()))
    said = [record.message for record in caplog.records if any(handle.id in record.message for handle in handles)]
    assert len(said) == 1
    assert re.fullmatch(
        r"drain: not done within 0.1 s, requeued by the broker: (work \[\S+\], ){4}work \[\S+\] and 2 more. Another .*",
        said[0],
    )


def test_a_handler_can_ask_whether_a_worker_has_died_with_its_task_before(
    serve: Callable[..., Server], service: Service, raw: Raw, queue: str
) -> None:
    seen: list[bool] = []

    @service.task(queue=queue)
    def work(_number: int) -> None:
        seen.append(context().redelivered)

    serve(service)
    raw.send(queue, b"1")
    until(lambda: seen == [False])
    # As a worker puts it back, when the broker does not count.
    raw.send(queue, b"2", headers={"crashes": 1})
    until(lambda: seen == [False, True])


def test_a_dead_letter_whose_queue_was_deleted_is_put_into_a_new_one(
    client: Client, serve: Callable[..., Server], service: Service, raw: Raw
) -> None:
    """The broker confirms what it could put nowhere as well."""
    name = f"t{secrets.token_hex(6)}"

    @service.task(queue=name)
    def reject(n: int) -> None:
        raise Reject(f"no {n}")

    def letters() -> int:
        state = client.queue_states([f"{name}.dead"])[f"{name}.dead"]
        return 0 if state is None else state.messages

    declare_dead(raw, name)
    serve(service)
    client.enqueue(reject, 1)
    until(letters)
    raw.channel.queue_delete(f"{name}.dead")
    client.enqueue_many(reject, [(n,) for n in range(2, 12)])
    until(lambda: letters() == 10, timeout=30)
    assert {letter.reason for letter in client.dead_letters(name).list()} == {f"rejected: no {n}" for n in range(2, 12)}


@pytest.mark.parametrize("address", ["amq.rabbitmq.reply-to", "amq.rabbitmq.reply-to.forged"])
def test_who_waits_for_a_task_by_direct_reply_to_hears_that_it_has_failed(
    serve: Callable[..., Server], service: Service, raw: Raw, address: str
) -> None:
    queue = f"t{secrets.token_hex(6)}"
    declare_dead(raw, queue)

    @service.task(queue=queue, retries=0)
    def fail(n: int) -> None:
        raise ValueError(f"not {n}")

    serve(service)
    replies: list[Any] = []
    raw.channel.basic_consume(
        "amq.rabbitmq.reply-to", lambda _channel, _method, properties, body: replies.append((properties, body)), True
    )
    for number in (1, 2):
        raw.send(
            queue, b"[[%d],{}]" % number, content_type="application/json", type="fail", reply_to=address,
            correlation_id="1",
        )  # fmt: skip
        until(lambda: raw.channel.basic_get(f"{queue}.dead")[0])
    if address.endswith("forged"):
        # Its address costs a connection on which nothing else depends.
        return

    def heard() -> list[Any]:
        raw.connection.process_data_events(0.05)
        return replies[1:]

    until(heard)
    assert [properties.type for properties, _ in replies] == ["error", "error"]
    assert [b"ValueError" in body for _, body in replies] == [True, True]
