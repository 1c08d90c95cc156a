"""A worker's writes to its store: few for brief tasks, in the right order, and none that delays tasks."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest

from amqp_rpc.errors import StoreUnavailable, Undecodable
from amqp_rpc.results import recorder
from amqp_rpc.results.record import Record
from amqp_rpc.results.recorder import Recorder
from tests.waiting import until


def a_record(identity="1", state="SUCCESS", updated=10.0) -> Record:
    body = b"\xc0" if state in ("SUCCESS", "FAILURE") else None
    kind = None if body is None else "result"
    return Record(
        identity, "f", state, "work", "q", 1, updated, kind=kind, content_type="application/msgpack", body=body
    )


class MemoryStore:
    """A store that can be away."""

    def __init__(self) -> None:
        self.kept: dict[str, Record] = {}
        self.written: list[Record] = []
        self.away = False
        self.asked = 0

    def put(self, record: Record, *, expires: float) -> None:  # noqa: ARG002 - it forgets nothing
        self.get("")
        self.written.append(record)
        self.kept[record.id] = record

    def get(self, identity: str, fingerprint: str | None = None) -> Record | None:  # noqa: ARG002 - one task an id
        self.asked += 1
        if self.away:
            raise StoreUnavailable("the store of results 'x' can't be used: it is away")
        return self.kept.get(identity)

    def check(self) -> None:
        self.get("")

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def keeps(store, monkeypatch):
    monkeypatch.setattr(recorder, "LOOK_AGAIN", 0.02)
    made = Recorder(store, expires=60.0)
    yield made
    made.close()


class TestBegun:
    @pytest.fixture
    def begins(self, store):
        begins = Recorder(store, expires=60.0)
        begins.start()
        yield begins
        begins.close()

    def test_what_ends_at_once_is_never_written(self, begins, store):
        for n in range(100):
            begins.begin(a_record(str(n), "STARTED"))
            begins.leave(a_record(str(n)))
        # One that stays shows that the others' time is over.
        begins.begin(a_record("stays", "STARTED"))
        until(lambda: store.written)
        assert [record.id for record in store.written] == ["stays"]

    def test_it_wakes_up_again_after_a_time_without_work(self, begins, store):
        for n in range(3):
            begins.begin(a_record(str(n), "STARTED"))
            until(lambda n=n: len(store.written) == n + 1)
            until(lambda: not begins._has_begun.is_set())
        assert [record.id for record in store.written] == ["0", "1", "2"]

    def test_the_end_of_a_task_waits_until_its_beginning_is_written(self, begins, store, monkeypatch):
        writing, go_on = threading.Event(), threading.Event()
        put = store.put

        def slow(record: Record, *, expires: float) -> None:
            if record.state == "STARTED":
                writing.set()
                go_on.wait(20)
            put(record, expires=expires)

        monkeypatch.setattr(store, "put", slow)
        begins.begin(a_record("1", "STARTED"))
        assert writing.wait(20)
        ending = threading.Thread(target=begins.end, args=(a_record("1"),))
        ending.start()
        assert store.written == []
        go_on.set()
        ending.join(20)
        assert [record.state for record in store.written] == ["STARTED", "SUCCESS"]


def test_while_the_store_is_away_it_is_asked_by_one_thread_alone(store, monkeypatch, caplog):
    monkeypatch.setattr(recorder, "LOOK_AGAIN", 600.0)
    keeps, store.away = Recorder(store, expires=60.0), True
    with caplog.at_level(logging.WARNING):
        for n in range(1000):
            keeps.end(a_record(str(n)))
    assert store.asked == 1
    assert len(caplog.records) == 1
    store.away = False
    keeps.close()
    assert len(store.kept) == 1000


def test_one_result_that_is_lost_is_said_to_be_one(store, keeps, caplog, monkeypatch):
    monkeypatch.setattr(recorder, "MOST_BYTES", 0)
    store.away = True
    keeps.end(a_record("1"))
    store.away = False
    until(lambda: "is back; 1 result was lost" in caplog.text)


def test_what_is_remembered_is_written_with_the_results_when_the_store_is_back(store, keeps, caplog):
    store.away = True
    keeps.end(a_record("1"))
    keeps.end(a_record("2", "RETRY"))
    keeps.end(a_record("3", "FAILURE"))
    store.away = False
    until(lambda: len(store.kept) == 2)
    assert [(r.id, r.state, r.body) for r in store.written] == [("1", "SUCCESS", b"\xc0"), ("3", "FAILURE", b"\xc0")]
    until(lambda: "is back; 0 results were lost" in caplog.text)
    keeps.end(a_record("4"))
    assert store.kept["4"].body == b"\xc0"


def test_no_more_bytes_are_remembered_than_it_says_and_the_states_are(store, monkeypatch):
    monkeypatch.setattr(recorder, "LOOK_AGAIN", 600.0)
    monkeypatch.setattr(recorder, "MOST_BYTES", 2)
    keeps, store.away = Recorder(store, expires=60.0), True
    # The second end of one task takes the place of the first.
    for identity in ("1", "1", "2", "3", "4"):
        keeps.end(a_record(identity))
    store.away = False
    keeps.close()
    assert {identity: record.body for identity, record in store.kept.items()} == {
        "1": b"\xc0", "2": b"\xc0", "3": None, "4": None
    }  # fmt: skip
    assert {record.state for record in store.kept.values()} == {"SUCCESS"}


@pytest.mark.parametrize("error", [TypeError("no such option"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")])
def test_whatever_a_store_raises_no_task_fails_by_it(store, keeps, monkeypatch, caplog, error):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(store, "put", fail)
    monkeypatch.setattr(store, "get", fail)
    keeps.end(a_record("1"))
    # From memory, while the store is away.
    assert keeps.succeeded(("1", "f")) == a_record("1")
    assert keeps.succeeded(("2", "f")) is None
    assert "Tasks run on" in caplog.text


def test_a_store_that_is_not_there_is_reported_when_the_server_starts(store, keeps, caplog):
    store.away = True
    keeps.look()
    until(lambda: "can't be used: it is away. Tasks run on" in caplog.text)
    assert store.written == []


def test_what_another_worker_wrote_since_is_left(store, keeps):
    store.kept["1"] = a_record("1", "SUCCESS", updated=20.0)
    store.away = True
    keeps.end(a_record("1", "FAILURE", updated=10.0))
    keeps.end(a_record("2"))
    store.away = False
    until(lambda: "2" in store.kept)
    assert store.kept["1"].updated == 20.0


def test_two_tasks_with_one_id_are_two_while_the_store_is_away_and_after(store, keeps):
    store.away = True
    mine, theirs = a_record("7"), replace(a_record("7", "FAILURE"), fingerprint="theirs")
    for record in (mine, theirs):
        keeps.begin(replace(record, state="STARTED"))
    for record in (mine, theirs):
        keeps.end(record)
    assert keeps.succeeded(("7", "f")) == mine
    assert keeps.succeeded(("7", "theirs")) is None
    store.away = False
    until(lambda: len(store.written) == 2)
    assert store.written == [mine, theirs]


def test_what_is_no_record_hinders_neither_the_task_nor_the_writes(store, keeps, monkeypatch, caplog):
    def odd(*_key: object) -> Record | None:
        raise Undecodable("it is no record of a task: its state is 5")

    monkeypatch.setattr(store, "get", odd)
    assert keeps.succeeded(("1", "f")) is None
    assert keeps.succeeded(("2", "f")) is None
    assert [each.message for each in caplog.records] == [
        "task [1]: its record can't be read, so it is run: it is no record of a task: its state is 5"
    ]
    assert "Tasks run on" not in caplog.text
    monkeypatch.undo()
    store.away = True
    keeps.end(a_record("1"))
    get = store.get
    monkeypatch.setattr(store, "get", lambda *key: odd() if key[0] else get(""))
    store.away = False
    until(lambda: store.written == [a_record("1")])


def test_no_more_is_remembered_than_it_says(store, monkeypatch):
    monkeypatch.setattr(recorder, "LOOK_AGAIN", 600.0)
    monkeypatch.setattr(recorder, "MOST_REMEMBERED", 10)
    keeps, store.away = Recorder(store, expires=60.0), True
    for n in range(25):
        keeps.end(a_record(str(n)))
    store.away = False
    keeps.close()
    assert sorted(store.kept, key=int) == [str(n) for n in range(15, 25)]


def test_a_store_that_goes_away_again_in_the_middle_loses_nothing_that_is_remembered(store, keeps, monkeypatch):
    store.away = True
    for n in range(5):
        keeps.end(a_record(str(n)))
    put = store.put

    def put_two(record: Record, *, expires: float) -> None:
        store.away = len(store.written) == 2
        put(record, expires=expires)

    monkeypatch.setattr(store, "put", put_two)
    store.away = False
    until(lambda: store.away)
    monkeypatch.setattr(store, "put", put)
    store.away = False
    until(lambda: len(store.kept) == 5)
