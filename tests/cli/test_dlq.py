"""`amqp-rpc dlq` as a user meets it: a table, JSON, a question before what destroys, and one line for what is wrong."""

from __future__ import annotations

import json
import math
import os
import pty
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from queue import Empty
from typing import Any

import click
import msgpack
import pika
import pytest

from amqp_rpc import Client, DeadLetter, Event, Server, Service
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.options import Time
from amqp_rpc.cli.output import columns
from amqp_rpc.message import codec
from amqp_rpc.message.topology import dead_letter_arguments, task_arguments
from tests.programs import ROOT, run
from tests.waiting import until

HOUR = timedelta(hours=1)


class Letters:
    """A queue with dead letters in it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.queue = f"t{secrets.token_hex(4)}"
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._channel.queue_declare(self.queue, durable=True, arguments={"x-queue-type": "quorum"})
        dead = dead_letter_arguments(task_arguments("quorum"))
        self._channel.queue_declare(f"{self.queue}.dead", durable=True, arguments=dead)
        until(lambda: self.count(".dead") == 0)
        self._channel.confirm_delivery()

    def put(self, identity: str | None, *, function: str = "resize", ago: timedelta = HOUR, **headers: Any) -> None:
        died = int((datetime.now(UTC) - ago).timestamp() * 1000)
        properties = pika.BasicProperties(
            type=function,
            message_id=identity,
            content_type="application/json",
            headers={"reason": "ValueError: no", "queue": self.queue, "died": died, "attempt": 6, **headers},
        )
        self._channel.basic_publish("", f"{self.queue}.dead", b'[["a.png"], {"size": 3}]', properties)

    def put_body(self, identity: str, body: bytes, content_type: str = "application/msgpack") -> None:
        properties = pika.BasicProperties(type="resize", message_id=identity, content_type=content_type)
        self._channel.basic_publish("", f"{self.queue}.dead", body, properties)

    def put_many(self, count: int) -> None:
        channel = self._connection.channel()
        for number in range(count):
            properties = pika.BasicProperties(type="resize", message_id=str(number), content_type="application/json")
            channel.basic_publish("", f"{self.queue}.dead", b"[[], {}]", properties)
        until(lambda: self.count(".dead") == count)

    def count(self, suffix: str = "") -> int:
        return int(self._channel.queue_declare(self.queue + suffix, passive=True).method.message_count)

    def dlq(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run("dlq", command, self.queue, *arguments, url=self.url)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def topic() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def letters(url: str) -> Iterator[Letters]:
    made = Letters(url)
    yield made
    made.close()


def test_dead_letters_are_a_table_and_json_lines(letters: Letters) -> None:
    letters.put("aa-1", ago=2 * HOUR)
    letters.put("bb-2", function="shrink", attempt=1, reason="rejected: a\nb", traceback="Traceback\n  here\n")
    done = letters.dlq("list")
    title, first, second = done.stdout.splitlines()
    assert title.split() == ["ID", "FUNCTION", "DIED", "ATTEMPT", "REASON"]
    assert (first.split()[:2], first.split()[-3:]) == (["aa-1", "resize"], ["6", "ValueError:", "no"])
    assert second.endswith("rejected: a b")
    assert (done.returncode, done.stderr) == (Exit.OK, f"2 dead letters of {letters.queue}\n")
    lines = [json.loads(line) for line in letters.dlq("list", "--json").stdout.splitlines()]
    assert [line["id"] for line in lines] == ["aa-1", "bb-2"]
    assert (lines[1]["traceback"], lines[1]["arguments"]) == ("Traceback\n  here\n", [["a.png"], {"size": 3}])
    assert json.loads(letters.dlq("show", "aa", "--json").stdout)["arguments"] == [["a.png"], {"size": 3}]
    assert datetime.fromisoformat(lines[0]["died"]) < datetime.now(UTC) - HOUR
    # With .dead, it is the same.
    assert run("dlq", "list", f"{letters.queue}.dead", url=letters.url).stdout == done.stdout


def test_a_dead_event_has_its_topic_and_is_replayed_under_it(url: str, topic: str) -> None:
    service, got = Service(f"s{topic}"), []

    @service.subscribe(f"{topic}.#", retries=0)
    def take(word: str, event: Event) -> None:
        got.append((event.topic, word))
        if len(got) < 3:
            raise ValueError(word)

    queue = f"events.{service.name}.take"
    with Client(url) as client, Server(service, url=url):
        for word in ("a", "b"):
            client.publish(f"{topic}.{word}", word, mandatory=True)
        until(lambda: len(client.dead_letters(queue).list()) == 2)
        letters = client.dead_letters(queue).list()
        assert sorted((letter.topic, letter.function) for letter in letters) == [(f"{topic}.{w}", None) for w in "ab"]
        title, *rows = run("dlq", "list", queue, url=url).stdout.splitlines()
        assert title.split() == ["ID", "TOPIC", "DIED", "ATTEMPT", "REASON"]
        assert sorted(row.split()[1] for row in rows) == [f"{topic}.a", f"{topic}.b"]
        identity = next(letter.id for letter in letters if letter.topic == f"{topic}.a")
        assert identity is not None
        assert f"\ntopic      {topic}.a\n" in run("dlq", "show", queue, identity, url=url).stdout
        assert run("dlq", "replay", queue, identity, url=url).stdout == f"{identity}\n"
        until(lambda: len(got) == 3)
        assert got[-1] == (f"{topic}.a", "a")


def test_an_item_that_could_not_be_read_is_a_dead_letter_and_can_be_put_back(url: str, topic: str) -> None:
    with Client(url) as client, client.queue(topic) as items:
        # AMQP's default exchange hands it to the queue of that name; no consumer can read it.
        with pytest.raises(Empty):
            items.get_nowait()
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            properties = pika.BasicProperties(content_type="image/png", message_id="theirs")
            connection.channel().basic_publish("", topic, b"x", properties)

        def letters() -> list[DeadLetter]:
            with pytest.raises(Empty):
                items.get(timeout=0.5)
            return client.dead_letters(topic).list()

        (letter,) = until(letters)
        assert letter.id is not None
        done = run("dlq", "replay", topic, letter.id, url=url)
        assert (done.stdout, done.stderr) == (f"{letter.id}\n", f"replayed 1 dead letter of {topic}\n")
        until(lambda: [len(each.history) for each in letters()] == [1])


def test_filters_and_a_limit_choose(letters: Letters) -> None:
    for number in range(3):
        letters.put(f"{number}-x", ago=number * HOUR, function=f"f{number}")

    def listed(*arguments: str) -> list[str]:
        return [json.loads(line)["id"] for line in letters.dlq("list", "--json", *arguments).stdout.splitlines()]

    assert listed("--before", "90m") == ["2-x"]
    assert listed("--after", "90m") == ["1-x", "0-x"]
    assert listed("--after", (datetime.now(UTC) - HOUR / 2).isoformat()) == ["0-x"]
    assert listed("--function", "f1") == ["1-x"]
    assert len(listed("--limit", "2")) == 2
    assert len(listed("--limit", "0")) == 3
    assert "there may be more" in letters.dlq("list", "--limit", "2").stderr
    done = letters.dlq("list", "--function", "nope")
    assert (done.returncode, done.stdout, done.stderr) == (
        Exit.OK, "", f"{letters.queue} has no dead letter that fits\n"
    )  # fmt: skip


def test_one_letter_is_shown_whole_by_the_beginning_of_its_id(letters: Letters) -> None:
    letters.put("aa-1", traceback="Traceback\n  here", history='[{"died": 5, "reason": "first", "attempt": 3}]')
    letters.put("ab-2")
    done = letters.dlq("show", "aa")
    for words in ("aa-1", "'a.png', size=3", "ValueError: no", "24 bytes", "attempt 3: first", "  Traceback\n    here"):
        assert words in done.stdout
    assert done.returncode == Exit.OK
    assert json.loads(letters.dlq("show", "b-2", "--json").stdout)["id"] == "ab-2"
    for part, message in (("a", "2 dead letters have ids like 'a'"), ("x", "no dead letter has id 'x'")):
        done = letters.dlq("show", part)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (Exit.NO_DEAD_LETTER, "", 1)
        assert message in done.stderr


def test_a_replay_prints_the_ids_and_puts_the_tasks_back(letters: Letters) -> None:
    for number in range(4):
        letters.put(f"{number}-x", function="shrink" if number == 3 else "resize")
    done = letters.dlq("replay", "1", "2-x")
    assert (done.returncode, done.stdout.split()) == (Exit.OK, ["1-x", "2-x"])
    assert done.stderr == f"replayed 2 dead letters of {letters.queue}\n"
    assert letters.dlq("replay", "--function", "shrink").stdout == "3-x\n"
    assert letters.dlq("replay", "--all").stdout == "0-x\n"
    assert until(lambda: letters.count() == 4)
    assert letters.dlq("list").stderr == f"{letters.queue} has no dead letter\n"


def test_any_well_formed_letter_can_be_listed_shown_and_put_back(letters: Letters) -> None:
    # An integer of more digits than Python writes, the last day that there is, a map for a key, NaN.
    for number, value in enumerate([10**5000, [10**5000], datetime.max.replace(tzinfo=UTC), {(1, 2): 3}, math.nan]):
        letters.put_body(f"{number}-x", codec.encode([[value], {}], codec.MSGPACK, limit=10_000))
    letters.put_body("5-x", b"[" * 500 + b"]" * 500, "application/json")
    letters.put_body("6-x", b"[[" + b"9" * 5000 + b"], {}]", "application/json")
    letters.put_body("7-x", b"\xff\x00 no text", "text/plain")
    letters.put("8-x", died=253402300799000, reason=["x"], history="[" * 500)
    # Elements of a set whose hashes are one: nobody reads those.
    colliding = [msgpack.ExtType(5, (k * (2**61 - 1)).to_bytes(16, "big")) for k in range(2000)]
    letters.put_body("9-x", msgpack.packb([[msgpack.ExtType(6, msgpack.packb(colliding))], {}]))
    done = letters.dlq("list")
    assert (done.returncode, len(done.stdout.splitlines())) == (Exit.OK, 11)
    lines = [json.loads(line) for line in letters.dlq("list", "--json").stdout.splitlines()]
    assert sorted(line["id"] for line in lines) == [f"{number}-x" for number in range(10)]
    for number in range(10):
        shown = letters.dlq("show", str(number))
        assert (shown.returncode, shown.stdout.splitlines()[0].split()) == (Exit.OK, ["id", f"{number}-x"])
    assert letters.dlq("replay", "--all").returncode == Exit.OK
    assert until(lambda: letters.count() == 10)


def test_what_a_stranger_wrote_can_t_control_the_terminal_or_look_like_another_line(letters: Letters) -> None:
    evil = "x]\nid         other\x1b]0;owned\x07\x1b[2J\x9b31m"
    letters.put(evil, function=evil, reason=evil, traceback=f"{evil}\n{evil}", history=json.dumps([{"reason": evil}]))
    for arguments in (["list"], ["list", "--json"], ["show", "x]"], ["show", "x]", "--json"], ["show", "nope\x1b"]):
        done = letters.dlq(*arguments)
        assert all(line.isprintable() for line in (done.stdout + done.stderr).splitlines()), arguments
    assert len([line for line in letters.dlq("show", "x]").stdout.splitlines() if line.startswith("id ")]) == 1
    assert json.loads(letters.dlq("list", "--json").stdout)["id"] == evil
    done = letters.dlq("replay", "--all")
    assert (done.returncode, len(done.stdout.splitlines())) == (Exit.OK, 1)
    assert done.stdout.rstrip("\n").isprintable()


def test_a_letter_that_names_another_queue_is_shown_so_and_goes_there_only_after_a_yes(letters: Letters) -> None:
    other = Letters(letters.url)
    letters.put("aa-1")
    letters.put("bb-2", queue=other.queue)
    title, *rows = letters.dlq("list").stdout.splitlines()
    assert title.split() == ["ID", "FUNCTION", "QUEUE", "DIED", "ATTEMPT", "REASON"]
    assert [row.split()[2] for row in rows] == [letters.queue, other.queue]
    assert (
        f"{other.queue} (another queue than {letters.queue}: a replay needs --to)" in letters.dlq("show", "bb").stdout
    )

    # Without a terminal: the first is replayed, the other stays.
    done = letters.dlq("replay", "--all")
    assert (done.returncode, done.stdout) == (Exit.NOT_CONFIRMED, "aa-1\n")
    said = f"1 dead letter of {letters.queue} names another queue: '{other.queue}' (1). Replay it there? There is no"
    assert done.stderr.splitlines()[0] == f"replayed 1 dead letter of {letters.queue}"
    assert f"amqp-rpc: {said} terminal to ask: give --to QUEUE" in done.stderr
    assert until(lambda: (letters.count(), letters.count(".dead")) == (1, 1))
    assert answered(letters, "n", "replay", letters.queue, "bb-2") == Exit.NOT_CONFIRMED
    assert until(lambda: (other.count(), letters.count(".dead")) == (0, 1))
    assert answered(letters, "y", "replay", letters.queue, "--all") == Exit.OK
    assert until(lambda: (other.count(), letters.count(".dead")) == (1, 0))

    # Or where it is to go is said: here, or there.
    for number, (named, there) in enumerate(((letters, other), (other, letters))):
        letters.put(f"{number}-x", queue=other.queue)
        before = named.count(), there.count()
        done = letters.dlq("replay", f"{number}-x", "--to", named.queue)
        assert (done.returncode, done.stdout) == (Exit.OK, f"{number}-x\n")
        assert until(lambda n=named, t=there, b=before: (n.count(), t.count()) == (b[0] + 1, b[1]))  # type: ignore[misc] # bound now
    other.close()


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_time_that_is_over_has_its_own_code_and_says_what_was_done(letters: Letters, command: str) -> None:
    letters.put_many(10_000)
    done = letters.dlq(command, "--all", "--timeout", "0.3", *(["--yes"] if command == "drop" else []))
    ids = done.stdout.split()
    assert (done.returncode, len(done.stderr.splitlines())) == (Exit.TIMEOUT, 1)
    assert f"amqp-rpc: {len(ids)} of 10000 dead letters were {command}" in done.stderr
    assert "within 0.3 s" in done.stderr
    assert "--timeout" in done.stderr
    assert "timeout=" not in done.stderr
    until(lambda: letters.count(".dead") == 10_000 - len(ids))
    if command == "replay":
        until(lambda: letters.count() == len(ids))


def test_ctrl_c_finishes_what_is_under_way_and_says_what_was_done(letters: Letters) -> None:
    letters.put_many(3000)
    command = [sys.executable, "-m", "amqp_rpc", "dlq", "replay", letters.queue, "--all"]
    with subprocess.Popen(
        command, env={**os.environ, "AMQP_URL": letters.url}, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as program:  # fmt: skip
        assert program.stdout is not None
        assert program.stderr is not None
        # The ids come while it works.
        first = program.stdout.readline()
        program.send_signal(signal.SIGINT)
        ids = [first.strip(), *program.stdout.read().split()]
        said = program.stderr.read()
        assert program.wait(30) == Exit.INTERRUPTED
    assert said == (
        f"amqp-rpc: interrupted: {len(ids)} of 3000 dead letters of {letters.queue} were replayed; the others stay as "
        "they are\n"
    )
    until(lambda: letters.count() == len(ids))
    until(lambda: letters.count(".dead") == 3000 - len(ids))


def test_a_reader_that_has_gone_ends_the_work_quietly(letters: Letters) -> None:
    letters.put_many(3000)
    command = f"{sys.executable} -m amqp_rpc dlq replay {letters.queue} --all | head -1"
    done = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "AMQP_URL": letters.url}, cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")
    until(lambda: letters.count() + letters.count(".dead") == 3000)


def test_nothing_is_dropped_without_confirmation(letters: Letters) -> None:
    letters.put("aa-1")
    letters.put("bb-2")
    refused = letters.dlq("drop", "--all")
    assert (refused.returncode, refused.stdout) == (Exit.NOT_CONFIRMED, "")
    assert f"Drop 2 dead letters of {letters.queue} for good? There is no terminal to ask: give --yes" in refused.stderr
    assert until(lambda: letters.count(".dead") == 2)
    done = letters.dlq("drop", "--all", "--yes")
    assert (done.returncode, done.stdout.split()) == (Exit.OK, ["aa-1", "bb-2"])
    assert done.stderr == f"dropped 2 dead letters of {letters.queue}\n"
    assert until(lambda: letters.count(".dead") == 0)
    # Nothing to ask about.
    assert letters.dlq("drop", "--all").returncode == Exit.OK


def test_at_a_terminal_drop_asks_for_confirmation(letters: Letters) -> None:
    letters.put("aa-1")
    letters.put("bb-2")
    assert answered(letters, "n", "drop", letters.queue, "--all") == Exit.NOT_CONFIRMED
    assert until(lambda: letters.count(".dead") == 2)
    assert answered(letters, "y", "drop", letters.queue, "aa") == Exit.OK
    assert until(lambda: letters.count(".dead") == 1)


def test_what_was_typed_before_the_question_is_no_answer_to_it(letters: Letters) -> None:
    letters.put("aa-1")
    assert answered(letters, "n", "drop", letters.queue, "--all", before="y") == Exit.NOT_CONFIRMED
    assert until(lambda: letters.count(".dead") == 1)


def answered(letters: Letters, answer: str, *arguments: str, before: str = "") -> int:
    """Run `amqp-rpc dlq` at a terminal, type something, answer its question, and return its exit code."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal can be had here: {error}")
    command = [sys.executable, "-m", "amqp_rpc", "dlq", *arguments]
    environment = {**os.environ, "AMQP_URL": letters.url}
    program = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=ROOT)
    os.close(theirs)
    if before:
        os.write(ours, f"{before}\n".encode())
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 1000)
    os.write(ours, f"{answer}\n".encode())
    code = program.wait(30)
    os.close(ours)
    return code


