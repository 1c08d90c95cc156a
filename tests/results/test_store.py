"""Stores of results: both do the same, and errors of one say what is wrong."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import socket
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, fields, replace
from pathlib import Path

import pytest
import redis

from amqp_rpc.errors import ConfigurationError, StoreUnavailable, Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.dead_letter import replayed
from amqp_rpc.message.envelope import Properties
from amqp_rpc.message.settings import result_seconds, results_url
from amqp_rpc.results import Store, open_store
from amqp_rpc.results.record import Record, fingerprint, is_ours
from amqp_rpc.results.sqlite import SqliteStore
from amqp_rpc.service.schedules import tick_id
from tests.stores import RedisServer
from tests.waiting import until


def a_record(**changes) -> Record:
    record = Record(
        id=secrets.token_hex(8),
        fingerprint=secrets.token_hex(8),
        state="SUCCESS",
        function="resize",
        queue="images",
        attempt=2,
        updated=1234.5,
        started=1234.25,
        next_try=None,
        error=None,
        kind="result",
        content_type="application/msgpack",
        body=b"\x93\x01\x02\x00",
    )
    return replace(record, **changes)


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/results.db" if request.param == "sqlite" else request.getfixturevalue("redis_url")
    store = open_store(url)
    yield store
    store.close()


class TestEveryStore:
    def test_gives_back_what_it_was_given(self, store):
        whole = a_record()
        bare = a_record(state="RETRY", started=None, next_try=1300.0, error="ValueError: ä", attempt=1).bare()
        for record in (whole, bare):
            store.put(record, expires=60)
        assert [store.get(whole.id), store.get(bare.id)] == [whole, bare]

    def test_knows_nothing_of_a_task_that_it_was_not_told_of(self, store):
        assert store.get("nobody") is None

    def test_keeps_the_last_record_of_a_task(self, store):
        began = a_record(state="STARTED").bare()
        ended = replace(a_record(), id=began.id, fingerprint=began.fingerprint)
        store.put(began, expires=60)
        store.put(ended, expires=60)
        assert store.get(began.id) == ended

    def test_keeps_tasks_apart_that_have_one_id_and_by_it_alone_finds_the_first(self, store):
        first = a_record()
        others = [a_record(id=first.id, function=f"other {n}") for n in range(150)]
        for record in (replace(first, state="STARTED").bare(), *others, first):
            store.put(record, expires=60)
        assert store.get(first.id) == first
        assert [store.get(first.id, record.fingerprint) for record in (first, *others)] == [first, *others]
        assert store.get(first.id, "nobody's") is None
        assert store.get(first.id + "8", first.fingerprint) is None

    @pytest.mark.parametrize("name", ["a\0b", "é" * 127, "../../x", "amqp_rpc:task:x", "x' OR 1=1 --", ""])
    def test_keeps_any_name_that_a_stranger_chose(self, store, name):
        record, other = a_record(id=name, function=name, queue=name, attempt=2**63 - 1), a_record(id=f"{name}-")
        store.put(record, expires=60)
        store.put(other, expires=60)
        assert (store.get(name), store.get(f"{name}-")) == (record, other)

    def test_forgets_what_has_expired(self, store):
        short, long = a_record(), a_record()
        store.put(short, expires=0.05)
        store.put(long, expires=60)
        until(lambda: store.get(short.id) is None)
        assert store.get(long.id) == long

    def test_takes_large_results_and_none(self, store):
        large, empty = a_record(body=os.urandom(3_000_000)), a_record(body=b"")
        store.put(large, expires=60)
        store.put(empty, expires=60)
        assert store.get(large.id).body == large.body
        assert store.get(empty.id).body == b""

    def test_is_opened_again_after_it_was_closed(self, store):
        record = a_record()
        store.put(record, expires=60)
        store.close()
        assert store.get(record.id) == record

    def test_is_for_many_threads(self, store):
        records = [a_record() for _ in range(200)]
        threads = [
            threading.Thread(target=lambda mine: [store.put(r, expires=60) for r in mine], args=(records[n::8],))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [store.get(record.id) for record in records] == records

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_is_for_a_fork_of_its_process_too(self, store):
        before, inside = a_record(), a_record()
        store.put(before, expires=60)
        fork = multiprocessing.get_context("fork")

        def in_child() -> None:
            store.put(inside, expires=60)
            sys.exit(0 if store.get(before.id) == before else 3)

        child = fork.Process(target=in_child)
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert store.get(inside.id) == inside
        store.put(before, expires=60)


class TestSqlite:
    def test_its_url_is_written_as_sqlalchemy_writes_it(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        relative, absolute = open_store("sqlite:///a.db"), open_store(f"sqlite:///{tmp_path}/b.db")
        # A later change of the working directory does not matter.
        monkeypatch.chdir("/")
        for store in (relative, absolute):
            store.put(a_record(), expires=60)
            store.close()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "b.db"]
        assert str(absolute) == f"sqlite:///{tmp_path}/b.db"

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///a.db?x=1"])
    def test_a_url_without_a_file_is_refused(self, url):
        with pytest.raises(ConfigurationError, match=r"names no file: sqlite:///results.db"):
            open_store(url)

    @pytest.mark.skipif(os.name != "posix", reason="files have no such modes here")
    def test_its_files_are_for_its_user_alone(self, tmp_path):
        store = SqliteStore(str(tmp_path / "a.db"))
        store.put(a_record(), expires=60)
        modes = {path.name: stat.filemode(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes == dict.fromkeys(["a.db", "a.db-wal", "a.db-shm"], "-rw-------")
        store.close()

    @pytest.mark.skipif(os.name != "posix", reason="files have no such modes here")
    def test_a_file_that_somebody_has_made_keeps_its_mode(self, tmp_path):
        path = tmp_path / "a.db"
        path.touch(0o660)
        path.chmod(0o660)
        store = SqliteStore(str(path))
        store.put(a_record(), expires=60)
        assert {stat.filemode(each.stat().st_mode) for each in tmp_path.iterdir()} == {"-rw-rw----"}
        store.close()

    @pytest.mark.skipif(os.name != "posix", reason="no links here")
    def test_a_link_to_a_file_that_is_missing_is_followed(self, tmp_path):
        (tmp_path / "link.db").symlink_to(tmp_path / "there.db")
        store = SqliteStore(str(tmp_path / "link.db"))
        store.put(record := a_record(), expires=60)
        assert stat.filemode((tmp_path / "there.db").stat().st_mode) == "-rw-------"
        assert store.get(record.id) == record
        store.close()

    def test_where_files_can_not_be_linked_the_store_works_all_the_same(self, tmp_path, monkeypatch):
        def no_links(*_paths: object) -> None:
            raise OSError("not supported")

        monkeypatch.setattr(os, "link", no_links)
        store = SqliteStore(str(tmp_path / "a.db"))
        store.put(record := a_record(), expires=60)
        assert store.get(record.id) == record
        assert {path.name for path in tmp_path.iterdir()} == {"a.db", "a.db-wal", "a.db-shm"}
        store.close()

    def test_a_folder_that_is_missing_is_named_at_once(self, tmp_path):
        with pytest.raises(ConfigurationError, match=f"folder that does not exist: {tmp_path}/none"):
            open_store(f"sqlite:///{tmp_path}/none/a.db")

    def test_what_has_expired_is_removed_now_and_then(self, tmp_path, monkeypatch):
        store = SqliteStore(str(tmp_path / "a.db"))
        for _ in range(20):
            store.put(a_record(), expires=0.001)
        monkeypatch.setattr("amqp_rpc.results.sqlite._SWEEP_INTERVAL", 0.0)
        until(lambda: self.removed(store), what="a look that removes them")
        store.close()

    @staticmethod
    def removed(store: SqliteStore) -> bool:
        store.put(a_record(id="stays", fingerprint="f"), expires=60)
        with sqlite3.connect(store.path) as connection:
            ids = connection.execute("SELECT id FROM tasks").fetchall()
        connection.close()
        return ids == [("stays",)]

    @pytest.mark.parametrize("kind", ["folder", "no database", "another version"])
    def test_a_file_that_can_t_be_used_is_unavailable_and_used_when_it_can_be(self, tmp_path, kind):
        path = tmp_path / "a.db"
        store = SqliteStore(str(path))
        if kind == "folder":
            path.mkdir()
        elif kind == "no database":
            path.write_bytes(b"not a database" * 100)
        else:
            connection = sqlite3.connect(path)
            connection.execute("PRAGMA user_version = 99")
            connection.close()
        record = a_record()
        for use in (lambda: store.put(record, expires=60), lambda: store.get(record.id)):
            with pytest.raises(StoreUnavailable, match=r"a.db' can't be used"):
                use()
        for each in tmp_path.iterdir():
            each.rmdir() if each.is_dir() else each.unlink()
        store.put(record, expires=60)
        assert store.get(record.id) == record
        store.close()

    def test_connections_that_are_the_first_at_the_same_time_all_can_write(self, tmp_path):
        failed: list[Exception] = []
        for n in range(60):
            stores = [SqliteStore(str(tmp_path / f"{n}.db")) for _ in range(8)]
            barrier = threading.Barrier(len(stores))

            def use(store: SqliteStore, barrier: threading.Barrier = barrier) -> None:
                barrier.wait(30)
                try:
                    store.put(a_record(), expires=60)
                except StoreUnavailable as error:
                    failed.append(error)

            threads = [threading.Thread(target=use, args=(store,)) for store in stores]
            for thread in threads:
                thread.start()
            for thread, store in zip(threads, stores, strict=True):
                thread.join()
                store.close()
        assert failed == []

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_fork_of_its_process_has_a_connection_of_its_own(self, tmp_path):
        """https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_across_a_fork_."""
        store = SqliteStore(str(tmp_path / "a.db"))
        store.get("x")
        parents = store._mine().connection

        def in_child() -> None:
            store.get("x")
            sys.exit(3 if store._mine().connection is parents else 0)

        child = multiprocessing.get_context("fork").Process(target=in_child)
        child.start()
        child.join(30)
        assert child.exitcode == 0
        store.close()

    def test_processes_that_open_a_new_file_at_the_same_time_all_can(self, tmp_path):
        url = f"sqlite:///{tmp_path}/a.db"
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(4)
        children = [context.Process(target=put_many, args=(url, barrier, n)) for n in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        assert [child.exitcode for child in children] == [0] * 4
        store = open_store(url)
        assert all(store.get(f"{n}-{k}") is not None for n in range(4) for k in range(50))
        store.close()


def put_many(url, barrier, number):
    store = open_store(url)
    barrier.wait(30)
    for k in range(50):
        store.put(a_record(id=f"{number}-{k}"), expires=60)
    store.close()


class TestRedis:
    def test_a_password_is_never_shown(self):
        store = open_store("redis://me:secret@127.0.0.1:1/0")
        assert str(store) == "redis://me:***@127.0.0.1:1/0"
        with pytest.raises(StoreUnavailable) as raised:
            store.get("x")
        assert "secret" not in str(raised.value)

    def test_a_url_that_can_t_be_read_is_refused_without_its_password(self):
        with pytest.raises(ConfigurationError, match="is not a Redis URL") as raised:
            open_store("redis://me:secret@host:port/0")
        assert "secret" not in str(raised.value)
        assert raised.value.__cause__ is None

    def test_without_its_package_it_says_how_to_get_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "redis", None)
        with pytest.raises(ConfigurationError, match=r"pip install 'amqp-rpc\[redis\]'"):
            open_store("redis://localhost")

    def test_one_that_is_away_is_unavailable_and_used_again_when_it_is_back(self, redis_server: RedisServer):
        store = open_store(redis_server.url)
        record = a_record()
        store.put(record, expires=60)
        redis_server.kill()
        with pytest.raises(StoreUnavailable, match=f"{redis_server.port}/0' can't be used"):
            store.put(record, expires=60)
        redis_server.start()
        # It kept nothing on disk.
        assert store.get(record.id) is None
        store.put(record, expires=60)
        assert store.get(record.id) == record
        store.close()

    def test_its_keys_have_a_name_and_an_end(self, redis_url):
        import redis

        store, record = open_store(redis_url), a_record()
        store.put(record, expires=60)
        with redis.Redis.from_url(redis_url) as there:
            assert 0 < there.ttl(f"amqp_rpc:task:{record.id}") <= 60
            there.set("amqp_rpc:task:odd", b"\xc1")
            there.hset("amqp_rpc:task:bytes", mapping={"first": "f", "f": b"\xc1"})
        with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
            store.get("odd")
        with pytest.raises(Undecodable, match="no record of a task"):
            store.get("bytes")
        store.close()


def test_no_url_is_no_store(monkeypatch):
    monkeypatch.delenv("AMQP_RPC_RESULTS", raising=False)
    assert open_store(results_url()) is None
    assert open_store(results_url("")) is None


def test_the_argument_comes_before_the_environment(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("AMQP_RPC_RESULTS", "sqlite:///e.db")
    monkeypatch.setenv("AMQP_RPC_RESULT_EXPIRES", "12.5")
    assert (results_url(), results_url("redis://a"), results_url("")) == ("sqlite:///e.db", "redis://a", None)
    assert (result_seconds(), result_seconds(3.0)) == (12.5, 3.0)


@pytest.mark.parametrize("expires", [0, -1, True, "60", float("inf")])
def test_a_time_that_makes_no_sense_is_refused(expires):
    with pytest.raises(ConfigurationError, match="result_expires must be a number"):
        result_seconds(expires)


def test_a_variable_that_is_no_number_is_named(monkeypatch):
    monkeypatch.setenv("AMQP_RPC_RESULT_EXPIRES", "a day")
    with pytest.raises(ConfigurationError, match="AMQP_RPC_RESULT_EXPIRES is a number of seconds, not 'a day'"):
        result_seconds()


@pytest.mark.parametrize("url", ["mysql://me:secret@host/x", "results.db", "memcached://"])
def test_another_url_is_refused_with_what_would_be_right(url):
    with pytest.raises(
        ConfigurationError, match=r"names no store of results: sqlite:///results.db .* redis://"
    ) as raised:
        open_store(url)
    assert "secret" not in str(raised.value)


def test_what_is_no_text_is_refused():
    with pytest.raises(ConfigurationError, match="results is a store's URL"):
        results_url(5)  # type: ignore[arg-type]


def test_a_time_is_kept_exactly():
    record = a_record(updated=time.time())
    assert Record.decode(record.encode()) == record


#: What another program may have written: values of a field, or something else.
NO_RECORDS = {
    "a number": b"\x01",
    "a list of one": b"\x91\x01",
    "a map": b"\x81\xa2id\x01",
    "no msgpack": b"\xc1",
    "a list of text": codec.encode(["i"] * 13, codec.MSGPACK, limit=1000),
    "one field more": codec.encode([*astuple(a_record()), 1], codec.MSGPACK, limit=1000),
}
WRONG_FIELDS: list[tuple[str, object]] = [
    ("id", 5), ("fingerprint", None), ("state", "WHAT"), ("state", ["SUCCESS"]), ("state", None), ("function", b"f"),
    ("queue", 1.5), ("attempt", "1"), ("attempt", True), ("updated", "x"), ("updated", None), ("started", "y"),
    ("next_try", {}), ("error", {}), ("kind", ["result"]), ("kind", "verdict"), ("content_type", b"\xff"),
    ("body", "b"),
]  # fmt: skip


@pytest.mark.parametrize("what", NO_RECORDS)
def test_what_is_no_record_is_undecodable(what: str) -> None:
    with pytest.raises(Undecodable, match="no record of a task"):
        Record.decode(NO_RECORDS[what])


@pytest.mark.parametrize(("name", "value"), WRONG_FIELDS)
def test_a_record_with_a_field_of_another_type_is_undecodable(name: str, value: object) -> None:
    values = [*astuple(a_record())]
    values[[field.name for field in fields(Record)].index(name)] = value
    with pytest.raises(Undecodable, match=f"no record of a task: its {name} is "):
        Record.decode(codec.encode(values, codec.MSGPACK, limit=1000))


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_store_in_which_another_program_has_written_says_so(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/results.db" if kind == "sqlite" else request.getfixturevalue("redis_url"))
    assert store is not None
    store.put(record := a_record(), expires=60)
    if kind == "sqlite":
        with contextlib.closing(sqlite3.connect(tmp_path / "results.db", isolation_level=None)) as there:
            there.execute("UPDATE tasks SET state = 'WHAT', started = 'x'")
    else:
        odd = replace(record, state="WHAT").encode()
        redis.Redis.from_url(request.getfixturevalue("redis_url")).hset(
            f"amqp_rpc:task:{record.id}", record.fingerprint, odd
        )
    for key in ((record.id,), record.key):
        with pytest.raises(Undecodable, match="its state is 'WHAT'"):
            store.get(*key)
    # The next record takes its place.
    store.put(record, expires=60)
    assert store.get(record.id) == record
    store.close()


def test_a_record_under_another_id_is_none_of_that_task(redis_url: str) -> None:
    store, record = open_store(redis_url), a_record()
    assert store is not None
    redis.Redis.from_url(redis_url).hset("amqp_rpc:task:another", mapping={"first": "f", "f": record.encode()})
    with pytest.raises(Undecodable, match="no record of task 'another'"):
        store.get("another")
    store.close()


PARTS: tuple[str, str, str, bytes] = ("queue", "function", "application/msgpack", b"body")


@pytest.mark.parametrize("at", range(4))
def test_a_fingerprint_is_of_the_queue_the_function_the_type_and_the_body(at: int) -> None:
    other = [*PARTS]
    other[at] = PARTS[at] + PARTS[at][:1]
    assert fingerprint(*PARTS) == fingerprint(*PARTS)
    assert fingerprint(*other) != fingerprint(*PARTS)
    # What one part ends with is not what the next one begins with.
    assert fingerprint("ab", "c", None, b"") != fingerprint("a", "bc", None, b"")


@pytest.mark.parametrize(
    ("identity", "ours"),
    [
        ("0123456789abcdef" * 2, True),
        ("7", False),
        ("", False),
        (None, False),
        (b"0123456789abcdef" * 2, False),
        ("0123456789ABCDEF" * 2, False),
        ("0123456789abcdef" * 2 + "\n", False),
        ("01234567-89ab-cdef-0123-456789abcdef", False),
        ("٠" * 32, False),
    ],
)
def test_an_id_of_ours_has_one_form(identity: object, ours: bool) -> None:
    assert is_ours(identity) is ours


def test_ids_of_schedules_and_of_letters_that_had_none_have_it() -> None:
    assert is_ours(tick_id("images.clean", 5))
    assert is_ours(replayed(Properties(), b"", queue="q", now=0.0).properties.message_id)


class Switch:
    """An address that leads new connections to one of two servers, as a proxy does; open ones stay where they are."""

    def __init__(self, port: int) -> None:
        self.leads_to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._copies: list[threading.Thread] = []
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        # Closing alone would not wake the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join(20)
        for copy in self._copies:
            copy.join(20)
        for each in (self._listener, *self._open):
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.leads_to))
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    self._copies.append(threading.Thread(target=self._copy, args=pair, daemon=True))
                    self._copies[-1].start()

    @staticmethod
    def _copy(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def test_a_node_that_is_no_master_any_more_is_left_and_nothing_is_lost(redis_server: RedisServer) -> None:
    """As managed Redis fails over: the address leads to the new master, and the old one's connections stay open."""
    with RedisServer() as master:
        switch = Switch(redis_server.port)
        store = open_store(switch.url)
        assert store is not None
        try:
            store.put(a_record(), expires=60)
            redis.Redis(port=redis_server.port).replicaof("127.0.0.1", str(master.port))
            switch.leads_to = master.port
            record = a_record()
            store.put(record, expires=60)
            assert store.get(record.id) == record
        finally:
            store.close()
            switch.close()


