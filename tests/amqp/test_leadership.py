"""The thread at the sockets: the I/O thread or another one, one at a time, and never none."""

from __future__ import annotations

import signal
import socket
import threading
import time
from threading import get_ident

import pytest

from amqp_rpc.amqp import loop as loops
from amqp_rpc.amqp.loop import READ, Loop

SOON = 10.0


@pytest.fixture
def loop():
    """A loop with an owner's thread."""
    made = Loop()
    made.share(True)
    owner = threading.Thread(target=made.run, daemon=True)
    owner.start()
    made.owner = owner.ident
    yield made
    made.post(made.stop)
    owner.join(SOON)
    assert not owner.is_alive()
    made.close()


@pytest.fixture
def peer(loop):
    """Whatever it sends is read by the loop: ``peer.got`` has who read it."""
    ours, other = socket.socketpair()
    ours.setblocking(False)
    got: list[int] = []

    def ready(_events):
        got.extend([get_ident()] * len(ours.recv(100)))

    loop.do(loop.watch, ours, READ, ready)
    other_end = type("Peer", (), {"send": staticmethod(other.send), "got": got})
    until(lambda: asleep(loop))
    yield other_end
    ours.close()
    other.close()


def until(condition):
    """Wait for a condition that another thread makes true."""
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.0005)


def asleep(loop):
    return loop._asleep


class Until:
    """The end of something, as a condition."""

    def __init__(self, done):
        self.done = done


def attend(loop, done, seconds=SOON, **options):
    return loop.attend(Until(done), time.monotonic() + seconds, **options)


def take_the_lead(loop):
    """Attend; the first time, the owner is there and has to leave."""
    until(lambda: attend(loop, lambda: True) or loop.post(int))


def test_work_is_done_at_once_by_the_thread_that_has_it_while_the_owner_waits(loop, peer):
    seen = []
    loop.do(lambda: seen.append(get_ident()))
    assert seen == [get_ident()]


def test_work_that_comes_while_another_thread_works_is_done_by_that_one(loop, peer):
    entered, go = threading.Event(), threading.Event()
    seen = []

    def slow():
        entered.set()
        go.wait(SOON)

    worker = threading.Thread(target=loop.do, args=(slow,))
    worker.start()
    entered.wait(SOON)
    loop.do(lambda: seen.append(get_ident()))
    assert seen == []
    go.set()
    until(lambda: seen)
    assert seen != [get_ident()]
    worker.join()


def test_no_work_of_many_threads_is_lost_and_each_thread_s_is_done_in_its_order(loop):
    seen = []

    def work(name):
        for n in range(500):
            (loop.do, loop.post, loop.leave)[n % 3](seen.append, (name, n))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(seen) == 2000)
    for name in range(4):
        assert [n for other, n in seen if other == name] == list(range(500))


def test_a_thread_that_attends_reads_for_itself(loop, peer):
    take_the_lead(loop)
    peer.send(b"x")
    assert attend(loop, lambda: peer.got)
    assert peer.got == [get_ident()]


def test_where_the_owner_is_there_it_is_left_to_it_and_leaves_for_the_next_time(loop, peer):
    assert not attend(loop, lambda: False)
    peer.send(b"x")
    until(lambda: peer.got)
    assert peer.got == [loop.owner]
    take_the_lead(loop)


def test_only_one_thread_attends(loop, peer):
    take_the_lead(loop)
    inside = threading.Event()

    def first():
        attend(loop, lambda: inside.set() or peer.got)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(SOON)
    until(lambda: asleep(loop))
    assert not attend(loop, lambda: False)
    peer.send(b"x")
    thread.join(SOON)
    assert peer.got == [thread.ident]


def test_the_owner_comes_back_when_nobody_attends_any_more(loop, peer):
    take_the_lead(loop)
    peer.send(b"x")
    until(lambda: peer.got)
    assert peer.got == [loop.owner]


def test_the_owner_comes_back_at_once_when_it_is_called(loop, peer, monkeypatch):
    monkeypatch.setattr(loops, "_LOOK_IN", 3600.0)
    take_the_lead(loop)
    until(lambda: loop._leadership.bells)
    loop.recall()
    peer.send(b"x")
    until(lambda: peer.got)
    assert peer.got == [loop.owner]


def test_what_is_posted_while_nobody_attends_calls_the_owner(loop, peer, monkeypatch):
    monkeypatch.setattr(loops, "_LOOK_IN", 3600.0)
    take_the_lead(loop)
    until(lambda: loop._leadership.bells)
    seen = []
    loop.post(lambda: seen.append(get_ident()))
    until(lambda: seen)
    assert seen == [loop.owner]


def test_who_stays_away_is_relieved_and_what_it_has_done_is_not_kept_waiting(loop, peer):
    relieved = []
    loop.on_relieved(lambda: relieved.append(get_ident()))
    until(lambda: attend(loop, lambda: True, returns=True) or loop.post(int))
    seen = []
    loop.do(lambda: seen.append(get_ident()))
    # As one does that means to be back in a moment, and then is not: nothing here but waiting.
    until(lambda: seen)
    assert (seen, set(relieved)) == ([loop.owner], {loop.owner})
    loop.do(lambda: seen.append(get_ident()))
    assert seen[1] == get_ident()