@pytest.mark.parametrize("command", ["replay", "drop"])
def test_a_selection_or_all_is_required(letters: Letters, command: str) -> None:
    for arguments in ((), ("--all", "x"), ("--all", "--after", "1h")):
        done = letters.dlq(command, *arguments)
        assert (done.returncode, done.stdout) == (Exit.USAGE, "")
        assert "say which: IDs, --function, --before or --after; or --all" in done.stderr


def test_a_failure_is_one_line_with_an_exit_code_of_its_own(letters: Letters, url: str) -> None:
    done = run("dlq", "list", "no-such-queue", url=url)
    assert (done.returncode, done.stdout) == (Exit.NO_SERVER, "")
    assert done.stderr == "amqp-rpc: there is no queue 'no-such-queue', and no dead letter of it\n"
    done = letters.dlq("list", "--after", "yesterday")
    assert done.returncode == Exit.USAGE
    assert "'yesterday' is not a time in ISO 8601" in done.stderr
    letters.put("aa-1")
    with Client(url) as client:
        assert client.queue_states([letters.queue])[letters.queue] is not None
    letters._channel.queue_delete(letters.queue)
    done = letters.dlq("replay", "--all")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (Exit.REFUSED, "", 1)
    assert "0 of 1 dead letters were replayed" in done.stderr
    assert letters.dlq("list").stderr == f"1 dead letter of {letters.queue}\n"


