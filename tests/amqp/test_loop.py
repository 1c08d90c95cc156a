"""The owner's loop: work from other threads, timers and sockets, each in its order, and no defect ends it."""

from __future__ import annotations

import selectors
import socket
import threading
import time

import pytest

from amqp_rpc.amqp.loop import READ, WRITE, Loop, any_works_here
from tests.waiting import until


@pytest.fixture
def loop():
    made = Loop()
    yield made
    made.close()


@pytest.fixture
def pair():
    ours, peer = socket.socketpair()
    for sock in (ours, peer):
        sock.setblocking(False)
    yield ours, peer
    ours.close()
    peer.close()


def test_posted_work_runs_in_its_order(loop):
    said = []
    for n in range(5):
        loop.post(said.append, n)
    loop.post(loop.stop)
    loop.run()
    assert said == [0, 1, 2, 3, 4]


def test_work_of_another_thread_wakes_the_owner(loop):
    asleep = threading.Event()
    loop.before_sleep(asleep.set)

    def hand_over():
        asleep.wait()
        loop.post(loop.stop)

    thread = threading.Thread(target=hand_over)
    thread.start()
    loop.run()  # there is no timer: only the wake byte ends it
    thread.join()


def test_no_work_of_many_threads_is_lost(loop):
    seen = []

    def hand_over(name):
        for n in range(500):
            loop.post(seen.append, (name, n))

    threads = [threading.Thread(target=hand_over, args=(name,)) for name in range(4)]

    def end():
        for thread in threads:
            thread.join()
        loop.post(loop.stop)

    threads_ended = threading.Thread(target=end)
    for thread in (*threads, threads_ended):
        thread.start()
    loop.run()
    threads_ended.join()
    assert sorted(seen) == [(name, n) for name in range(4) for n in range(500)]


def test_a_burst_costs_one_wake_byte(loop, monkeypatch):
    sent = []
    monkeypatch.setattr(loop, "_wake_writer", type("Writer", (), {"send": sent.append, "close": lambda: None}))
    loop._asleep = True
    for _ in range(100):
        loop.post(print)
    assert sent == [b"\0"]


def test_work_that_posts_work_does_not_keep_sockets_waiting(loop, pair):
    ours, peer = pair
    turns = []

    def again():
        turns.append(1)
        loop.post(again)

    loop.watch(ours, READ, lambda _events: loop.stop())
    loop.post(again)
    peer.send(b"x")
    loop.run()
    assert len(turns) <= 2


def test_timers_come_in_the_order_of_their_time(loop):
    said = []
    loop.call_later(0.002, loop.stop)
    loop.call_later(0.001, lambda: said.append("second"))
    loop.call_later(0, lambda: said.append("first"))
    loop.run()
    assert said == ["first", "second"]


def test_timers_of_the_same_time_come_in_the_order_of_asking(loop, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    said = []
    for n in range(5):
        loop.call_later(0, lambda n=n: said.append(n))
    loop.call_later(0, loop.stop)
    loop.run()
    assert said == [0, 1, 2, 3, 4]


def test_a_timer_that_was_cancelled_is_silent(loop):
    said = []
    loop.call_later(0, lambda: said.append("cancelled")).cancel()
    loop.call_later(0.001, loop.stop)
    loop.run()
    assert said == []


def test_a_cancelled_timer_far_away_does_not_keep_others_waiting(loop):
    loop.call_later(0, loop.stop)
    timer = loop.call_later(1000, lambda: None)
    timer.cancel()
    timer.cancel()
    loop.run()


def test_a_socket_is_told_of_what_it_is_ready_for(loop, pair):
    ours, peer = pair
    seen = []

    def ready(events):
        seen.append(events)
        loop.stop()

    loop.watch(ours, READ | WRITE, ready)
    peer.send(b"x")
    loop.run()
    assert seen == [READ | WRITE]


def test_watching_again_replaces_the_callback(loop, pair):
    ours, peer = pair
    loop.watch(ours, READ, lambda _events: pytest.fail("this one was replaced"))
    loop.watch(ours, READ, lambda _events: loop.stop())
    peer.send(b"x")
    loop.run()


def test_a_socket_that_is_not_watched_any_more_is_silent(loop, pair):
    ours, peer = pair
    said = []
    loop.watch(ours, READ, said.append)
    loop.unwatch(ours)
    loop.unwatch(ours)
    peer.send(b"x")
    loop.call_later(0.001, loop.stop)
    loop.run()
    assert said == []


def test_unwatching_a_closed_socket_is_harmless(loop, pair):
    pair[0].close()
    loop.unwatch(pair[0])


def test_before_the_next_sleep_what_was_asked_for_is_called_once(loop):
    said = []
    loop.before_sleep(lambda: said.append("once"))
    loop.call_later(0.001, loop.stop)
    loop.run()
    assert said == ["once"]


def test_what_is_asked_for_before_a_sleep_is_done_before_that_sleep(loop):
    said = []
    loop.before_sleep(lambda: loop.before_sleep(lambda: (said.append("the second"), loop.post(loop.stop))))
    loop.run()
    assert said == ["the second"]


@pytest.mark.parametrize("where", ["post", "timer", "before_sleep", "socket"])
def test_a_callback_that_fails_is_logged_and_the_loop_goes_on(loop, pair, caplog, where):
    def fail(*_args):
        loop.unwatch(pair[0])
        loop.call_later(0, loop.stop)
        raise RuntimeError("a defect")

    {
        "post": lambda: loop.post(fail),
        "timer": lambda: loop.call_later(0, fail),
        "before_sleep": lambda: loop.before_sleep(fail),
        "socket": lambda: loop.watch(pair[0], WRITE, fail),
    }[where]()
    loop.run()
    assert [r.message[:28] for r in caplog.records] == ["I/O thread: callback failed:"]


def test_posting_to_a_loop_that_is_closed_is_harmless():
    loop = Loop()
    loop._asleep = True
    loop.close()
    loop.post(print)


def test_a_thread_that_waits_in_select_notices_what_another_one_watches(monkeypatch):
    """`select` and `poll` copy what they wait for; Windows has nothing else."""
    monkeypatch.setattr(selectors, "DefaultSelector", selectors.SelectSelector)
    loop = Loop()
    loop.share(True)
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    ours, peers = socket.socketpair()
    heard = threading.Event()
    try:
        until(lambda: loop._asleep, what="the thread to wait")
        loop.do(loop.watch, ours, READ, lambda _events: heard.set())
        peers.send(b"x")
        assert heard.wait(20)
    finally:
        loop.stop()
        thread.join(20)
        ours.close()
        peers.close()
        loop.close()


def test_a_log_line_is_written_while_another_thread_makes_a_loop(monkeypatch):
    """pika's lines ask all loops who is at work. What that raised would keep a connection from hearing of its loss."""
    made = selectors.DefaultSelector

    def looked_at():
        assert not any_works_here()
        return made()

    monkeypatch.setattr(selectors, "DefaultSelector", looked_at)
    Loop().close()


def test_loops_are_listed_while_other_threads_make_some():
    over = threading.Event()

    def make():
        while not over.is_set():
            Loop().close()

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3000):
            assert not any_works_here()
    finally:
        over.set()
        for thread in threads:
            thread.join()