def test_who_returns_does_what_it_had_when_it_is_back(loop, peer):
    until(lambda: attend(loop, lambda: True, returns=True) or loop.post(int))
    seen = []
    for _ in range(3):
        loop.do(lambda: seen.append(get_ident()))
    # If the I/O thread was faster, which is right as well, it has done all of it.
    if attend(loop, lambda: len(seen) == 3, returns=True):
        assert seen in ([get_ident()] * 3, [loop.owner] * 3)
    until(lambda: len(seen) == 3)


def test_while_another_attends_for_long_the_owner_sleeps_and_then_comes_back(loop, peer, monkeypatch):
    monkeypatch.setattr(loops, "_QUIET", 2)
    take_the_lead(loop)
    thread = threading.Thread(target=attend, args=(loop, lambda: peer.got))
    thread.start()
    until(lambda: loop._leadership.dozing)
    peer.send(b"x")
    thread.join(SOON)
    assert peer.got == [thread.ident]
    peer.send(b"y")
    until(lambda: len(peer.got) == 2)
    assert peer.got[1] == loop.owner


def test_a_timer_wakes_who_attends(loop, peer):
    take_the_lead(loop)
    seen = []
    inside = threading.Event()
    thread = threading.Thread(target=attend, args=(loop, lambda: inside.set() or seen))
    thread.start()
    inside.wait(SOON)
    until(lambda: asleep(loop))
    loop.do(loop.call_later, 0.001, lambda: seen.append(get_ident()))
    thread.join(SOON)
    assert seen == [thread.ident]


def test_who_attends_does_so_no_longer_than_it_said(loop, peer):
    take_the_lead(loop)
    assert attend(loop, lambda: False, 0.01)


def test_who_attends_leaves_when_the_loop_stops(loop, peer):
    take_the_lead(loop)
    inside = threading.Event()
    thread = threading.Thread(target=attend, args=(loop, inside.set))
    thread.start()
    inside.wait(SOON)
    loop.post(loop.stop)
    thread.join(SOON)
    assert not thread.is_alive()
    assert not attend(loop, lambda: False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_what_a_signal_raises_in_the_middle_of_work_reaches_the_user_and_ends_connections(loop, peer, error):
    """The alarm of a test, or Ctrl-C: what was cut off may be half done, so its connection is made again."""
    aborted = []
    loop.on_interrupt("test", aborted.append)

    def interrupted():
        raise error("cut off")

    with pytest.raises(error):
        loop.do(interrupted)
    assert [type(each) for each in aborted] == [ConnectionAbortedError]
    seen = []
    loop.do(seen.append, "usable")
    assert seen == ["usable"]
    loop.off_interrupt("test")
    with pytest.raises(error):
        loop.do(interrupted)
    assert len(aborted) == 1


def test_a_timer_that_was_cut_off_is_called_again(loop, peer):
    take_the_lead(loop)
    called = []

    def due():
        called.append(get_ident())
        if len(called) == 1:
            raise KeyboardInterrupt

    loop.leave(loop.call_later, 0, due)
    try:
        attend(loop, lambda: called)
    except KeyboardInterrupt:
        assert called == [get_ident()]
    until(lambda: len(called) == 2 or (called == [loop.owner]))


def test_a_defect_on_another_thread_than_the_main_one_is_logged_and_nothing_ends(loop, peer, caplog):
    aborted = []
    loop.on_interrupt("test", aborted.append)
    thread = threading.Thread(target=loop.do, args=(lambda: 1 / 0,))
    thread.start()
    thread.join()
    assert "ZeroDivisionError" in caplog.text
    assert aborted == []


def test_a_signal_handler_may_wait_where_its_thread_waits_already(loop, peer):
    take_the_lead(loop)
    seen = []

    def handler(_number, _frame):
        # Inside of the other wait; the peer's byte is read in here.
        peer.send(b"x")
        assert attend(loop, lambda: peer.got)
        seen.append("inner")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        until(lambda: attend(loop, lambda: seen, 0.2) and seen)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert seen == ["inner"]


def test_a_thread_knows_that_it_is_at_work(loop, peer):
    seen = []
    loop.do(lambda: seen.append(loop.works_here()))
    assert seen == [True]
    assert not loop.works_here()


def test_where_it_is_not_shared_only_the_owner_works(loop, peer):
    loop.share(False)
    seen = []
    loop.do(lambda: seen.append(get_ident()))
    until(lambda: seen)
    assert seen == [loop.owner]
    assert not attend(loop, lambda: False)


def test_who_attends_leaves_when_it_is_not_shared_any_more_and_the_owner_comes(loop, peer, monkeypatch):
    monkeypatch.setattr(loops, "_LOOK_IN", 3600.0)
    take_the_lead(loop)
    loop.leave(loop.share, False)
    assert attend(loop, lambda: False)
    peer.send(b"x")
    until(lambda: peer.got)
    assert peer.got == [loop.owner]