def test_columns_are_as_wide_as_they_need_and_the_last_one_is_cut() -> None:
    rows = [["a", 10, "x" * 50], ["bbbb", "-", "y\nz"]]
    assert columns(["NAME", "N", "WHY"], rows, width=30).splitlines() == [
        "NAME   N  WHY",
        f"a     10  {'x' * 19}…",
        "bbbb   -  y z",
    ]
    assert columns(["NAME"], []) == "NAME"
    # The widest are cut next.
    cut = columns(["ID", "N", "WHY"], [["i" * 40, 1, "x" * 50]], width=40).splitlines()[1]
    assert cut == f"{'i' * 16}…  1  {'x' * 17}…"


def test_times_are_iso_8601_or_ages() -> None:
    assert Time(ago=True).convert("2026-01-31T12:00+00:00", None, None) == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert Time(ago=False).convert("2026-01-31T12:00", None, None).tzinfo is not None
    for text in ("90m", "1.5h", "5400s ago"):
        assert abs(datetime.now(UTC) - 1.5 * HOUR - Time(ago=True).convert(text, None, None)) < timedelta(minutes=1)
    with pytest.raises(click.BadParameter, match="not a time"):
        Time(ago=False).convert("90m", None, None)


@pytest.mark.parametrize("text", ["99999999999d", "1000000w ago", "9" * 400 + "s"])
def test_an_age_of_more_years_than_a_calendar_has_is_a_wrong_option(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a time in ISO 8601"):
        Time(ago=True).convert(text, None, None)