def test_a_replica_is_unavailable_and_its_connections_are_dropped(redis_server: RedisServer) -> None:
    redis.Redis(port=redis_server.port).replicaof("127.0.0.1", "1")
    store = open_store(redis_server.url)
    assert store is not None
    with pytest.raises(StoreUnavailable, match=r"read only replica$"):
        store.put(a_record(), expires=60)
    redis.Redis(port=redis_server.port).replicaof("NO", "ONE")
    store.put(a_record(), expires=60)
    store.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("?health_check=30", "health_check"),
        ("?decode_responses=True", "decode_responses"),
        ("?socket_timeout=soon", "URL"),
    ],
)
def test_a_wrong_option_of_redis_is_refused_at_once(options: str, said: str) -> None:
    pytest.importorskip("redis")
    with pytest.raises(ConfigurationError, match=said) as refused:
        open_store(f"redis://me:secret@localhost/0{options}")
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_right_option_of_redis_is_taken(redis_url: str) -> None:
    store = open_store(f"{redis_url}?health_check_interval=30&client_name=me")
    assert store is not None
    store.put(record := a_record(), expires=60)
    assert store.get(record.id) == record
    store.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@pytest.mark.parametrize(
    "error", [TypeError("odd"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), OSError("gone")]
)
def test_whatever_its_package_raises_it_is_unavailable(
    kind: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    store = open_store(f"sqlite:///{tmp_path}/results.db" if kind == "sqlite" else request.getfixturevalue("redis_url"))
    assert store is not None

    def fail(*_args: object, **_kwargs: object) -> None:
        raise error

    if kind == "sqlite":
        monkeypatch.setattr(sqlite3, "connect", fail)
    else:
        monkeypatch.setattr(redis.ConnectionPool, "get_connection", fail)
    for use in (lambda: store.put(a_record(), expires=60), lambda: store.get("1")):
        with pytest.raises(StoreUnavailable, match="the store of results") as unavailable:
            use()
        assert unavailable.value.may_have_run


def test_threads_that_wait_for_a_locked_file_do_so_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amqp_rpc.results.sqlite._BUSY_TIMEOUT", 0.5)
    store = open_store(f"sqlite:///{tmp_path}/results.db")
    assert store is not None
    store.put(a_record(), expires=60)
    other = sqlite3.connect(tmp_path / "results.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    store.close()
    began = time.monotonic()

    def put(_number: int) -> str:
        with pytest.raises(StoreUnavailable) as locked:
            store.put(a_record(), expires=60)
        return str(locked.value)

    with ThreadPoolExecutor(20) as pool:
        said = set(pool.map(put, range(20)))
    # One after another would take ten seconds.
    assert time.monotonic() - began < 5
    assert len(said) == 1
    assert "locked" in said.pop()
    other.execute("ROLLBACK")
    store.put(a_record(), expires=60)
    store.close()
    other.close()
